"""The bytes of whole steps, by policy: what metrics.jsonl says of each step
against the formulas of docs/exchange.md."""

import json
import os
import re
import unittest

from tests.harness import jobs, tiny

RANKS = 2
STEPS = 5


def formulas():
    with open(os.path.join(jobs.ROOT, "docs", "exchange.md"),
              encoding="utf-8") as f:
        block, = re.findall(r"```python\n(.*?)```", f.read(), re.S)
    names = {}
    exec(block, names)  # pylint: disable=exec-used
    return names


def cut(folder):
    """(codec, n) of the buckets that each exchange of rank 0 had."""
    buckets, exchanges = None, []
    with open(os.path.join(folder, "exchange-0.jsonl"),
              encoding="utf-8") as f:
        for line in map(json.loads, f):
            if "buckets" in line:
                buckets = [(b["codec"], b["count"]) for b in line["buckets"]]
            else:
                exchanges.append(buckets)
    return exchanges


class ExchangePolicy(unittest.TestCase):
    def train(self, name, **comm):
        """The steps of a short run, and its folder."""
        output = tiny.fresh_output(f"policy-{name}")
        path = tiny.config(
            f"policy-{name}", output, data={"eval": None},
            peft=[{"method": "lora", "r": 4, "target_modules": "all-linear"}],
            train={"steps": STEPS, "eval_every": 0, "checkpoint_every": 0},
            comm={"trace": True, "bucket_bytes": 4096, **comm})
        result = jobs.run(["train", path], ranks=RANKS)
        self.assertEqual(result.status, 0, result.err)
        steps = jobs.metrics(output)
        self.assertEqual(len(steps), STEPS)
        return steps, output

    def test_every_step(self):
        step = formulas()["step"]
        for algorithm in ("doubling", "halving_doubling", "ring", "two_level"):
            for codec in ("fp32", "bf16", "int8"):
                if algorithm != "ring" and codec != "int8":
                    continue
                with self.subTest(algorithm=algorithm, codec=codec):
                    steps, output = self.train(
                        f"{algorithm}-{codec}", algorithm=algorithm,
                        codec=codec)
                    exchanges = cut(output)
                    self.assertEqual(len(exchanges), STEPS)
                    self.assertGreater(len(exchanges[-1]), 1)
                    self.assertEqual({c for c, _ in exchanges[-1]}, {codec})
                    self.assertEqual(
                        [s["sent_bytes"] for s in steps],
                        [step(buckets, algorithm, RANKS, 0, [0] * RANKS)
                         for buckets in exchanges])

    def test_local_steps(self):
        """Nothing goes between two merges; the run ends with one."""
        steps, output = self.train("local", algorithm="ring", sync_every=2,
                                   outer_momentum=0.9)
        each, = {formulas()["step"](b, "ring", RANKS, 0, [0] * RANKS)
                 for b in cut(output)}
        self.assertEqual([s["sent_bytes"] for s in steps],
                         [0, each, 0, each, each])

    def test_top_k(self):
        steps, output = self.train("top-k", exchange="top_k", density=0.02)
        k = sum(n for _, n in cut(output)[0])
        want = formulas()["top_k"](RANKS, k, 0.02)
        self.assertEqual({s["sent_bytes"] for s in steps}, {want})

    def test_dense(self):
        """All numbers of the backbone, and the method's own tensors."""
        steps, output = self.train("dense", exchange="dense",
                                   algorithm="ring")
        own = sum(n for _, n in cut(output)[0])
        total = jobs.summary(output)["total_parameters"]
        sent = steps[0]["sent_bytes"]
        step = formulas()["step"]
        self.assertEqual({s["sent_bytes"] for s in steps}, {sent})
        for numbers in (total, total + own):
            want = step([("fp32", numbers)], "ring", RANKS, 0, [0] * RANKS)
            if abs(sent - want) < 64:  # the delta's entries are aligned
                return
        self.fail(f"{sent} bytes for {total} numbers and {own} of the delta")


if __name__ == "__main__":
    unittest.main()
