"""A run that is killed, fills the disk or is asked to stop goes on from its
last checkpoint, and its curve is that of a run that was never broken, bit for
bit."""

import json
import os
import random
import signal
import unittest

from tests.harness import jobs, tiny

RANKS = 2
STEPS = 240


def checkpoints(folder):
    path = os.path.join(folder, "checkpoints")
    names = os.listdir(path) if os.path.isdir(path) else []
    return sorted(int(n[5:]) for n in names if n.startswith("step-"))


def last_step(folder):
    steps = jobs.metrics(folder)
    return steps[-1]["step"] if steps else 0


class Resume(unittest.TestCase):
    """A T5 on ragged targets with dropout; evaluation takes a while."""

    name = "resume"

    @classmethod
    def config(cls, output):
        sections = tiny.t5_sections()
        return tiny.config(
            os.path.basename(output), output, model=sections["model"],
            task=sections["task"], data=sections["data"],
            peft=[{"method": "lora", "r": 4, "dropout": 0.1}],
            train={"steps": STEPS, "eval_every": 80, "eval_batch_size": 1,
                   "checkpoint_every": 20, "keep": 2})

    @classmethod
    def setUpClass(cls):
        cls.random = random.Random(20240601)
        folder = tiny.fresh_output(f"{cls.name}-reference")
        result = jobs.run(["train", cls.config(folder)], RANKS)
        assert result.status == 0, result.err
        cls.reference = jobs.curve(folder)
        assert len(cls.reference[0]) == STEPS

    def start(self, label, **options):
        self.folder = tiny.fresh_output(f"{self.name}-{label}")
        self.path = self.config(self.folder)
        return jobs.Job(jobs.command(["train", self.path], RANKS), **options)

    def resume(self, **options):
        result = jobs.run(["train", self.path, "--resume"], RANKS, **options)
        self.assertEqual(result.status, 0, result.err)
        self.check_curve()

    def check_curve(self):
        steps, evals = jobs.curve(self.folder)
        self.assertEqual(steps, self.reference[0])
        self.assertEqual(evals, self.reference[1])

    def kill_at(self, job, step, choose):
        job.wait_until(lambda: last_step(self.folder) >= step)
        for pid in choose(job):
            os.kill(pid, signal.SIGKILL)

    def test_one_rank_is_killed_at_a_random_step(self):
        for rank in range(RANKS):
            with self.subTest(rank=rank):
                job = self.start(f"rank-{rank}")
                self.kill_at(job, self.random.randint(25, 150),
                             lambda j, r=rank: [j.ranks()[r]])
                result = job.wait(60)
                self.assertNotEqual(result.status, 0)
                self.resume()

    def test_all_ranks_are_killed_at_a_random_step(self):
        job = self.start("all")
        self.kill_at(job, self.random.randint(25, 150),
                     lambda j: list(j.ranks().values()))
        self.assertNotEqual(job.wait(60).status, 0)
        self.resume()

    def test_the_launcher_is_killed(self):
        job = self.start("launcher")
        self.kill_at(job, self.random.randint(25, 150),
                     lambda j: [j.process.pid])
        job.wait(60)  # and no rank is left
        self.resume()

    def test_killed_twice(self):
        job = self.start("twice")
        self.kill_at(job, 30, lambda j: list(j.ranks().values()))
        job.wait(60)
        job = jobs.Job(jobs.command(["train", self.path, "--resume"], RANKS))
        self.kill_at(job, 110, lambda j: [j.ranks()[1]])
        job.wait(60)
        self.resume()

    def test_killed_inside_an_evaluation(self):
        job = self.start("evaluation")
        self.kill_at(job, 80, lambda j: list(j.ranks().values()))
        job.wait(60)
        self.assertEqual(last_step(self.folder), 80)
        self.assertEqual(jobs.metrics(self.folder, "eval"), [])
        self.resume()

    def test_killed_inside_a_checkpoint_write(self):
        # A checkpoint takes 22 durable steps: every fourth of the second one.
        for nth in range(23, 45, 4):
            with self.subTest(nth=nth):
                job = self.start(f"write-{nth}",
                                 env={"THINWIRE_KILL_WRITE": nth})
                self.assertNotEqual(job.wait(60).status, 0)
                self.assertLess(last_step(self.folder), STEPS)
                self.resume()
                leftovers = [n for n in os.listdir(
                    os.path.join(self.folder, "checkpoints"))
                    if not n.startswith("step-")]
                self.assertEqual(leftovers, [])

    def test_the_disk_is_full_at_a_checkpoint(self):
        job = self.start("full-disk", env={"THINWIRE_FAIL_WRITE": 30})
        result = job.wait()
        self.assertEqual(result.status, 1, result.err)
        self.assertEqual(len(result.errors), 1, result.err)
        self.assertIn("checkpoint", result.errors[0])
        self.assertIn("No space left", result.errors[0])
        self.assertEqual(jobs.summary(self.folder)["cause"], "IO")
        kept = checkpoints(self.folder)
        self.assertTrue(kept)
        self.resume()

    def test_sigterm_checkpoints(self):
        job = self.start("sigterm")
        job.wait_until(lambda: last_step(self.folder) >= 50)
        os.kill(job.ranks()[1], signal.SIGTERM)  # one rank is enough
        result = job.wait(60)
        self.assertEqual(result.status, 75, result.err)
        self.assertEqual(result.errors, [])
        stopped = jobs.summary(self.folder)
        self.assertEqual(stopped["status"], "checkpointed")
        self.assertEqual(checkpoints(self.folder)[-1], stopped["steps"])
        self.assertLess(stopped["steps"], STEPS)
        self.resume()

    def test_sigusr1_checkpoints_in_passing(self):
        job = self.start("sigusr1")
        job.wait_until(lambda: last_step(self.folder) >= 25)
        os.kill(job.ranks()[0], signal.SIGUSR1)
        job.wait_until(lambda: any(c % 20 for c in checkpoints(self.folder)))
        self.assertEqual(job.wait().status, 0)
        self.check_curve()

    def test_a_damaged_checkpoint_is_passed_over(self):
        job = self.start("damaged")
        self.kill_at(job, 90, lambda j: list(j.ranks().values()))
        job.wait(60)
        newest = checkpoints(self.folder)[-1]
        path = os.path.join(self.folder, "checkpoints", f"step-{newest}",
                            "optimizer.safetensors")
        with open(path, "r+b") as f:
            f.seek(-3, os.SEEK_END)
            f.write(b"\x55")
        result = jobs.run(["train", self.path, "--resume"], RANKS)
        self.assertEqual(result.status, 0, result.err)
        self.assertIn(f"step-{newest}", result.err)
        self.check_curve()


