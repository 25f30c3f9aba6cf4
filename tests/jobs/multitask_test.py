"""Runs over several tasks, from outside."""

import json
import os
import unittest

from tests.harness import jobs, tiny


def shards(name, count, seed, labels="0,1,2"):
    table = os.path.join(tiny.folder(), f"{name}.tsv")
    with open(table, "w", encoding="utf-8") as f:
        f.write("text\tlabel\n")
        for text, label in tiny._rows(count, seed):
            f.write(f"{text}\t{label}\n")
    return tiny.prepare(os.path.join(tiny.folder(), name), "--task",
                        "classify", "--input", table, "--columns",
                        "text,label", "--label-names", labels)


class Multitask(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tasks = {
            "large": {"path": tiny.classify_shards("train"),
                      "eval": tiny.classify_shards("eval")},
            "small": {"path": shards("small-train", 90, 11),
                      "eval": shards("small-eval", 40, 12),
                      "metrics": ["accuracy", "f1"]}}

    def config(self, name, tasks, output, mixing=None):
        return tiny.config(
            name, output, data={"train": tasks, "eval": None},
            mixing=mixing or {"rule": "temperature", "temperature": 2})

    def refusal(self, name, tasks, *arguments):
        config = self.config(name, tasks, tiny.fresh_output(name))
        result = jobs.run(["train", config, *arguments], None)
        self.assertEqual(result.status, 2, result.err)
        return result.err

    def test_each_task_is_evaluated_and_their_average(self):
        folder = tiny.fresh_output("multitask")
        config = self.config("multitask", self.tasks, folder)
        result = jobs.run(["train", config], 2)
        self.assertEqual(result.status, 0, result.err)
        evals = [e for e in jobs.metrics(folder, "eval") if e["step"] == 12]
        self.assertEqual([e.get("task") for e in evals],
                         ["large", "small", None])
        large, small, together = (e["metrics"] for e in evals)
        self.assertEqual([e["samples"] for e in evals], [90, 40, 130])
        score = (small["accuracy"] + small["f1"]) / 2
        self.assertAlmostEqual(together["average"],
                               (large["accuracy"] + score) / 2)
        self.assertEqual(together["small.f1"], small["f1"])
        self.assertEqual(jobs.summary(folder)["final"]["average"],
                         together["average"])

        delta = os.path.join(folder, "checkpoints", "step-12")
        resolved = os.path.join(folder, "config.yaml")
        again = jobs.run(["eval", resolved, "--json", "--delta", delta], None)
        self.assertEqual(again.status, 0, again.err)
        found = json.loads(again.out)
        self.assertEqual([t["task"] for t in found["tasks"]],
                         ["large", "small"])
        self.assertAlmostEqual(found["metrics"]["average"],
                               together["average"], places=4)
        lines = jobs.run(["predict", resolved, "--task", "small"], None)
        self.assertEqual(len(lines.out.splitlines()), 40, lines.err)
        which = jobs.run(["predict", resolved], None)
        self.assertEqual(which.status, 2)
        self.assertIn("say --task NAME", which.err)

    def test_a_run_goes_on_as_if_it_had_not_been_broken_off(self):
        losses = {}
        for broken in (False, True):
            folder = tiny.fresh_output(f"multitask-{broken}")
            config = self.config(f"multitask-{broken}", self.tasks, folder,
                                 {"rule": "equal", "one_task": True})
            stop = ["train.steps=6"] if broken else []
            for arguments in [stop, ["--resume"]][:2 if broken else 1]:
                result = jobs.run(["train", config, "train.schedule=constant",
                                   *arguments], 2)
                self.assertEqual(result.status, 0, result.err)
            losses[broken] = [s["loss"] for s in jobs.metrics(folder)]
        self.assertEqual(len(losses[False]), 12)
        self.assertEqual(losses[True], losses[False])

    def test_bad_input_is_one_clear_line(self):
        other = {**self.tasks,
                 "other": shards("other-train", 30, 13, "yes,no,maybe")}
        self.assertIn("its classes are yes, no, maybe, those of large are "
                      "0, 1, 2; tasks on one head need the same",
                      self.refusal("spaces", other))
        self.assertIn("data.train.large.wieght is unknown; did you mean "
                      "data.train.large.weight?",
                      self.refusal("typo", self.tasks,
                                   "data.train.large.wieght=2"))
        self.assertIn("data.train.large.weight is 0; it must be above 0",
                      self.refusal("weight", self.tasks,
                                   "data.train.large.weight=0"))
        self.assertIn("data.train.NAME.eval",
                      self.refusal("eval", self.tasks, "data.eval=DIR"))
        self.assertIn("mixing is for several tasks",
                      self.refusal("single", tiny.classify_shards("train")))


if __name__ == "__main__":
    unittest.main()
