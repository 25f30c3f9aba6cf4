"""The verbs from outside: what they print, write and return."""

import json
import os
import unittest

from tests.harness import jobs, tiny


class Program(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tiny.fresh_output("program")
        cls.config = tiny.config("program", cls.folder, train={
            "steps": 150, "lr": 2e-2, "eval_every": 50, "eval_at_start": True})
        cls.result = jobs.run(["train", cls.config], 2)
        assert cls.result.status == 0, cls.result.err

    def ok(self, *arguments, ranks=None):
        result = jobs.run(arguments, ranks)
        self.assertEqual(result.status, 0, result.err)
        return result.out

    def read(self, folder, name):
        with open(os.path.join(folder, name), encoding="utf-8") as f:
            return f.read()

    def test_run_folder_is_complete(self):
        names = set(os.listdir(self.folder))
        self.assertLessEqual({"config.yaml", "metrics.jsonl", "summary.json",
                              "log.txt", "log-1.txt", "best", "checkpoints"},
                             names)
        self.assertTrue([n for n in names if n.startswith("events.out")])

    def test_training_learns(self):
        evals = jobs.metrics(self.folder, "eval")
        self.assertEqual([e["step"] for e in evals], [0, 50, 100, 150])
        self.assertLess(evals[-1]["metrics"]["loss"],
                        0.8 * evals[0]["metrics"]["loss"])

    def test_metrics_have_every_field(self):
        steps = jobs.metrics(self.folder)
        self.assertEqual([s["step"] for s in steps], list(range(1, 151)))
        self.assertLessEqual(
            {"loss", "lr", "grad_norm", "samples", "tokens", "step_ms",
             "data_ms", "forward_ms", "backward_ms", "comm_ms",
             "comm_exposed_ms", "optimizer_ms", "sent_bytes",
             "received_bytes"}, set(steps[0]))
        self.assertEqual(steps[0]["samples"], 16)

    def test_summary(self):
        summary = jobs.summary(self.folder)
        self.assertEqual(summary, jobs.metrics(self.folder, "summary")[-1])
        self.assertEqual(summary["status"], "done")
        self.assertEqual(summary["steps"], 150)
        self.assertEqual(summary["ranks"], 2)
        # r (d_in + d_out) on query and value of two layers, and the head.
        self.assertEqual(summary["trainable_parameters"],
                         2 * 2 * 4 * (32 + 32) + 3 * 32 + 3)
        self.assertGreater(summary["peak_rss_bytes"], 10 << 20)
        self.assertGreater(summary["sent_bytes"],
                           150 * summary["predicted_sent_bytes_per_step"])

    def test_a_backbone_of_bf16_matrices_trains_as_one_of_fp32(self):
        for method in ({"method": "lora", "r": 4},
                       {"method": "fish_mask", "density": 0.05,
                        "samples": 32}):
            last = {}
            for dtype in ("fp32", "bf16"):
                folder = tiny.fresh_output(dtype)
                config = tiny.config(
                    dtype, folder, peft=[method],
                    model={"path": tiny.bert(), "dtype": dtype},
                    train={"steps": 40, "lr": 5e-3, "eval_every": 40})
                result = jobs.run(["train", config], 2)
                self.assertEqual(result.status, 0, result.err)
                last[dtype] = jobs.metrics(folder, "eval")[-1]["metrics"]
            self.assertNotEqual(last["bf16"]["loss"], last["fp32"]["loss"])
            self.assertAlmostEqual(last["bf16"]["loss"], last["fp32"]["loss"],
                                   delta=0.02)
            again = json.loads(self.ok(
                "eval", config, "--json", "--delta",
                os.path.join(folder, "checkpoints", "step-40")))
            self.assertAlmostEqual(again["metrics"]["loss"],
                                   last["bf16"]["loss"], delta=5e-3)

    def test_eval_repeats_the_last_evaluation(self):
        """On one rank what two ranks found, to rounding."""
        delta = os.path.join(self.folder, "checkpoints", "step-150")
        for ranks in (None, 2):
            out = json.loads(self.ok("eval", self.config, "--json", "--delta",
                                     delta, ranks=ranks))
            last = jobs.metrics(self.folder, "eval")[-1]["metrics"]
            self.assertEqual(set(out["metrics"]), set(last))
            for name, value in last.items():
                self.assertAlmostEqual(out["metrics"][name], value, places=4)

    def test_predict_agrees_with_eval(self):
        out = json.loads(self.ok("eval", self.config, "--json"))
        path = os.path.join(tiny.folder(), "predictions.jsonl")
        self.ok("predict", self.config, "--output", path, ranks=2)
        with open(path, encoding="utf-8") as f:
            lines = [json.loads(line) for line in f]
        self.assertEqual([line["id"] for line in lines], list(range(90)))
        right = 0
        table = os.path.join(tiny.folder(), "classify-eval.tsv")
        with open(table, encoding="utf-8") as f:
            labels = [int(row.split("\t")[1]) for row in f.readlines()[1:]]
        for line, label in zip(lines, labels):
            self.assertAlmostEqual(sum(line["scores"]), 1, places=4)
            self.assertEqual(line["name"], str(line["label"]))
            right += line["label"] == label
        self.assertAlmostEqual(right / 90, out["metrics"]["accuracy"])

    def test_text_run_predicts_text(self):
        folder = tiny.fresh_output("text")
        config = tiny.config("text", folder, train={"steps": 3},
                             **{k: v for k, v in tiny.t5_sections().items()})
        self.ok("train", config, ranks=2)
        out = self.ok("predict", config, "train.eval_samples=5")
        lines = [json.loads(line) for line in out.splitlines()]
        self.assertEqual(len(lines), 5)
        for line in lines:
            self.assertIn("text", line)
            self.assertLessEqual(len(line["tokens"]), 8)

    def test_inspect(self):
        text = self.ok("inspect", self.config)
        sent = {s["sent_bytes"] for s in jobs.metrics(self.folder)}
        self.assertEqual(len(sent), 1)
        self.assertIn(f"2 ranks: each sends {sent.pop():,} bytes a step", text)
        self.assertIn("1,123", text)
        self.assertIn("payload per exchange: 4,496 bytes", text)
        text = self.ok("inspect", os.path.join(self.folder, "best"))
        self.assertIn("1,123", text)
        self.assertIn("lora", text)
        text = self.ok("inspect", tiny.classify_shards("eval"))
        self.assertRegex(text, r"samples +90\b")
        self.assertIn("24,032", self.ok("inspect", tiny.bert()))

    def test_check_starts_nothing(self):
        output = tiny.fresh_output("checked")
        config = tiny.config("checked", output)
        self.assertIn("the config is good", self.ok("train", config,
                                                    "--check"))
        self.assertFalse(os.path.exists(output))

    def test_resolved_config_runs_alike(self):
        output = tiny.fresh_output("again")
        self.ok("train", os.path.join(self.folder, "config.yaml"),
                f"output={output}", "train.steps=7", ranks=2)
        text, want = [self.read(folder, "config.yaml")
                      for folder in (output, self.folder)]
        self.assertEqual(text.replace(output, "X").replace("steps: 7", "S"),
                         want.replace(self.folder, "X").replace("steps: 150",
                                                                "S"))

    def test_extends_and_environment(self):
        base = tiny.config("base", "${env:THINWIRE_TEST_OUTPUT}")
        path = os.path.join(tiny.folder(), "extends.yaml")
        with open(path, "w", encoding="utf-8") as f:
            f.write("extends: base.yaml\npeft: [{method: head}]\n")
        output = tiny.fresh_output("extends")
        result = jobs.run(["train", path, "train.steps=2"],
                          env={"THINWIRE_TEST_OUTPUT": output})
        self.assertEqual(result.status, 0, result.err)
        self.assertEqual(jobs.summary(output)["trainable_parameters"], 99)

    def test_list_env_version_help(self):
        self.assertIn("lora", self.ok("list", "methods"))
        self.assertIn("Open MPI", self.ok("env"))
        self.assertIn("2 (2 on this host, backend mpi)",
                      self.ok("env", ranks=2))
        self.assertTrue(self.ok("--version").startswith("thinwire "))
        self.assertIn("train.lr=1e-3", self.ok("--help-config"))
        for verb in ("train", "eval", "predict", "mask", "forward", "inspect",
                     "merge", "export", "import", "delta", "data", "list",
                     "env"):
            self.assertIn("Example:", self.ok(verb, "--help"))

    def test_threads_are_as_asked(self):
        for threads in (1, 2):
            output = tiny.fresh_output("threads")
            result = jobs.run(["train", self.config, f"output={output}",
                               "train.steps=1", f"train.threads={threads}"])
            self.assertEqual(result.status, 0, result.err)
            self.assertIn(f"threads: {threads} per rank", result.err)


class ManyRanks(unittest.TestCase):
    """P ranks with batch b take the steps of one rank with batch P b, with
    dropout on and ragged targets."""

    def curve(self, name, ranks, batch, accumulation=1):
        output = tiny.fresh_output(name)
        sections = tiny.t5_sections()
        sections["data"]["batch_size"] = batch
        config = tiny.config(name, output, peft=[
            {"method": "lora", "r": 4, "dropout": 0.1}],
            train={"steps": 25, "accumulation": accumulation}, **sections)
        result = jobs.run(["train", config], ranks)
        self.assertEqual(result.status, 0, result.err)
        return [(s["loss"], s["grad_norm"]) for s in jobs.metrics(output)]

    def test_ranks_and_accumulation(self):
        want = self.curve("one", None, 16)
        self.assertEqual(len(want), 25)
        for name, ranks, batch, accumulation in (
                ("mpi-1", 1, 16, 1), ("mpi-2", 2, 8, 1), ("mpi-4", 4, 4, 1),
                ("accumulated", None, 4, 4), ("both", 2, 4, 2)):
            with self.subTest(name):
                got = self.curve(name, ranks, batch, accumulation)
                for (a, b), (c, d) in zip(got, want):
                    self.assertLess(abs(a - c), 2e-4 * abs(c))
                    self.assertLess(abs(b - d), 2e-3 * abs(d))


if __name__ == "__main__":
    unittest.main()
