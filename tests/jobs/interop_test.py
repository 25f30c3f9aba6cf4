"""import, export, merge and delta against Hugging Face: folders that peft and
AdapterHub wrote (tests/golden/make_interop.py) and, where such a Python is
(tests/run.sh), the libraries themselves on what is written here."""

import json
import os
import shutil
import subprocess
import tempfile
import unittest

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.harness import jobs

GOLDEN = os.path.join(jobs.ROOT, "tests", "golden")
FOLDERS = os.path.join(GOLDEN, "interop")
# fp32 of another order of summation, as the makers'.
TOLERANCE = 1e-4
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "labels")
PYTHONS = {"peft": "THINWIRE_GOLDEN_PYTHON",
           "adapterhub": "THINWIRE_ADAPTERHUB_PYTHON"}


def distance(got, want):
    return np.linalg.norm((got - want).astype(np.float64)) / np.linalg.norm(
        want.astype(np.float64))


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="thinwire-interop-")
        self.addCleanup(shutil.rmtree, self.folder)

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def done(self, *arguments):
        result = jobs.run(list(arguments))
        self.assertEqual(result.status, 0, result.err)
        return result.out

    def refused(self, *arguments, words=()):
        result = jobs.run(list(arguments))
        self.assertEqual(result.status, 2, result.err)
        self.assertEqual(len(result.errors), 1, result.err)
        for word in words:
            self.assertIn(word, result.errors[0])

    def inputs(self, model, rows=None):
        batch = load_file(os.path.join(GOLDEN, model, "golden.safetensors"))
        first, count = rows or (0, len(batch["labels"]))
        path = self.path(f"{model}-{first}.safetensors")
        save_file({k: np.ascontiguousarray(batch[k][first:first + count])
                   for k in INPUTS if k in batch}, path)
        return path

    def logits(self, model, *options, rows=None):
        out = self.path("out.safetensors")
        self.done("forward", "--model", model, "--inputs",
                  self.inputs(os.path.basename(model), rows), "--outputs", out,
                  *options)
        return load_file(out)["logits"]

    def close(self, got, want, what=None):
        self.assertEqual(got.shape, want.shape, what)
        self.assertLess(distance(got, want), TOLERANCE, what)

    def theirs(self, library, cases):
        """Runs theirs.py there, or skips."""
        python = os.environ.get(PYTHONS[library])
        if not python:
            self.skipTest(f"{library}: {PYTHONS[library]} names no Python with "
                          "it")
        with open(self.path("cases.json"), "w", encoding="utf-8") as f:
            json.dump(cases, f)
        script = os.path.join(jobs.ROOT, "tests", "harness", "theirs.py")
        done = subprocess.run([python, script, self.path("cases.json")],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])

    def imported(self, name):
        """The golden folder's about.json, and it as a delta."""
        with open(os.path.join(FOLDERS, name, "about.json"),
                  encoding="utf-8") as f:
            about = json.load(f)
        about["path"] = os.path.join(GOLDEN, about["model"])
        about["delta"] = self.path(name + ".safetensors")
        if not os.path.exists(about["delta"]):
            self.done("import", os.path.join(FOLDERS, name), "--model",
                      about["path"], "--output", about["delta"])
        return about


def names(library):
    prefix = {"peft": "peft_", "adapterhub": "hub_"}[library]
    return sorted(n for n in os.listdir(FOLDERS) if n.startswith(prefix))


