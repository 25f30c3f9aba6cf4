"""Ranks that are killed or stopped at random moments of a training run: every
survivor's log names the right one in time, the user reads one line, and no
process is left. 20 kills, with THINWIRE_LONG=1 200."""

import concurrent.futures
import datetime
import os
import random
import re
import signal
import threading
import time
import unittest

from tests.harness import jobs, tiny

RANKS = 3
KILLS = 200 if os.environ.get("THINWIRE_LONG") else 20
DEADLINE = 3  # seconds, comm.silence
TINY = threading.Lock()  # tiny makes its files once per process


def start(name, silence=30, steps=1000000, ranks=RANKS, launch=None, **job):
    """(a job that trains, its run folder)"""
    with TINY:
        folder = tiny.fresh_output(name)
        path = tiny.config(name, folder, comm={"timeout": 30, "silence": silence},
                           data={"eval": None},
                           train={"steps": steps, "eval_every": 0,
                                  "checkpoint_every": 0,
                                  "schedule": "constant"})
    arguments = ["train", path]
    argv = (jobs.command(arguments, ranks) if launch is None
            else launch([jobs.BINARY, *arguments]))
    return jobs.Job(argv, **job), folder


def wait_for_step(job, folder, step):
    def there():
        steps = jobs.metrics(folder)
        return steps and steps[-1]["step"] >= step

    job.wait_until(there)


def log_of(folder, rank):
    name = "log.txt" if rank == 0 else f"log-{rank}.txt"
    with open(os.path.join(folder, name), encoding="utf-8") as f:
        return f.read()


def failure(folder, rank):
    """(time, text) of the line in a rank's log that says why it failed."""
    found = re.findall(r"^(\d\d:\d\d:\d\d\.\d\d\d) E \[rank \d+\] (.*)$",
                       log_of(folder, rank), re.M)
    if len(found) != 1:
        raise AssertionError(f"rank {rank}: not one line but {found}")
    return found[0]


def seconds_after(event, clock):
    """From event, a time.time(), to a time of day in a log."""
    at = datetime.datetime.fromtimestamp(event)
    day = datetime.datetime.combine(at.date(), datetime.time())
    since = (at - day).total_seconds()
    h, m, s = clock.split(":")
    took = int(h) * 3600 + int(m) * 60 + float(s) - since
    return (took + 43200) % 86400 - 43200


class Kills(unittest.TestCase):
    def kill(self, number):
        """One run; returns what is wrong, and the slowest line."""
        chance = random.Random(1000 + number)
        victim = number % (RANKS + 1)
        job, folder = start(f"kill-{number}")
        wait_for_step(job, folder, 1 + chance.randrange(20))
        time.sleep(chance.uniform(0, 0.02))  # any moment within a step
        ranks = job.ranks()
        pid = job.process.pid if victim == RANKS else ranks[victim]
        killed = time.time()
        os.kill(pid, signal.SIGKILL)
        result = job.wait(60)  # which also sees that nothing is left
        if victim == RANKS:
            expected = rf"the launcher \(pid {pid}\) of .* \(LAUNCHER_LOST\)"
        else:
            expected = (rf"rank {victim} \(host \S+, pid {pid}\) is gone: the "
                        r"process has ended; rank \d was in step \d+, .*"
                        r"\(RANK_LOST\)")
        wrong, slowest = [], 0.0
        for rank in set(range(RANKS)) - {victim}:
            try:
                clock, text = failure(folder, rank)
            except AssertionError as error:
                wrong.append(f"kill {number} of {victim}: {error}; its log "
                             f"ends with {log_of(folder, rank)[-300:]!r}, "
                             f"stderr: {result.errors}")
                continue
            if not re.fullmatch(expected, text):
                wrong.append(f"{victim}: rank {rank} says {text}")
            slowest = max(slowest, seconds_after(killed, clock))
        if victim != RANKS and (
                len(result.errors) != 1
                or not re.search(expected, result.errors[0])):
            wrong.append(f"{victim}: stderr says {result.errors}")
        if result.status == 0:
            wrong.append(f"{victim}: exit status 0")
        if slowest > 0.8:
            wrong.append(f"{victim}: {slowest:.3f} s")
        return wrong, slowest

    def test_the_right_rank_is_named_each_time(self):
        # Starting takes longer than dying: two at a time.
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            all_of = list(pool.map(self.kill, range(KILLS)))
        wrong = [w for some, _ in all_of for w in some]
        self.assertEqual(wrong, [])
        print(f"{KILLS} kills, slowest line "
              f"{max(took for _, took in all_of):.3f} s", end=" ", flush=True)


class Stops(unittest.TestCase):
    def test_a_stopped_rank_is_named_within_the_deadline(self):
        for victim in (0, 2):
            with self.subTest(victim=victim):
                job, folder = start(f"stop-{victim}", DEADLINE)
                wait_for_step(job, folder, 5)
                pid = job.ranks()[victim]
                stopped = time.time()
                os.kill(pid, signal.SIGSTOP)
                result = job.wait(60)
                for rank in set(range(RANKS)) - {victim}:
                    clock, text = failure(folder, rank)
                    self.assertRegex(
                        text, rf"^rank {victim} \(host \S+, pid {pid}\) is "
                              r"stopped, .*\(STALLED\)$")
                    self.assertLess(seconds_after(stopped, clock), DEADLINE)
                self.assertEqual(len(result.errors), 1, result.err)
                if victim != 0:
                    self.assertEqual(jobs.summary(folder)["cause"], "STALLED")

    def test_one_that_goes_on_in_time_is_forgiven(self):
        job, folder = start("stop-and-go", 5, steps=300)
        wait_for_step(job, folder, 5)
        pid = job.ranks()[1]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(pid, signal.SIGCONT)
        result = job.wait()
        self.assertEqual(result.status, 0, result.err)
        self.assertEqual(jobs.metrics(folder)[-1]["step"], 300)


if __name__ == "__main__":
    unittest.main()