if os.environ.get("THINWIRE_LONG"):

    class Storm(Resume):
        """Kills at random steps of random ranks, many times over, and at
        every durable step of the first two checkpoints."""

        name = "storm"

        def test_kill_storm(self):
            for seed in range(40):
                with self.subTest(seed=seed):
                    choice = random.Random(seed)
                    job = self.start(f"storm-{seed}")
                    kills = choice.randint(1, 3)
                    for again in range(kills):
                        if again:
                            job = jobs.Job(jobs.command(
                                ["train", self.path, "--resume"], RANKS))
                        step = choice.randint(1, STEPS - 60)
                        rank = choice.choice([0, 1, None])
                        self.kill_at(job, step, lambda j, r=rank: [
                            p for n, p in j.ranks().items()
                            if r in (None, n)])
                        job.wait(60)
                    self.resume()

        def test_every_durable_step(self):
            for nth in range(1, 46):
                for fault in ("THINWIRE_KILL_WRITE", "THINWIRE_FAIL_WRITE"):
                    with self.subTest(nth=nth, fault=fault):
                        job = self.start("durable", env={fault: nth})
                        self.assertNotEqual(job.wait(60).status, 0)
                        self.resume()


class PhasesResume(unittest.TestCase):
    """20 dense warm-up steps, a mask, a new mask every 50 steps: killed in the
    middle of each phase."""

    name = "phases"
    method = {"method": "fish_mask", "density": 0.05, "samples": 12,
              "warmup_steps": 20, "remask_every": 50}
    phases = [20, 70, 120, 170, 220]
    kills = (15, 45, 95)

    def config(self, output):
        return tiny.config(
            os.path.basename(output), output, peft=[self.method],
            train={"steps": 260, "eval_every": 65, "checkpoint_every": 13})

    def test_killed_in_every_phase(self):
        folder = tiny.fresh_output(f"{self.name}-reference")
        result = jobs.run(["train", self.config(folder)], RANKS)
        self.assertEqual(result.status, 0, result.err)
        want = jobs.curve(folder)
        self.assertEqual([p["step"] for p in jobs.metrics(folder, "phase")],
                         self.phases)
        for step in self.kills:
            with self.subTest(step=step):
                folder = tiny.fresh_output(f"{self.name}-{step}")
                config = self.config(folder)
                job = jobs.Job(jobs.command(["train", config], RANKS))
                job.wait_until(lambda: last_step(folder) >= step)
                for pid in job.ranks().values():
                    os.kill(pid, signal.SIGKILL)
                job.wait(60)
                result = jobs.run(["train", config, "--resume"], RANKS)
                self.assertEqual(result.status, 0, result.err)
                self.assertEqual(jobs.curve(folder), want)


class RewindResume(PhasesResume):
    """130 steps of everything, after which the run is back at its start with a
    mask alone: killed before it and after it."""

    name = "rewind"
    method = {"method": "lt_sft", "density": 0.05, "full_steps": 130}
    phases = [130]
    kills = (60, 190)


class DiffPruningResume(PhasesResume):
    """130 steps of gates and differences, then what the cut kept."""

    name = "diff-pruning"
    method = {"method": "diff_pruning", "density": 0.05, "gate_steps": 130,
              "gate_lr_factor": 20}
    phases = [130]
    kills = (60, 190)


class Survivors(unittest.TestCase):
    def test_survivors_name_the_dead_rank(self):
        folder = tiny.fresh_output("survivors")
        config = tiny.config("survivors", folder,
                             train={"steps": 100000, "eval_every": 0,
                                    "checkpoint_every": 0})
        job = jobs.Job(jobs.command(["train", config], 4))
        job.wait_until(lambda: last_step(folder) >= 20)
        os.kill(job.ranks()[2], signal.SIGKILL)
        result = job.wait(30)
        self.assertNotEqual(result.status, 0)
        self.assertTrue(any("rank 2" in line for line in result.errors),
                        result.err)
        with open(os.path.join(folder, "summary.json"),
                  encoding="utf-8") as f:
            self.assertEqual(json.load(f)["cause"], "RANK_LOST")


if __name__ == "__main__":
    unittest.main()
