"""A GPT-2 as a language model, from prepared text to what the verbs say."""

import functools
import json
import math
import os
import unittest

from tests.harness import jobs, tiny


STEPS = 300


class LanguageModel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tiny.fresh_output("lm")
        sections = tiny.gpt2_sections()
        sections["task"]["metrics"] = ["squad"]
        cls.config = tiny.config(
            "lm", cls.folder, peft=[{"method": "full"}],
            train={"steps": STEPS, "lr": 5e-3, "eval_every": STEPS // 2,
                   "eval_at_start": True, "checkpoint_every": STEPS // 2},
            **sections)
        cls.result = jobs.run(["train", cls.config], 2)
        assert cls.result.status == 0, cls.result.err

    def ok(self, *arguments):
        result = jobs.run(arguments)
        self.assertEqual(result.status, 0, result.err)
        return result.out

    def predict(self, *arguments, step=STEPS):
        delta = os.path.join(self.folder, "checkpoints", f"step-{step}")
        out = self.ok("predict", self.config, "--delta", delta, *arguments)
        return [json.loads(line) for line in out.splitlines()]

    def test_training_learns(self):
        evals = [e["metrics"] for e in jobs.metrics(self.folder, "eval")]
        for metrics in evals:
            self.assertEqual(set(metrics),
                             {"loss", "perplexity", "token_accuracy",
                              "exact_match", "f1"})
            self.assertAlmostEqual(metrics["perplexity"] /
                                   math.exp(metrics["loss"]), 1, places=5)
        self.assertLess(evals[-1]["loss"], 0.5 * evals[0]["loss"])
        self.assertGreater(evals[-1]["token_accuracy"], 0.5)

    def test_the_loss_is_of_the_answers_alone(self):
        steps = jobs.metrics(self.folder)
        # A random model's loss is near that of a guess.
        self.assertAlmostEqual(steps[0]["loss"],
                               math.log(len(tiny.SPECIAL + tiny.WORDS)),
                               delta=1)

    def test_eval_and_predict_agree(self):
        delta = os.path.join(self.folder, "checkpoints", f"step-{STEPS}")
        out = json.loads(self.ok("eval", self.config, "--json", "--delta",
                                 delta))
        last = jobs.metrics(self.folder, "eval")[-1]["metrics"]
        for name, value in last.items():
            self.assertAlmostEqual(out["metrics"][name], value, places=4)
        path = os.path.join(tiny.folder(), "lm-eval.tsv")
        with open(path, encoding="utf-8") as f:
            answers = [line.rstrip("\n").split("\t")[1] for line in f][1:]
        lines = self.predict()
        self.assertEqual([line["id"] for line in lines], list(range(60)))
        right = sum(line["text"] == answer
                    for line, answer in zip(lines, answers))
        self.assertAlmostEqual(right / 60, last["exact_match"])
        self.assertGreater(right, 20)
        self.assertGreaterEqual(last["f1"], last["exact_match"])

    def test_text_is_chosen_as_the_fields_say(self):
        # Halfway the model is not yet so sure that all ways find the same.
        half = functools.partial(self.predict, step=STEPS // 2)
        greedy = half()
        for line in greedy:
            self.assertEqual(set(line), {"id", "text", "tokens", "score"})
            self.assertLessEqual(len(line["tokens"]), 8)
            self.assertLess(line["score"], 0)
        beams = half("task.num_beams=4", "task.length_penalty=0")
        # The score of a beam is then the text's log-probability, too.
        better = [b["score"] - a["score"] for a, b in zip(greedy, beams)]
        self.assertGreater(sum(better), 0)
        same = [a["score"] - b["score"] for a, b in zip(greedy, beams)
                if a["tokens"] == b["tokens"]]
        self.assertGreater(len(same), 0)
        for difference in same:
            self.assertAlmostEqual(difference, 0, places=4)
        drawn = half("task.do_sample=true", "task.top_p=0.95")
        self.assertNotEqual([a["text"] for a in drawn],
                            [a["text"] for a in greedy])
        for short, line in zip(half("task.max_new_tokens=1"), greedy):
            self.assertEqual(short["tokens"], line["tokens"][:1])
        result = jobs.run(["predict", self.config, "task.max_new_tokens=46"])
        self.assertEqual(result.status, 2, result.err)
        self.assertIn("46 new tokens behind the", result.err)

    def test_of_plain_text_the_mean_loss_is_predicted(self):
        shards, words = tiny.plain_text_shards()
        lines = self.predict("--data", shards)
        self.assertEqual(set(lines[0]), {"id", "value"})
        # The tokens but the first: words, </s>.
        tokens = words
        mean = sum(line["value"] * n for line, n in zip(lines, tokens))
        delta = os.path.join(self.folder, "checkpoints", f"step-{STEPS}")
        common = ["eval", self.config, "--json", "--delta", delta, "--data",
                  shards]
        out = json.loads(self.ok(*common, "task.metrics=null"))
        self.assertAlmostEqual(mean / sum(tokens), out["metrics"]["loss"],
                               places=4)
        result = jobs.run(common)
        self.assertEqual(result.status, 2, result.err)
        self.assertIn("has no references", result.err)

    def test_inspect(self):
        text = self.ok("inspect", self.config)
        sent = {s["sent_bytes"] for s in jobs.metrics(self.folder)}
        self.assertEqual(len(sent), 1)
        self.assertIn(f"2 ranks: each sends {sent.pop():,} bytes a step", text)

    def test_other_models_and_shards_are_refused(self):
        for change, word in (
                ({"model": {"path": tiny.bert()}}, "gpt2"),
                ({"task": {"kind": "classify", "labels": 3}}, "task lm")):
            with self.subTest(word):
                config = tiny.config("lm-bad", tiny.fresh_output("lm-bad"),
                                     **{**tiny.gpt2_sections(), **change})
                result = jobs.run(["train", config])
                self.assertEqual(result.status, 2, result.err)
                self.assertEqual(len(result.errors), 1, result.err)
                self.assertIn(word, result.errors[0])


if __name__ == "__main__":
    unittest.main()