class RoundTrip(Case):
    def test_what_they_wrote_computes_the_same_as_a_delta(self):
        for name in names("peft") + names("adapterhub"):
            with self.subTest(name):
                about = self.imported(name)
                golden = load_file(os.path.join(FOLDERS, name,
                                                "golden.safetensors"))
                self.close(self.logits(about["path"], "--delta",
                                       about["delta"], rows=about["rows"]),
                           golden["logits"], name)

    def export_and_read(self, library):
        """Theirs -> ours -> theirs: the same logits, and what they save of it
        the same keys and bits."""
        cases = []
        for name in names(library):
            about = self.imported(name)
            self.done("export", about["delta"], "--model", about["path"],
                      "--output", self.path(name), "--format", library)
            cases.append({"model": about["path"], "library": library,
                          "adapter": self.path(name),
                          "inputs": self.inputs(about["model"], about["rows"]),
                          "logits": self.path(name + ".logits"),
                          "saved": self.path(name + ".saved")})
        self.theirs(library, cases)
        for name, case in zip(names(library), cases):
            golden = load_file(os.path.join(FOLDERS, name,
                                            "golden.safetensors"))
            self.close(self.of_the_text(case), golden["logits"], name)
            self.same_tensors(name, library, case)

    @staticmethod
    def of_the_text(case):
        """A GPT-2 has logits of its prompt and of hidden cells as well."""
        logits = load_file(case["logits"])["logits"]
        if "gpt2" not in case["model"]:
            return logits
        seen = load_file(case["inputs"])["attention_mask"]
        return logits[:, -seen.shape[1]:] * seen[..., None]

    def same_tensors(self, name, library, case):
        for file in ("adapter_model.safetensors", "adapter.safetensors"):
            ours = os.path.join(case["adapter"], file)
            if not os.path.exists(ours):
                continue
            ours = load_file(ours)
            saved = load_file(os.path.join(case["saved"], file))
            # T5's usual class does not save a rule that all its layers share.
            lost = {k for k in ours if k.startswith("shared_parameters.")}
            self.assertEqual(set(saved), set(ours) - lost, name)
            for key, value in saved.items():
                np.testing.assert_array_equal(value, ours[key], key)

    def test_peft_reads_what_is_exported(self):
        self.export_and_read("peft")

    def test_adapterhub_reads_what_is_exported(self):
        self.export_and_read("adapterhub")


class Merge(Case):
    MERGED = ("peft_lora_bert", "peft_lora_t5", "peft_ia3_bert",
              "peft_ia3_t5")

    def merged(self, name):
        about = self.imported(name)
        out = self.path("merged", about["model"])
        shutil.rmtree(out, ignore_errors=True)
        os.makedirs(os.path.dirname(out), exist_ok=True)
        self.done("merge", about["delta"], "--model", about["path"],
                  "--output", out)
        return about, out

    def test_the_merged_model_computes_the_same(self):
        for name in self.MERGED:
            with self.subTest(name):
                about, out = self.merged(name)
                golden = load_file(os.path.join(FOLDERS, name,
                                                "golden.safetensors"))
                self.close(self.logits(out), golden["logits"], name)

    def test_transformers_loads_it(self):
        cases = []
        for name in self.MERGED:
            about, out = self.merged(name)
            kept = self.path(name + "-merged")
            shutil.move(out, kept)
            cases.append({"model": kept, "library": "none",
                          "inputs": self.inputs(about["model"]),
                          "logits": self.path(name + ".logits")})
        self.theirs("peft", cases)
        for name, case in zip(self.MERGED, cases):
            golden = load_file(os.path.join(FOLDERS, name,
                                            "golden.safetensors"))
            self.close(load_file(case["logits"])["logits"], golden["logits"],
                       name)

    def test_the_tokenizer_goes_along(self):
        about = self.imported("peft_lora_bert")
        model = self.path("bert_classify")
        shutil.copytree(about["path"], model)
        for name in ("tokenizer.json", "vocab.txt", "notes.txt"):
            with open(os.path.join(model, name), "w", encoding="utf-8") as f:
                f.write(name)
        self.done("merge", about["delta"], "--model", model, "--output",
                  self.path("out"))
        self.assertEqual(sorted(os.listdir(self.path("out"))),
                         ["config.json", "model.safetensors", "tokenizer.json",
                          "vocab.txt"])

    def test_what_cannot_be_merged_leaves_nothing_behind(self):
        for name, word in (("hub_houlsby_bert", "between layers"),
                           ("peft_prompt_bert", "a prompt"),
                           ("peft_prefix_bert", "prefixes")):
            about = self.imported(name)
            self.refused("merge", about["delta"], "--model", about["path"],
                         "--output", self.path("out"), words=[word])
            self.assertFalse(os.path.exists(self.path("out")))
            self.assertFalse(os.path.exists(self.path("out.tmp")))


