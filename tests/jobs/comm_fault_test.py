#!/usr/bin/env python3
"""A rank that is killed, stopped, late or makes a call too many, in the middle
of exchanges: one line names it, and no process is left behind."""

import os
import re
import unittest

from tests.harness import jobs

RANKS = 4
BINARY = os.path.join(os.path.dirname(jobs.BINARY), "tests", "comm_mpi_tests")


class CommFault(unittest.TestCase):
    def lines(self, fault, victim):
        """(lines said, lines logged, what the survivors threw)."""
        job = jobs.Job(
            ["mpirun", "-np", str(RANKS), "--oversubscribe", "--bind-to",
             "none", "--mca", "mpi_yield_when_idle", "1", BINARY,
             "--gtest_also_run_disabled_tests", "--gtest_filter=Fault.*"],
            env={"FAULT": fault, "VICTIM": victim, "OMP_NUM_THREADS": 1})
        result = job.wait(60)  # which also sees that nothing is left
        self.assertNotEqual(result.status, 0, result.out)
        found = {key: re.findall(f"^{key}: (.*)", result.out, re.M)
                 for key in ("line", "logged", "thrown")}
        self.assertEqual(len(found["line"]), 1, result.out + result.err)
        return found["line"][0], found["logged"], found["thrown"]

    def check(self, fault, victim, pattern):
        line, logged, thrown = self.lines(fault, victim)
        self.assertRegex(line, pattern)
        for text in logged:
            # Rank 0 spreads it; what a rank was in is its own.
            self.assertEqual(text.split(";")[0], line.split(";")[0])
        return thrown

    def test_killed(self):
        for victim in (0, RANKS - 1):
            with self.subTest(victim=victim):
                self.check("kill", victim,
                           rf"^rank {victim} \(host \S+, pid \d+\) is gone: "
                           r"the process has ended; rank \d was in step \d+, "
                           r"all_reduce 'grads' \(RANK_LOST\)$")

    def test_stopped(self):
        for victim in (0, 2):
            with self.subTest(victim=victim):
                self.check("stop", victim,
                           rf"^rank {victim} \(host \S+, pid \d+\) is stopped, "
                           r"by a signal or a debugger: silent for 1\.[89] s; "
                           r"rank \d was in step 50, all_reduce 'grads' "
                           r"\(STALLED\)$")

    def test_late(self):
        for victim in (0, 2):
            with self.subTest(victim=victim):
                self.check("busy", victim,
                           rf"^rank {victim} \(host \S+, pid \d+\) has not "
                           r"come: for \d\.\d s it is in step 50, computing; "
                           r"rank 0 was in .* \(STALLED\)$")

    def test_a_call_too_many(self):
        for victim in (0, 3):
            with self.subTest(victim=victim):
                self.check("extra", victim,
                           rf"^rank {victim} \(host \S+, pid \d+\) made another"
                           r" call: barrier 'too many' \(call 49\), where "
                           r"[123] ranks are in all_reduce 'grads' \(call 49\)"
                           r".* \(DESYNC\)$")


if __name__ == "__main__":
    unittest.main()
