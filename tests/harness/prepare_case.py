"""What the tests of data/prepare.py share: tokenizers of ten words, a folder of
shards read back, and the program from the outside."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

import h5py
import xxhash
from tokenizers import (Tokenizer, decoders, models, pre_tokenizers,
                        processors)

from tests.harness import jobs

WORDS = "red green blue sun moon star tree leaf root stone".split()


def bert_tokenizer(folder):
    os.makedirs(folder)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] + WORDS
    t = Tokenizer(models.WordPiece({w: i for i, w in enumerate(tokens)},
                                   unk_token="[UNK]"))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    t.decoder = decoders.WordPiece()
    t.add_special_tokens(tokens[:4])
    # A file may bring its own padding and truncation; neither must leak in.
    t.enable_padding(length=40)
    t.enable_truncation(5)
    t.save(os.path.join(folder, "tokenizer.json"))


def t5_tokenizer(folder, post_processor=True):
    os.makedirs(folder)
    pieces = ["<pad>", "</s>", "<unk>"] + ["▁" + w for w in WORDS] + ["▁"]
    t = Tokenizer(models.Unigram([(p, -float(i)) for i, p in
                                  enumerate(pieces)], unk_id=2))
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    if post_processor:
        t.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", 1)])
    t.add_special_tokens(["<pad>", "</s>", "<unk>"])
    t.add_special_tokens([f"<extra_id_{i}>" for i in range(9, -1, -1)])
    t.save(os.path.join(folder, "tokenizer.json"))


class Folder:
    """All samples of a folder of shards, as lists."""

    def __init__(self, path):
        with open(os.path.join(path, "index.json"), encoding="utf-8") as f:
            self.index = json.load(f)
        self.input, self.types, self.target = [], [], []
        self.references, self.label, self.id, self.task = [], [], [], []
        self.choices = []
        self.reference_samples = []
        for shard in self.index["shards"]:
            name = os.path.join(path, shard["file"])
            with open(name, "rb") as f:
                data = f.read()
            assert len(data) == shard["bytes"]
            assert xxhash.xxh3_128_hexdigest(data) == shard["xxh3_128"]
            with h5py.File(name) as f:
                assert f.attrs["thinwire_format"] == 1
                assert f.attrs["samples"] == shard["samples"]
                self._read(f)
        assert len(self.id) == self.index["samples"]

    def _read(self, f):
        def ragged(group, offsets=None):
            values = f[f"{group}/values"][:]
            ends = f[f"{offsets or group}/offsets"][:]
            assert ends[0] == 0 and ends[-1] == len(values)
            return [values[a:b].tolist() for a, b in zip(ends, ends[1:])]

        def visit(name, item):
            if isinstance(item, h5py.Dataset) and item.size:
                assert item.fletcher32 and item.shuffle, name

        f.visititems(visit)
        self.input += ragged("input")
        if "types" in f:
            self.types += ragged("types", "input")
        if "target" in f:
            self.target += ragged("target")
        if "references" in f:
            self.references += [bytes(b).decode() for b in ragged("references")]
            if "samples" in f["references"]:
                self.reference_samples += f["references/samples"][:].tolist()
        if "choices" in f:
            self.choices += ragged("choices")
        if "label" in f:
            self.label += f["label"][:].tolist()
        self.id += f["id"][:].tolist()
        self.task += f["task"][:].tolist()


class PrepareCase(unittest.TestCase):
    """An empty folder with two tokenizers, and prepare.py run in it."""

    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.dir = holder.name
        self.bert, self.t5 = self.path("bert"), self.path("t5")
        bert_tokenizer(self.bert)
        t5_tokenizer(self.t5)

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as f:
            f.write(text)
        return self.path(name)

    def prepare(self, *arguments):
        return subprocess.run(
            [sys.executable, os.path.join(jobs.ROOT, "data", "prepare.py"),
             *arguments], capture_output=True, text=True, cwd=self.dir)

    def good(self, *arguments):
        r = self.prepare(*arguments)
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertFalse([n for n in os.listdir(self.dir) if ".tmp-" in n])
        return r

    def bad(self, expect, *arguments):
        r = self.prepare(*arguments)
        self.assertEqual(r.returncode, 2, r.stdout + r.stderr)
        lines = r.stderr.strip().split("\n")
        self.assertEqual(len(lines), 1, r.stderr)
        self.assertTrue(lines[0].startswith("error: "), lines[0])
        self.assertIn(expect, lines[0])
        self.assertFalse([n for n in os.listdir(self.dir) if ".tmp-" in n])
