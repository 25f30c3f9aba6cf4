"""train.deterministic: the program gives the same bits with 1, 2 and 4 ranks."""

import hashlib
import os
import unittest

from tests.harness import jobs, tiny


class Deterministic(unittest.TestCase):
    def train(self, name, ranks, sections, **train):
        output = tiny.fresh_output(f"{name}-{ranks}")
        sections = dict(sections)
        data = {**sections.pop("data", {}), "batch_size": 16 // ranks}
        config = tiny.config(f"{name}-{ranks}", output, data=data,
                             train={"deterministic": True, "steps": 6,
                                    "eval_every": 3, "checkpoint_every": 0,
                                    **train}, **sections)
        result = jobs.run(["train", config], ranks=ranks)
        self.assertEqual(result.status, 0, result.err)
        with open(os.path.join(output, "log.txt"), encoding="utf-8") as f:
            self.assertRegex(f.read(), "deterministic: 8 virtual shards of 2 "
                             "samples, .* times as long")
        with open(os.path.join(output, "checkpoints", "step-6",
                               "delta.safetensors"), "rb") as f:
            delta = hashlib.sha256(f.read()).hexdigest()
        return jobs.curve(output), delta

    def test_ranks(self):
        for name, sections in (
                ("det-lora", {}),
                ("det-fish", {"peft": [{"method": "fish_mask", "samples": 16,
                                        "density": 0.02}]}),
                ("det-t5", tiny.t5_sections())):
            with self.subTest(name):
                one = self.train(name, 1, sections)
                self.assertEqual(len(one[0][0]), 6)
                for ranks in (2, 4):
                    self.assertEqual(self.train(name, ranks, sections), one)

    def test_ranks_that_do_not_fit(self):
        config = tiny.config("det-3", tiny.fresh_output("det-3"),
                             train={"deterministic": True})
        result = jobs.run(["train", config], ranks=3)
        self.assertEqual(result.status, 2, result.err)
        self.assertEqual(len(result.errors), 1, result.err)
        self.assertIn("3 ranks cannot share 8 virtual shards",
                      result.errors[0])


if __name__ == "__main__":
    unittest.main()
