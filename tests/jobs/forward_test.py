"""`thinwire forward` against the golden files of Hugging Face: outputs, loss
and every gradient, each relative to its own norm."""

import json
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


class Case(unittest.TestCase):
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
            if name.endswith(("key.bias", "k_proj.bias")):  # zero: softmax ignores a shift
                scale = np.linalg.norm(golden[name[:-4] + "weight"])
                for value in (got[name], golden[name]):
                    self.assertLess(np.linalg.norm(value), TOLERANCE * scale)
                continue
            self.assertLess(distance(got[name], golden[name]), TOLERANCE, name)


class Forward(Case):
    def all_gradients(self, name):
        model = os.path.join(GOLDEN, name)
        golden = load_file(os.path.join(model, "golden.safetensors"))
        got = self.forward(model, golden, "--trainable", "full", "--grads")
        gradients = [k for k in golden if k.startswith("grad.")]
        self.assertGreater(len(gradients), 20)
        self.assertEqual(sorted(gradients),
                         sorted(k for k in got if k.startswith("grad.")))
        logits = got["logits"]
        if "decoder_attention_mask" not in golden and name.startswith(
                ("bart", "t5")):
            hidden = golden["labels"] == -100  # after the last label: no rows
            self.assertEqual(logits.shape[:2], hidden.shape)
        self.check(got, golden, ["logits", "loss", *gradients])

    def test_bart_text(self):
        self.all_gradients("bart_text")

    def test_bart_as_old_releases_saved_it(self):
        self.all_gradients("bart_bare")

    def test_bert_classify(self):
        self.all_gradients("bert_classify")

    def test_bert_regress(self):
        self.all_gradients("bert_regress")

    def test_t5_tied(self):
        self.all_gradients("t5_tied")

    def test_t5_gated(self):
        self.all_gradients("t5_gated")

    def test_gpt2_lm(self):
        self.all_gradients("gpt2_lm")

    def test_gpt2_classify(self):
        self.all_gradients("gpt2_classify")

    def test_bare_gpt2_of_the_hubs_oldest_form(self):
        model = os.path.join(GOLDEN, "gpt2_bare")
        golden = load_file(os.path.join(model, "golden.safetensors"))
        got = self.forward(model, golden)
        self.check(got, golden, ["last_hidden_state"])
        self.assertEqual(list(got), ["last_hidden_state"])

    def test_gpt2_labels_behind_hidden_tokens_are_refused(self):
        model = os.path.join(GOLDEN, "gpt2_lm")
        golden = load_file(os.path.join(model, "golden.safetensors"))
        inputs = os.path.join(self.folder, "in.safetensors")
        save_file({"input_ids": golden["input_ids"], "labels":
                   golden["input_ids"], "attention_mask":
                   golden["attention_mask"]}, inputs)
        result = jobs.run(["forward", "--model", model, "--inputs", inputs,
                           "--outputs", inputs + ".out"])
        self.assertEqual(result.status, 2)
        self.assertEqual(len(result.errors), 1, result.err)
        self.assertIn("put -100 there", result.errors[0])

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


