"""Bytes on the wire, read at the interface counter of a network namespace of
its own: at most 1.02 of the ring's formula for k >= 16,384."""

import os
import unittest

from tests.harness import jobs, tiny

SHELL = r"""
set -e
ip link set lo up
count() { awk '/lo:/ { print $10 }' /proc/net/dev; }
for steps in "$FEW" "$MANY"; do
  before=$(count)
  mpirun -np "$RANKS" --oversubscribe --bind-to none \
    --mca mpi_yield_when_idle 1 --mca pml ob1 --mca btl tcp,self \
    --mca btl_tcp_if_include lo --mca oob_tcp_if_include lo \
    "$BINARY" train "$CONFIG" "output=$OUTPUT-$steps" "train.steps=$steps" \
    >&2
  echo "bytes $(($(count) - before))"
done
"""
FEW, MANY = 20, 220


class Wire(unittest.TestCase):
    def measure(self, name, ranks, method):
        """(bytes per step of all ranks at the interface, numbers sent)."""
        output = tiny.fresh_output(name)
        for steps in (FEW, MANY):
            tiny.fresh_output(f"{name}-{steps}")
        config = tiny.config(name, output, peft=[method],
                             train={"eval_every": 0, "checkpoint_every": 0,
                                    "schedule": "constant"},
                             data={"eval": None},
                             # Given, so that no link is measured at start.
                             comm={"algorithm": "ring",
                                   "bucket_bytes": 1 << 30})
        argv = ["unshare", "--net"]
        if os.geteuid() != 0:
            argv += ["--user", "--map-root-user"]
        result = jobs.Job([*argv, "bash", "-c", SHELL],
                          env={"FEW": FEW, "MANY": MANY, "RANKS": ranks,
                               "BINARY": jobs.BINARY, "CONFIG": config,
                               "OUTPUT": output}).wait()
        self.assertEqual(result.status, 0, result.err)
        few, many = [int(line.split()[1]) for line in result.out.splitlines()
                     if line.startswith("bytes ")]
        summary = jobs.summary(f"{output}-{MANY}")
        # What the program says of itself: exactly what it foretold, in every
        # step alike; no more than the formula and a small header.
        sent = {s["sent_bytes"] for s in jobs.metrics(f"{output}-{MANY}")}
        self.assertEqual(len(sent), 1)
        foretold = summary["predicted_sent_bytes_per_step"]
        self.assertEqual(sent.pop(), foretold)
        numbers = summary["payload_bytes_per_step"] // 4
        extra = foretold - 2 * (ranks - 1) / ranks * 4 * numbers
        self.assertGreater(extra, 0)
        self.assertLess(extra, 512)
        return (many - few) / (MANY - FEW), summary[
            "payload_bytes_per_step"] // 4

    def test_interface_counter(self):
        for ranks in (2, 4):
            for method in ({"method": "full"},
                           {"method": "lora", "r": 64,
                            "target_modules": "all-linear"}):
                name = f"wire-{ranks}-{method['method']}"
                with self.subTest(name):
                    per_step, numbers = self.measure(name, ranks, method)
                    self.assertGreaterEqual(numbers, 16384)
                    formula = ranks * 2 * (ranks - 1) / ranks * 4 * numbers
                    self.assertLess(per_step, 1.02 * formula)
                    self.assertGreater(per_step, formula)


if __name__ == "__main__":
    unittest.main()
