"""A run whose weights are pruned while it trains, from the config to a smaller
model that transformers loads."""

import json
import os
import unittest

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.harness import jobs, tiny
from tests.jobs.interop_test import Case

RANKS = 2
STEPS = 6
# One head of three or four, half of the channels.
DSEE = {"method": "dsee", "r": 4, "sparse": 8, "prune_after": 3,
        "prune_heads": 1, "prune_channels": 0.5}


class Pruned(Case):
    def trained(self, name, peft, **sections):
        output = tiny.fresh_output(f"pruned-{name}")
        config = tiny.config(f"pruned-{name}", output, peft=[peft],
                             train={"steps": STEPS}, **sections)
        result = jobs.run(["train", config], RANKS)
        self.assertEqual(result.status, 0, result.err)
        return output

    def merged(self, run):
        out = self.path("merged")
        result = jobs.run(["merge", run, "--output", out])
        self.assertEqual(result.status, 0, result.err)
        with open(os.path.join(out, "config.json"), encoding="utf-8") as f:
            return out, json.load(f), result.err

    def check_loss(self, run, model):
        """The merged model, untrained, has the run's last evaluation."""
        output = tiny.fresh_output("pruned-again")
        result = jobs.run(
            ["train", os.path.join(run, "config.yaml"), "model.config=~",
             f"model.path={model}", f"output={output}",
             "peft.0={method: lora}", "train.steps=1",
             "train.eval_at_start=true"], RANKS)
        self.assertEqual(result.status, 0, result.err)
        self.assertAlmostEqual(jobs.summary(output)["first"]["loss"],
                               jobs.summary(run)["final"]["loss"], places=5)

    def check_theirs(self, model, inputs):
        path, out = self.path("in.safetensors"), self.path("out.safetensors")
        save_file(inputs, path)
        self.done("forward", "--model", model, "--inputs", path, "--outputs",
                  out)
        self.theirs("peft", [{"model": model, "library": "none",
                              "inputs": path, "logits": self.path("theirs")}])
        self.close(load_file(self.path("theirs"))["logits"],
                   load_file(out)["logits"])

    def test_t5_loses_heads_and_channels(self):
        run = self.trained("t5", DSEE, **tiny.t5_sections())
        model, config, said = self.merged(run)
        self.assertEqual((config["num_heads"], config["d_kv"]), (2, 12))
        self.assertEqual(config["d_ff"], 20)
        self.assertIn("num_heads: 2 of 3 are left", said)
        shown = jobs.run(["inspect", run])
        self.assertEqual(shown.status, 0, shown.err)
        self.assertIn("removed heads and channels", shown.out)
        self.check_loss(run, model)
        ids = np.arange(5, 29).reshape(3, 8)
        self.check_theirs(model, {
            "input_ids": ids, "attention_mask": np.ones_like(ids),
            "labels": ids[:, :5].copy()})

    def test_bert_loses_channels_and_keeps_zeros(self):
        run = self.trained("bert", DSEE)
        model, config, said = self.merged(run)
        self.assertEqual(config["intermediate_size"], 24)
        self.assertEqual(config["num_attention_heads"], 4)
        self.assertIn("stay, as zeros", said)
        value = load_file(os.path.join(model, "model.safetensors"))[
            "bert.encoder.layer.1.attention.self.value.weight"]
        self.assertEqual((np.abs(value).sum(1) == 0).sum(), 8)
        self.check_loss(run, model)
        ids = np.arange(5, 29).reshape(3, 8)
        self.check_theirs(model, {
            "input_ids": ids, "attention_mask": np.ones_like(ids)})

    def test_single_numbers_stay_zeros(self):
        numbers = {"method": "dsee", "r": 4, "sparse": 8, "prune_after": 3,
                   "sparsity": 0.5, "other_sparsity": 0.25,
                   "mask_update": True}
        run = self.trained("numbers", numbers)
        model, config, said = self.merged(run)
        self.assertEqual(config["intermediate_size"], 48)
        self.assertNotIn("zeros", said)
        tensors = load_file(os.path.join(model, "model.safetensors"))
        zeros = {True: 0, False: 0}
        sizes = {True: 0, False: 0}
        for name, tensor in tensors.items():
            if ".layer." not in name or tensor.ndim < 2:
                continue
            target = ".query." in name or ".value." in name
            zeros[target] += (tensor == 0).sum()
            sizes[target] += tensor.size
        self.assertEqual(zeros[True], sizes[True] // 2)
        self.assertEqual(zeros[False], sizes[False] // 4)
        self.check_loss(run, model)


if __name__ == "__main__":
    unittest.main()
