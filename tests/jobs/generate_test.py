"""Text from outside: how it is chosen, and how it is judged."""

import collections
import json
import os
import unittest

from tests.harness import jobs, tiny


class Generate(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tiny.fresh_output("generate")
        sections = tiny.t5_sections()
        sections["task"]["metrics"] = ["rouge", "squad", "bleu"]
        cls.config = tiny.config(
            "generate", cls.folder, train={
                "steps": 120, "lr": 1e-2, "eval_every": 120,
                "eval_samples": 20},
            peft=[{"method": "full"}],
            **sections)
        cls.result = jobs.run(["train", cls.config], 2)
        assert cls.result.status == 0, cls.result.err

    def ok(self, *arguments, ranks=None):
        result = jobs.run(arguments, ranks)
        self.assertEqual(result.status, 0, result.err)
        return result.out

    def predict(self, *overrides, ranks=None):
        out = self.ok("predict", self.config, *overrides, ranks=ranks)
        return [json.loads(line) for line in out.splitlines()]

    def texts(self, *overrides, ranks=None):
        return [line["text"] for line in self.predict(*overrides, ranks=ranks)]

    def references(self):
        path = os.path.join(tiny.folder(), "text-eval.tsv")
        with open(path, encoding="utf-8") as f:
            return [line.rstrip("\n").split("\t")[1] for line in f][1:21]

    def test_training_reports_the_metrics(self):
        last = jobs.metrics(self.folder, "eval")[-1]["metrics"]
        self.assertEqual(set(last), {"loss", "rouge1", "rouge2", "rouge_l",
                                     "bleu", "exact_match", "f1"})
        self.assertGreater(last["rouge1"], 0.1)
        self.assertEqual(jobs.summary(self.folder)["status"], "done")

    def test_eval_judges_what_predict_writes(self):
        """The reference words are plain: SQuAD's figures are those of words."""
        out = json.loads(self.ok("eval", self.config, "--json",
                                 "task.num_beams=2"))["metrics"]
        exact = f1 = 0
        references = self.references()
        for text, reference in zip(self.texts("task.num_beams=2"), references):
            a, b = text.split(), reference.split()
            exact += a == b
            common = sum((collections.Counter(a) &
                          collections.Counter(b)).values())
            f1 += 2 * common / (len(a) + len(b)) if a and b else a == b
        self.assertEqual(len(references), 20)
        self.assertAlmostEqual(out["exact_match"], exact / 20)
        self.assertAlmostEqual(out["f1"], f1 / 20)
        # One word a token, each letters only: ROUGE-1 is the same F1.
        self.assertAlmostEqual(out["rouge1"], f1 / 20)
        self.assertGreater(out["bleu"], 0)

    def test_text_is_the_same_for_any_batch_and_number_of_ranks(self):
        greedy = self.texts()
        for how in ([], ["task.num_beams=3", "task.length_penalty=0.5"],
                    ["task.do_sample=true", "task.top_p=0.9"]):
            with self.subTest(how):
                one = self.predict(*how)
                many = self.predict(*how, "train.eval_batch_size=3", ranks=2)
                self.assertEqual([a["tokens"] for a in one],
                                 [a["tokens"] for a in many])
                self.assertTrue(all(a["score"] < 0 for a in one))
                self.assertTrue(all(len(a["tokens"]) <= 8 for a in one))
        drawn = self.texts("task.do_sample=true")
        self.assertNotEqual(drawn, greedy)
        self.assertNotEqual(drawn, self.texts("task.do_sample=true",
                                              "task.sample_seed=2"))
        # So little is left to draw from that it is the likeliest.
        self.assertEqual(greedy, self.texts("task.do_sample=true",
                                            "task.top_k=1"))

    def test_limits(self):
        long = self.predict("task.min_new_tokens=5", "task.max_new_tokens=6")
        self.assertTrue(all(5 <= len(a["tokens"]) <= 6 for a in long))
        once = self.predict("task.no_repeat_ngram_size=1")
        for line in once:
            self.assertEqual(len(set(line["tokens"])), len(line["tokens"]))

    def test_bad_fields_are_one_line(self):
        for override, says in (
                ("task.num_beams=0", "task.num_beams is 0"),
                ("task.top_p=2", "task.top_p is 2"),
                ("task.metrics=[blue]", "'blue'"),
                ("task.early_stopping=perhaps", "true, false or never"),
                ("task.num_beam=2", "task.num_beams")):
            result = jobs.run(["predict", self.config, override])
            self.assertEqual(result.status, 2, result.err)
            self.assertIn(says, result.err)

    def test_help_teaches_the_fields(self):
        text = self.ok("predict", "--help")
        for name in ("num_beams", "do_sample", "top_p", "max_new_tokens"):
            self.assertIn(name, text)
        fields = self.ok("--help-config")
        for name in ("no_repeat_ngram_size", "length_penalty", "metrics"):
            self.assertIn(name, fields)


if __name__ == "__main__":
    unittest.main()
