"""launch/restart.sh: a run whose rank is killed goes on from its last
checkpoint, and its curve is that of a run that was never broken."""

import os
import signal
import unittest

from tests.harness import jobs, tiny

SCRIPT = os.path.join(jobs.ROOT, "launch", "restart.sh")
STEPS = 120


def last_step(folder):
    steps = jobs.metrics(folder)
    return steps[-1]["step"] if steps else 0


class Restart(unittest.TestCase):
    def config(self, name):
        folder = tiny.fresh_output(name)
        return folder, tiny.config(
            name, folder, train={"steps": STEPS, "eval_every": 60,
                                 "checkpoint_every": 20})

    def start(self, path, *options):
        return jobs.Job(["bash", SCRIPT, *options, "--",
                         *jobs.command(["train", path], 2)])

    def test_the_curve_is_that_of_an_unbroken_run(self):
        folder, path = self.config("restart-reference")
        self.assertEqual(jobs.run(["train", path], 2).status, 0)
        reference = jobs.curve(folder)
        folder, path = self.config("restart")
        job = self.start(path, "--max-restarts", "2")
        job.wait_until(lambda: last_step(folder) >= 30)
        os.kill(job.ranks()[1], signal.SIGKILL)
        job.wait_until(lambda: last_step(folder) >= 90 and len(job.ranks()) == 2)
        os.kill(job.ranks()[0], signal.SIGTERM)  # checkpointed: started again
        result = job.wait()
        self.assertEqual(result.status, 0, result.err)
        self.assertEqual(jobs.curve(folder), reference)
        self.assertIn("(RANK_LOST); starting again from the last checkpoint, "
                      "1 of 2", result.err)

    def test_it_gives_up(self):
        folder, path = self.config("restart-never")
        job = self.start(path, "--max-restarts", "0")
        job.wait_until(lambda: last_step(folder) >= 3)
        os.kill(job.ranks()[1], signal.SIGKILL)
        result = job.wait()
        self.assertNotEqual(result.status, 0)
        self.assertIn("given up after 0 restarts", result.err)

    def test_what_cannot_pass_is_not_tried_again(self):
        _, path = self.config("restart-usage")
        result = jobs.Job(["bash", SCRIPT, "--", jobs.BINARY, "train", path,
                           "train.nonsense=1"]).wait()
        self.assertEqual(result.status, 2)
        self.assertNotIn("restart:", result.err)
        for cause, status in (("NON_FINITE", 1), ("IO", 1), ("DISAGREEMENT", 1)):
            result = jobs.Job(
                ["bash", SCRIPT, "bash", "-c",
                 f"echo 'error: no ({cause})' >&2; exit {status}"]).wait()
            self.assertEqual(result.status, status)
            self.assertNotIn("restart:", result.err)

    def test_a_launcher_that_hangs_is_killed(self):
        result = jobs.Job(
            ["bash", SCRIPT, "--max-restarts", "1", "--grace", "0", "bash", "-c",
             "echo '[rank 0] error: rank 1 is cut off (PARTITIONED)' >&2; "
             "[[ $1 == --resume ]] && exit 0; exec sleep 600", "x"]).wait(60)
        self.assertEqual(result.status, 0, result.err)
        self.assertIn("starting again", result.err)

    def test_a_signal_ends_it(self):
        up = os.path.join(tiny.folder(), "up")
        job = jobs.Job(["bash", SCRIPT, "bash", "-c",
                        "trap 'kill $!; exit 75' TERM; sleep 600 & "
                        "touch $0; wait", up])
        job.wait_until(lambda: os.path.exists(up))
        job.process.terminate()
        result = job.wait(60)
        self.assertEqual(result.status, 75)
        self.assertNotIn("starting again", result.err)

    def test_usage(self):
        for arguments in ((), ("--max-restarts", "x", "true"), ("--no", "true")):
            result = jobs.Job(["bash", SCRIPT, *arguments]).wait()
            self.assertEqual(result.status, 2)
            self.assertTrue(result.errors, result.err)


if __name__ == "__main__":
    unittest.main()
