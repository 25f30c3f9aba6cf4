"""A GPT-2 as a language model, from prepared text to what the verbs say."""

import json
import math
import os
import unittest

from tests.harness import jobs, tiny


class LanguageModel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tiny.fresh_output("lm")
        cls.config = tiny.config(
            "lm", cls.folder, peft=[{"method": "full"}],
            train={"steps": 60, "lr": 5e-3, "eval_every": 30,
                   "eval_at_start": True, "checkpoint_every": 30},
            **tiny.gpt2_sections())
        cls.result = jobs.run(["train", cls.config], 2)
        assert cls.result.status == 0, cls.result.err

    def ok(self, *arguments):
        result = jobs.run(arguments)
        self.assertEqual(result.status, 0, result.err)
        return result.out

    def test_training_learns(self):
        evals = [e["metrics"] for e in jobs.metrics(self.folder, "eval")]
        for metrics in evals:
            self.assertEqual(set(metrics),
                             {"loss", "perplexity", "token_accuracy"})
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
        delta = os.path.join(self.folder, "checkpoints", "step-60")
        out = json.loads(self.ok("eval", self.config, "--json", "--delta",
                                 delta))
        last = jobs.metrics(self.folder, "eval")[-1]["metrics"]
        for name, value in last.items():
            self.assertAlmostEqual(out["metrics"][name], value, places=4)
        lines = self.ok("predict", self.config, "--delta", delta).splitlines()
        values = [json.loads(line)["value"] for line in lines]
        self.assertEqual(len(values), 60)
        # All answers are equally long.
        self.assertAlmostEqual(sum(values) / 60, last["loss"], places=4)

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
