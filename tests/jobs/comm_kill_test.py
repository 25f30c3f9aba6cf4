#!/usr/bin/env python3
"""A rank killed in the middle of all_reduce: the survivors say so, and no
process is left behind.

Run: python3 -m unittest tests/jobs/comm_kill_test.py
The binaries are those of build/$THINWIRE_PRESET (default release).
"""

import os
import re
import subprocess
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / os.environ.get("THINWIRE_PRESET", "release")
BINARY = BUILD / "tests" / "comm_mpi_tests"
RANKS = 4


def session_members(sid):
    """Processes of a session, by id; ranks have process groups of their own."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(fields[3]) == sid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def run(victim):
    env = dict(os.environ, VICTIM=str(victim), OMP_NUM_THREADS="1",
               OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    job = subprocess.Popen(
        ["mpirun", "-np", str(RANKS), "--oversubscribe", "--bind-to", "none",
         "--mca", "mpi_yield_when_idle", "1", str(BINARY),
         "--gtest_also_run_disabled_tests", "--gtest_filter=Kill.*"],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True)
    try:
        output, _ = job.communicate(timeout=60)
    finally:
        end = time.monotonic() + 10
        while (left := session_members(job.pid)) and time.monotonic() < end:
            time.sleep(0.05)
        for pid in left:
            os.kill(pid, 9)
    return job.returncode, output, left


class CommKillTest(unittest.TestCase):
    def test_survivors_name_the_dead_rank(self):
        for victim in range(RANKS):
            with self.subTest(victim=victim):
                status, output, left = run(victim)
                self.assertEqual(left, [], f"left behind\n{output}")
                self.assertNotEqual(status, 0, output)
                survivors = re.findall(r"survivor (\d): (.*)", output)
                for rank, text in survivors:
                    self.assertNotEqual(int(rank), victim, text)
                    self.assertTrue(text.startswith("all_reduce 'grads': "),
                                    text)
                self.assertRegex(output, f"waited for rank {victim}, but its "
                                         r"process \(pid \d+\) is gone")


if __name__ == "__main__":
    unittest.main()
