"""The quick start itself, shortened."""

import os
import shutil
import unittest

from tests.harness import jobs


class Quickstart(unittest.TestCase):
    def test_short(self):
        runs = os.path.join(jobs.ROOT, "runs", "quickstart-short")
        shutil.rmtree(runs, ignore_errors=True)
        script = os.path.join(jobs.ROOT, "launch", "quickstart.sh")
        result = jobs.Job(["bash", script, "--short"],
                          env={"THINWIRE_PRESET": jobs.PRESET}).wait(600)
        self.assertEqual(result.status, 0, result.err[-3000:])
        table = result.out[result.out.index("accuracy before"):]
        for row in ("head only", "FISH mask 0.5 %", "LoRA r 8"):
            self.assertIn(row, table)
        for method in ("head", "fish", "lora"):
            summary = jobs.summary(os.path.join(runs, method))
            self.assertEqual(summary["steps"], 4)
            self.assertEqual(summary["ranks"], 2)
        # Of 22.7 M numbers; the head is 20 x 384 + 20.
        head = 20 * 384 + 20
        sizes = {m: jobs.summary(os.path.join(runs, m))["trainable_parameters"]
                 for m in ("head", "fish", "lora")}
        self.assertEqual(sizes["head"], head)
        self.assertEqual(sizes["lora"], 6 * 2 * 8 * (384 + 384) + head)
        self.assertEqual(sizes["fish"], (22_713_216 + head) * 5 // 1000)
        # Again: finished runs are kept, and nothing is trained twice.
        before = os.path.getmtime(os.path.join(runs, "lora", "summary.json"))
        result = jobs.Job(["bash", script, "--short"],
                          env={"THINWIRE_PRESET": jobs.PRESET}).wait(600)
        self.assertEqual(result.status, 0, result.err[-3000:])
        self.assertEqual(
            os.path.getmtime(os.path.join(runs, "lora", "summary.json")),
            before)


if __name__ == "__main__":
    unittest.main()
