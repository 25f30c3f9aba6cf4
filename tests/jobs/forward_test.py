"""`thinwire forward` against the golden files of Hugging Face: outputs, loss
and every gradient, each relative to its own norm."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.harness import jobs

GOLDEN = os.path.join(jobs.ROOT, "tests", "golden")
# fp32 of another order of summation; the makers check fp32 against fp64.
TOLERANCE = 1e-4
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "labels",
          "decoder_input_ids", "decoder_attention_mask")


def distance(got, want):
    return np.linalg.norm((got - want).astype(np.float64)) / max(
        np.linalg.norm(want.astype(np.float64)), 1e-6)


class Forward(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="thinwire-forward-")
        self.addCleanup(shutil.rmtree, self.folder)

    def forward(self, model, golden, *options):
        inputs = os.path.join(self.folder, "in.safetensors")
        outputs = os.path.join(self.folder, "out.safetensors")
        save_file({k: golden[k] for k in INPUTS if k in golden}, inputs)
        result = jobs.run(["forward", "--model", model, "--inputs", inputs,
                           "--outputs", outputs, *options])
        self.assertEqual(result.status, 0, result.err)
        return load_file(outputs)

    def check(self, got, golden, names):
        for name in names:
            self.assertIn(name, got)
            self.assertEqual(got[name].shape, golden[name].shape, name)
            if name.endswith("key.bias"):  # zero: softmax ignores a shift
                scale = np.linalg.norm(golden[name[:-4] + "weight"])
                for value in (got[name], golden[name]):
                    self.assertLess(np.linalg.norm(value), TOLERANCE * scale)
                continue
            self.assertLess(distance(got[name], golden[name]), TOLERANCE, name)

    def all_gradients(self, name):
        model = os.path.join(GOLDEN, name)
        golden = load_file(os.path.join(model, "golden.safetensors"))
        got = self.forward(model, golden, "--trainable", "full", "--grads")
        gradients = [k for k in golden if k.startswith("grad.")]
        self.assertGreater(len(gradients), 20)
        self.assertEqual(sorted(gradients),
                         sorted(k for k in got if k.startswith("grad.")))
        logits = got["logits"]
        if "decoder_attention_mask" not in golden and name.startswith("t5"):
            hidden = golden["labels"] == -100  # after the last label: no rows
            self.assertEqual(logits.shape[:2], hidden.shape)
        self.check(got, golden, ["logits", "loss", *gradients])

    def test_bert_classify(self):
        self.all_gradients("bert_classify")

    def test_bert_regress(self):
        self.all_gradients("bert_regress")

    def test_t5_tied(self):
        self.all_gradients("t5_tied")

    def test_t5_gated(self):
        self.all_gradients("t5_gated")

    def test_bare_bert(self):
        model = os.path.join(GOLDEN, "bert_bare")
        golden = load_file(os.path.join(model, "golden.safetensors"))
        keep = [0, 2, 3]  # sequence 1 hides its first cell, see the maker
        golden = {k: v[keep] if k in INPUTS or k in (
            "last_hidden_state", "pooler_output") else v
            for k, v in golden.items()}
        got = self.forward(model, golden)
        self.check(got, golden, ["last_hidden_state", "pooler_output"])

    def test_gradients_need_something_that_trains(self):
        model = os.path.join(GOLDEN, "bert_classify")
        golden = load_file(os.path.join(model, "golden.safetensors"))
        inputs = os.path.join(self.folder, "in.safetensors")
        save_file({k: golden[k] for k in INPUTS if k in golden}, inputs)
        result = jobs.run(["forward", "--model", model, "--inputs", inputs,
                           "--outputs", inputs + ".out", "--grads"])
        self.assertEqual(result.status, 2)
        self.assertEqual(len(result.errors), 1, result.err)
        self.assertIn("--trainable full", result.errors[0])


class RemakeGolden(unittest.TestCase):
    """Runs two makers again where THINWIRE_GOLDEN_PYTHON names a Python that
    has transformers; elsewhere the committed files stand for themselves, held
    to the versions they were made with."""

    def test_remake(self):
        python = os.environ.get("THINWIRE_GOLDEN_PYTHON")
        names = ["bert_classify", "bert_regress", "bert_bare", "t5_tied",
                 "t5_gated"]
        if not python:
            print("golden files: not made again (set THINWIRE_GOLDEN_PYTHON "
                  "to a Python with transformers and peft)", file=sys.stderr)
            for name in names:
                path = os.path.join(GOLDEN, name, "golden.safetensors")
                with open(path, "rb") as f:
                    self.assertIn(b'"transformers"', f.read(4096))
            return
        folder = tempfile.mkdtemp(prefix="thinwire-golden-")
        self.addCleanup(shutil.rmtree, folder)
        for maker in ("common.py", "make_bert.py", "make_t5.py"):
            shutil.copy(os.path.join(GOLDEN, maker), folder)
        for maker in ("make_bert.py", "make_t5.py"):
            subprocess.run([python, os.path.join(folder, maker)], check=True,
                           stdout=subprocess.DEVNULL)
        for name in names:
            for file in ("model.safetensors", "golden.safetensors"):
                new = load_file(os.path.join(folder, name, file))
                old = load_file(os.path.join(GOLDEN, name, file))
                self.assertEqual(sorted(new), sorted(old))
                for key in old:
                    self.assertLess(distance(new[key], old[key]), 1e-5,
                                    f"{name}: {key}")


if __name__ == "__main__":
    unittest.main()
