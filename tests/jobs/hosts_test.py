"""The trainer across hosts, which are network namespaces of this machine: it
trains, and a rank that is killed there or a host whose cable is pulled is named
on both sides."""

import os
import signal
import time
import unittest

from tests.harness import jobs, netns
from tests.jobs import fault_test

DEADLINE = 3


@unittest.skipIf(netns.why_not(), netns.why_not())
class TwoHosts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.hosts = netns.Hosts(2)
        cls.hosts.__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.hosts.close()

    def start(self, name, ranks, **options):
        return fault_test.start(
            name, launch=lambda argv: self.hosts.mpirun(argv, ranks),
            env=self.hosts.environment, **options)

    def test_it_trains(self):
        job, there = self.start("hosts", 2, steps=20)
        before = self.hosts.counters(1)
        result = job.wait()
        self.assertEqual(result.status, 0, result.err)
        self.assertEqual(result.errors, [])
        steps = jobs.metrics(there)
        self.assertEqual([s["step"] for s in steps], list(range(1, 21)))
        # The exchange went through the cable, both ways.
        sent = sum(s["sent_bytes"] for s in steps)
        for was, now in zip(before, self.hosts.counters(1)):
            self.assertGreater(now - was, sent)
        # And it is the run of one host.
        job, here = fault_test.start("one-host", steps=20, ranks=2)
        self.assertEqual(job.wait().status, 0)
        for a, b in zip(steps, jobs.metrics(here), strict=True):
            self.assertAlmostEqual(a["loss"], b["loss"], delta=1e-4)

    def test_a_rank_killed_on_another_host_is_named(self):
        job, folder = self.start("hosts-kill", 4)
        fault_test.wait_for_step(job, folder, 3)
        pid = job.ranks()[3]
        killed = time.time()
        os.kill(pid, signal.SIGKILL)
        result = job.wait(60)
        for rank in range(3):
            clock, text = fault_test.failure(folder, rank)
            self.assertRegex(text, rf"^rank 3 \(host \S+, pid {pid}\) is gone: "
                                   r".*\(RANK_LOST\)$")
            self.assertLess(fault_test.seconds_after(killed, clock), 0.8)
        self.assertEqual(len(result.errors), 1, result.err)

    def test_a_host_that_is_cut_off_is_named_on_both_sides(self):
        job, folder = self.start("hosts-cut", 4, silence=DEADLINE)
        fault_test.wait_for_step(job, folder, 3)
        pids = job.ranks()
        cut = time.time()
        self.hosts.link(1, up=False)
        try:
            # Ranks end by themselves, whatever the launcher can still do.
            job.wait_until(lambda: not job.ranks(), 60)
        finally:
            self.hosts.link(1, up=True)
        sides = ((0, 2), (1, 3))  # ranks are dealt to the hosts in turn
        for here, there in (sides, sides[::-1]):
            for rank in here:
                clock, text = fault_test.failure(folder, rank)
                for other in there:
                    self.assertIn(f"rank {other} (host ", text)
                    self.assertIn(f"pid {pids[other]})", text)
                for other in here:
                    self.assertNotIn(f"pid {pids[other]})", text)
                self.assertIn("are cut off", text)
                self.assertTrue(text.endswith("(PARTITIONED)"), text)
                self.assertLess(fault_test.seconds_after(cut, clock), DEADLINE)
        self.assertNotEqual(job.wait(60).status, 0)


if __name__ == "__main__":
    unittest.main()