class Refused(Case):
    def test_a_folder_that_is_there_is_kept(self):
        about = self.imported("peft_lora_bert")
        os.makedirs(self.path("out"))
        with open(self.path("out", "mine"), "w", encoding="utf-8") as f:
            f.write("mine")
        for verb in ("export", "merge"):
            self.refused(verb, about["delta"], "--model", about["path"],
                         "--output", self.path("out"), words=["is there"])
        self.assertEqual(os.listdir(self.path("out")), ["mine"])

    def test_another_backbone(self):
        about = self.imported("peft_lora_bert")
        other = os.path.join(GOLDEN, "roberta_classify")
        for verb in ("export", "merge"):
            self.refused(verb, about["delta"], "--model", other, "--output",
                         self.path("out"), words=["was made for backbone"])
        self.refused("import", os.path.join(FOLDERS, "peft_prefix_bert"),
                     "--model", os.path.join(GOLDEN, "t5_tied"), "--output",
                     self.path("x"), words=["decoder layers i and i + L/2"])
        self.assertFalse(os.path.exists(self.path("x")))

    def test_no_model_and_no_such_format(self):
        about = self.imported("peft_lora_bert")
        self.refused("export", about["delta"], "--output", self.path("out"),
                     words=["--model"])
        self.refused("export", about["delta"], "--model", about["path"],
                     "--output", self.path("out"), "--format", "onnx",
                     words=["onnx", "adapterhub"])
        self.refused("export", about["delta"], "--model", about["path"],
                     "--output", self.path("out"), "--sparse",
                     words=["no tensor of the model"])


class Arithmetic(Case):
    def test_average_and_scale_of_a_delta(self):
        about = self.imported("peft_ia3_bert")
        delta, model = about["delta"], about["path"]
        self.done("delta", "average", delta, delta, "--output",
                  self.path("mean"))
        self.done("delta", "scale", delta, "--factor", "0", "--model", model,
                  "--output", self.path("none"))
        want = load_file(delta)["values"]
        np.testing.assert_allclose(load_file(self.path("mean"))["values"],
                                   want, rtol=1e-6)
        # No way from where training began: the backbone with its own head.
        batch = load_file(os.path.join(model, "golden.safetensors"))
        self.close(self.logits(model, "--delta", self.path("none")),
                   batch["logits"])
        self.done("delta", "add", delta, self.path("none"), "--model", model,
                  "--output", self.path("sum"))
        np.testing.assert_allclose(load_file(self.path("sum"))["values"],
                                   want, rtol=1e-5, atol=1e-6)
        self.done("delta", "subtract", delta, delta, "--model", model,
                  "--output", self.path("zero"))
        np.testing.assert_allclose(load_file(self.path("zero"))["values"],
                                   load_file(self.path("none"))["values"],
                                   rtol=1e-5, atol=1e-6)
        table = self.done("delta", "describe", delta, "--model", model)
        self.assertIn("rms moved", table)
        self.assertIn("ia3_l", table)

    def test_what_does_not_fit_is_named(self):
        one = self.imported("peft_ia3_bert")["delta"]
        other = self.imported("peft_lora_bert")["delta"]
        t5 = self.imported("peft_ia3_t5")["delta"]
        out = ("--output", self.path("out"))
        self.refused("delta", "average", one, other, *out,
                     words=["different layouts", "entries"])
        self.refused("delta", "average", one, t5, *out,
                     words=["was made for backbone"])
        self.refused("delta", "add", one, one, *out, words=["--model"])
        self.refused("delta", "subtract", one, *out, words=["exactly 2"])
        self.refused("delta", "avrage", one, *out, words=["average"])
        self.refused("delta", "average", one, one, words=["--output"])
        self.refused("delta", "average", one, one, "--weights", "1", *out,
                     words=["1 --weights for 2 files"])
        self.refused("delta", "scale", one, *out, words=["--factor"])
        self.assertFalse(os.path.exists(self.path("out")))


if __name__ == "__main__":
    unittest.main()
