"""Several deltas of one layout vote, from outside."""

import collections
import json
import os
import unittest

from tests.harness import jobs, tiny

PROMPT = [{"method": "prompt_tuning", "length": 3, "init": "normal"}]


class Ensemble(unittest.TestCase):
    @classmethod
    def train(cls, name, **sections):
        folder = tiny.fresh_output(f"ensemble-{name}")
        config = tiny.config(f"ensemble-{name}", folder, **sections)
        result = jobs.run(["train", config])
        assert result.status == 0, result.err
        return folder

    @classmethod
    def setUpClass(cls):
        cls.prompts = [
            cls.train(f"prompt-{seed}", peft=PROMPT,
                      train={"steps": 60, "lr": 2e-2, "eval_every": 60,
                             "seed": seed})
            for seed in (1, 2, 3)]
        cls.config = os.path.join(cls.prompts[0], "config.yaml")

    def ok(self, *arguments, ranks=None):
        result = jobs.run(arguments, ranks)
        self.assertEqual(result.status, 0, result.err)
        return result.out

    def predict(self, config, deltas, *more, ranks=None):
        given = [a for d in deltas for a in ("--delta", d)]
        out = self.ok("predict", config, *given, *more, ranks=ranks)
        return [json.loads(line) for line in out.splitlines()]

    def eval(self, config, deltas, *more, ranks=None):
        given = [a for d in deltas for a in ("--delta", d)]
        return json.loads(self.ok("eval", config, "--json", *given, *more,
                                  ranks=ranks))

    def refusal(self, *arguments):
        result = jobs.run(arguments)
        self.assertEqual(result.status, 2, result.err)
        self.assertEqual(len(result.errors), 1, result.err)
        return result.errors[0]

    def test_the_vote_is_over_what_each_delta_predicts(self):
        members = [self.predict(self.config, [p]) for p in self.prompts]
        votes = self.predict(self.config, self.prompts)
        self.assertEqual(len(votes), 90)
        for i, line in enumerate(votes):
            own = [member[i] for member in members]
            count = collections.Counter(m["label"] for m in own)
            sums = [sum(m["scores"][c] for m in own) for c in range(3)]
            best = max(count, key=lambda c: (count[c], sums[c]))
            self.assertEqual((line["label"], line["votes"]),
                             (best, count[best]))
            self.assertEqual(line["name"], str(best))
            for c in range(3):
                self.assertAlmostEqual(line["scores"][c], sums[c] / 3,
                                       places=6)
        labels = [[line["label"] for line in lines]
                  for lines in (votes, *members)]
        self.assertTrue(any(labels[0] != own for own in labels[1:]))
        self.assertNotIn("votes", members[0][0])
        self.assertEqual(votes, self.predict(self.config, self.prompts,
                                             ranks=2))

    def test_metrics_are_of_the_vote_and_of_each(self):
        out = self.eval(self.config, self.prompts, ranks=2)
        table = os.path.join(tiny.folder(), "classify-eval.tsv")
        with open(table, encoding="utf-8") as f:
            labels = [int(row.split("\t")[1]) for row in f.readlines()[1:]]
        right = sum(line["label"] == label for line, label in
                    zip(self.predict(self.config, self.prompts), labels))
        self.assertAlmostEqual(out["metrics"]["accuracy"], right / 90)
        self.assertEqual(len(out["members"]), 3)
        for member, prompt in zip(out["members"], self.prompts):
            self.assertTrue(member["delta"].startswith(prompt))
            alone = self.eval(self.config, [prompt])
            self.assertEqual(member["metrics"], alone["metrics"])
            self.assertEqual(member["delta"], alone["delta"])
        self.assertAlmostEqual(
            out["metrics"]["loss"],
            sum(m["metrics"]["loss"] for m in out["members"]) / 3)
        text = self.ok("eval", self.config, "--delta", self.prompts[0],
                       "--delta", self.prompts[1])
        self.assertIn("vote of 2 deltas on ", text)
        self.assertEqual(text.count("accuracy"), 3)

    def test_texts_vote(self):
        folders = [
            self.train(f"text-{seed}", peft=PROMPT,
                       train={"steps": 30, "lr": 0.3, "eval_every": 30,
                              "seed": seed}, **tiny.t5_sections())
            for seed in (1, 2, 3)]
        config = os.path.join(folders[0], "config.yaml")
        members = [self.predict(config, [f]) for f in folders]
        votes = self.predict(config, folders)
        seen = set()
        for i, line in enumerate(votes):
            own = [member[i] for member in members]
            texts = collections.defaultdict(list)
            for m in own:
                texts[tuple(m["tokens"])].append(m["score"])
            best = max(texts, key=lambda t: (len(texts[t]), sum(texts[t])))
            self.assertEqual((tuple(line["tokens"]), line["votes"]),
                             (best, len(texts[best])))
            self.assertAlmostEqual(line["score"],
                                   sum(texts[best]) / len(texts[best]))
            seen.add(line["votes"])
        self.assertGreater(len(seen), 1)
        out = self.eval(config, folders, "task.metrics=[squad]", ranks=2)
        self.assertEqual(set(out["metrics"]), {"exact_match", "f1", "loss"})

    def test_what_cannot_vote_is_one_clear_line(self):
        lora = self.train("lora", train={"steps": 2, "eval_every": 0})
        first = ["--delta", self.prompts[0]]
        self.assertIn("was made by lora, the peft of",
                      self.refusal("eval", self.config, *first, "--delta",
                                   lora))
        longer = self.train("longer", train={"steps": 2, "eval_every": 0},
                            peft=[{**PROMPT[0], "length": 4}])
        err = self.refusal("predict", self.config, *first, "--delta", longer)
        self.assertIn("have different layouts: ", err)
        self.assertIn("is [3, 32] and [4, 32]", err)
        other = self.train("other", train={"steps": 2, "eval_every": 0},
                           peft=PROMPT, **{
                               "model": {"config": os.path.join(
                                   tiny.bert(), "config.json"), "seed": 9}})
        self.assertIn("was made for backbone ",
                      self.refusal("eval", self.config, *first, "--delta",
                                   other))
        model = self.train("lm", train={"steps": 2, "eval_every": 0},
                           **tiny.gpt2_sections())
        config = os.path.join(model, "config.yaml")
        self.assertIn("task.kind: lm gives losses, not answers to vote on",
                      self.refusal("eval", config, "--delta", model,
                                   "--delta", model))

    def test_help_says_that_deltas_may_be_several(self):
        for verb in ("eval", "predict"):
            text = self.ok(verb, "--help")
            self.assertIn("several vote", text)
            self.assertIn("--delta runs/p2", text)


if __name__ == "__main__":
    unittest.main()