class Adapter(Case):
    """Folders as peft writes them, put together from the golden values."""

    def adapter(self, name, task_type, **config):
        golden = load_file(os.path.join(GOLDEN, name, "golden.safetensors"))
        folder = os.path.join(self.folder, name)
        os.makedirs(folder)
        with open(os.path.join(folder, "adapter_config.json"), "w",
                  encoding="utf-8") as f:
            json.dump({"peft_type": "LORA", "task_type": task_type,
                       "bias": "none", "lora_dropout": 0.1,
                       "modules_to_save": ["classifier"], **config}, f)

        def on_disk(key):
            key = key.removeprefix("value.")
            return (key if key.startswith("base_model.")
                    else "base_model.model." + key)

        save_file({on_disk(k): v for k, v in golden.items()
                   if k.startswith("value.")},
                  os.path.join(folder, "adapter_model.safetensors"))
        return folder, golden

    def compare(self, name, model, task_type, **config):
        folder, golden = self.adapter(name, task_type, **config)
        path = os.path.join(GOLDEN, model)
        batch = load_file(os.path.join(path, "golden.safetensors"))
        got = self.forward(path, batch, "--adapter", folder, "--grads")
        self.check(got, golden, ["logits"])
        # Their loss is a sum, that of `forward` HF's mean.
        labels = batch["labels"]
        count = labels.size if model.startswith("bert") else np.sum(
            labels != -100)
        want = {k.replace("grad.classifier",
                          "grad.base_model.model.classifier"): v / count
                for k, v in golden.items() if k.startswith("grad.")}
        self.assertEqual(sorted(k for k in got if k.startswith("grad.")),
                         sorted(want))
        self.check(got, want, list(want))

    def test_lora_bert(self):
        self.compare("lora_bert", "bert_classify", "SEQ_CLS", r=3,
                     lora_alpha=5, target_modules=["query", "value"])

    def test_lora_bert_all_linear(self):
        self.compare("lora_bert_all", "bert_classify", "SEQ_CLS", r=4,
                     lora_alpha=6, use_rslora=True,
                     target_modules="all-linear",
                     rank_pattern={"layer.1.attention.self.key": 2},
                     alpha_pattern={"intermediate.dense": 9})

    def test_lora_bart(self):
        self.compare("lora_bart", "bart_text", "SEQ_2_SEQ_LM", r=3,
                     lora_alpha=5, target_modules=["q_proj", "v_proj"])

    def test_lora_t5(self):
        self.compare("lora_t5", "t5_tied", "SEQ_2_SEQ_LM", r=5, lora_alpha=7,
                     target_modules=["q", "v"])

    def test_what_is_not_read_is_refused(self):
        path = os.path.join(GOLDEN, "bert_classify")
        batch = load_file(os.path.join(path, "golden.safetensors"))
        inputs = os.path.join(self.folder, "in.safetensors")
        save_file({k: batch[k] for k in INPUTS if k in batch}, inputs)
        for change, word in (({"use_dora": True}, "use_dora"),
                             ({"peft_type": "LOHA"}, "LOHA"),
                             ({"r": 5}, "shape")):
            with self.subTest(word):
                shutil.rmtree(os.path.join(self.folder, "lora_bert"),
                              ignore_errors=True)
                folder, _ = self.adapter("lora_bert", "SEQ_CLS",
                                         **{"r": 3, "lora_alpha": 5, **change})
                result = jobs.run(["forward", "--model", path, "--inputs",
                                   inputs, "--outputs", inputs + ".out",
                                   "--adapter", folder])
                self.assertEqual(result.status, 2)
                self.assertEqual(len(result.errors), 1, result.err)
                self.assertIn(word, result.errors[0])


class RemakeGolden(unittest.TestCase):
    """Runs the models' makers again where THINWIRE_GOLDEN_PYTHON names a Python that
    has transformers; elsewhere the committed files stand for themselves, held
    to the versions they were made with."""

    def test_remake(self):
        python = os.environ.get("THINWIRE_GOLDEN_PYTHON")
        names = ["bart_text", "bart_bare", "bert_classify", "bert_regress",
                 "bert_bare", "gpt2_lm", "gpt2_classify", "gpt2_bare",
                 "t5_tied", "t5_gated"]
        if not python:
            print("golden files: not made again (set THINWIRE_GOLDEN_PYTHON "
                  "to a Python with transformers and peft)", file=sys.stderr)
            for name in names:
                path = os.path.join(GOLDEN, name, "golden.safetensors")
                with open(path, "rb") as f:
                    self.assertIn(b"transformers", f.read(4096))
            return
        folder = tempfile.mkdtemp(prefix="thinwire-golden-")
        self.addCleanup(shutil.rmtree, folder)
        makers = ("make_bart.py", "make_bert.py", "make_gpt2.py",
                  "make_t5.py")
        for maker in ("common.py", *makers):
            shutil.copy(os.path.join(GOLDEN, maker), folder)
        for maker in makers:
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
