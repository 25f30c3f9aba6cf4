#!/usr/bin/env python3
"""data/prepare.py from the outside: task kinds, splits, errors.

Run: .venv/bin/python -m unittest tests/jobs/prepare_test.py
"""

import gzip
import json
import os
import subprocess
import sys
import tempfile
import unittest

from tokenizers import Tokenizer

from tests.harness import jobs
from tests.harness.prepare_case import (WORDS, Folder, PrepareCase,
                                        t5_tokenizer)

sys.path.insert(0, os.path.join(jobs.ROOT, "data"))

from prep import span_corruption  # noqa: E402


class PrepareTest(PrepareCase):
    def test_classify_as_the_manual_says_it(self):
        tsv = self.write("a.tsv", 'sentence\tlabel\nred "sun\t1\nblue\t0\n')
        self.good("--task", "classify", "--tokenizer", self.bert, "--input",
                  tsv, "--columns", "sentence,label", "--output",
                  self.path("out"))
        f = Folder(self.path("out"))
        self.assertEqual(f.input, [[2, 4, 1, 7, 3], [2, 6, 3]])
        self.assertEqual(f.label, [1, 0])
        self.assertEqual(f.types, [])
        self.assertEqual(f.id, [0, 1])
        self.assertEqual(f.index["label_names"], ["0", "1"])
        self.assertEqual(f.index["n_truncated"], 0)
        with open(self.path("out/vocab.json"), encoding="utf-8") as v:
            table = json.load(v)
        self.assertEqual(table["decoder"], "wordpiece")
        self.assertEqual(table["special"], [0, 1, 2, 3])
        self.assertEqual(table["tokens"][4], "red")

    def test_pairs_by_number_and_named_labels_over_several_files(self):
        a = self.write("a.csv", '"red, sun",blue,no\n')
        with gzip.open(self.path("b.csv.gz"), "wt") as f:
            f.write("moon,star,yes\nsun,sun,maybe\n")
        self.good("--task", "classify", "--tokenizer", self.bert, "--input", a,
                  "--input", self.path("b.csv.gz"), "--no-header", "--columns",
                  "1+2,3", "--task-id", "7", "--output", self.path("out"))
        f = Folder(self.path("out"))
        self.assertEqual(f.input[1], [2, 8, 3, 9, 3])
        self.assertEqual(f.types[1], [0, 0, 0, 1, 1])
        self.assertEqual(f.index["label_names"], ["maybe", "no", "yes"])
        self.assertEqual(f.label, [1, 2, 0])
        self.assertEqual(f.task, [7, 7, 7])

    def test_label_names_fix_the_numbers(self):
        tsv = self.write("a.tsv", "t\tl\nred\tyes\nblue\tno\n")
        common = ("--task", "classify", "--tokenizer", self.bert, "--input",
                  tsv, "--columns", "t,l", "--output", self.path("out"))
        self.good(*common, "--label-names", "yes,no,maybe")
        f = Folder(self.path("out"))
        self.assertEqual((f.label, f.index["labels"]), ([0, 1], 3))
        self.bad("label 'no' is not one of", *common, "--force",
                 "--label-names", "yes,maybe")

    def test_truncation_is_counted(self):
        tsv = self.write("a.tsv", "t\tl\n" + "red " * 9 + "\t0\nred\t0\n")
        self.good("--task", "classify", "--tokenizer", self.bert, "--input",
                  tsv, "--columns", "t,l", "--max-tokens", "6", "--output",
                  self.path("out"))
        f = Folder(self.path("out"))
        self.assertEqual(f.input, [[2, 4, 4, 4, 4, 3], [2, 4, 3]])
        self.assertEqual((f.index["n_truncated"], f.index["max_input"]), (1, 6))

    def test_regress_from_jsonl(self):
        lines = self.write("a.jsonl", '{"s": "red", "y": 2.5}\n'
                           '{"y": -1, "s": "blue", "other": null}\n')
        self.good("--task", "regress", "--tokenizer", self.bert, "--input",
                  lines, "--columns", "s,y", "--output", self.path("out"))
        self.assertEqual(Folder(self.path("out")).label, [2.5, -1.0])

    def test_text_to_text(self):
        tsv = self.write("a.tsv", "a\tb\tc\nred\tsun\tmoon tree\n")
        common = ("--task", "text_to_text", "--input", tsv, "--columns",
                  "a+b,c", "--prefix", "star ")
        self.good(*common, "--tokenizer", self.t5, "--output", self.path("x"))
        bare = self.path("bare")  # a tokenizer that puts no </s> itself
        t5_tokenizer(bare, post_processor=False)
        self.good(*common, "--tokenizer", bare, "--max-target-tokens", "2",
                  "--output", self.path("y"))
        x, y = Folder(self.path("x")), Folder(self.path("y"))
        self.assertEqual(x.input, [[8, 3, 6, 1]])
        self.assertEqual(x.target, [[7, 9, 1]])
        self.assertEqual(x.references, ["moon tree"])
        self.assertEqual(y.input, x.input)
        self.assertEqual((y.target, y.index["n_truncated"]), ([[7, 1]], 1))
        self.assertEqual(x.index["eos_id"], 1)
        self.bad("no end-of-sequence token", *common, "--tokenizer", self.bert,
                 "--output", self.path("z"))

    def test_several_references(self):
        tsv = self.write("a.tsv", "a\tb\nred\tsun / moon tree/sun\n"
                                  "blue\tsun\n")
        common = ("--task", "text_to_text", "--tokenizer", self.t5, "--input",
                  tsv, "--columns", "a,b", "--output")
        self.good(*common, self.path("x"), "--reference-separator", "/")
        x = Folder(self.path("x"))
        self.assertEqual(x.references, ["sun", "moon tree", "sun", "sun"])
        self.assertEqual(x.reference_samples, [0, 3, 4])
        self.good(*common, self.path("y"))
        y = Folder(self.path("y"))
        self.assertEqual(y.references, ["sun / moon tree/sun", "sun"])
        self.assertEqual(y.reference_samples, [])
        self.assertEqual(x.target[0], y.target[1])
        self.bad("empty reference", *common, self.path("z"),
                 "--reference-separator", "/sun")
        self.bad("means nothing for --task", "--task", "span_corruption",
                 "--tokenizer", self.t5, "--input", tsv, "--output",
                 self.path("z"), "--reference-separator", "/")

    def test_span_corruption_gives_the_text_back(self):
        rows = [" ".join(WORDS[(i * j) % 10] for j in range(3 + i * 2))
                for i in range(1, 40)] + ["sun"]
        text = self.write("a.txt", "\n".join(rows) + "\n")
        common = ("--task", "span_corruption", "--tokenizer", self.t5,
                  "--input", text, "--max-tokens", "24", "--max-target-tokens",
                  "12")
        self.good(*common, "--output", self.path("x"))
        self.good(*common, "--output", self.path("y"))
        self.good(*common, "--output", self.path("z"), "--seed", "2")
        x, y = Folder(self.path("x")), Folder(self.path("y"))
        self.assertEqual((x.input, x.target), (y.input, y.target))
        self.assertTrue(x.input != Folder(self.path("z")).input)
        tok = Tokenizer.from_file(os.path.join(self.t5, "tokenizer.json"))
        sentinels = [tok.token_to_id(f"<extra_id_{i}>") for i in range(10)]
        self.assertEqual(sorted(sentinels, reverse=True), sentinels)
        whole, hidden = [], 0
        for source, target in zip(x.input, x.target):
            self.assertLessEqual(len(source), 24)
            self.assertLessEqual(len(target), 12)
            self.assertEqual((source[-1], target[-1]), (1, 1))
            used = [t for t in target if t in sentinels]
            self.assertEqual(used, sentinels[:len(used)])
            spans = {}
            for token in target[:-1]:
                if token in sentinels:
                    spans[token] = current = []
                else:
                    current.append(token)
            self.assertEqual(spans.pop(used[-1]), [])
            hidden += sum(map(len, spans.values()))
            for token in source[:-1]:
                whole += spans.pop(token) if token in spans else [token]
            self.assertEqual(spans, {})
        length = span_corruption.piece_length(24, 12, 0.15, 3.0, 10)
        ids, dropped = [], 0
        for e in tok.encode_batch(rows, add_special_tokens=False):
            for at in range(0, len(e.ids), length):
                piece = e.ids[at:at + length]
                if len(piece) > 1:
                    ids += piece
                else:  # nothing would be left to see
                    dropped += 1
        self.assertGreater(dropped, 0)
        self.assertTrue(whole == ids)
        self.assertAlmostEqual(hidden / len(ids), 0.15, delta=0.03)

    def test_span_counts_are_the_papers(self):
        # 568 tokens become 512, as T5 was pre-trained, and 114 with a closing
        # sentinel.
        self.assertEqual(
            span_corruption.piece_length(512, 115, 0.15, 3.0, 100), 568)
        self.assertEqual(span_corruption.span_counts(568, 0.15, 3.0, 100),
                         (85, 28))
        for n in range(2, 400):
            noise, spans = span_corruption.span_counts(n, 0.15, 3.0, 100)
            self.assertTrue(1 <= spans <= noise < n)
            self.assertLessEqual(spans, n - noise + 1)

    def test_every_placement_of_a_span_occurs(self):
        seen = {tuple(span_corruption.corrupt([5, 6, 7, 8, 9], [3, 2], 1, 4, i)
                      [0]) for i in range(300)}
        self.assertEqual(seen, {tuple([5, 6, 7, 8, 9][:k] + [3] +
                                      [5, 6, 7, 8, 9][k + 1:] + [1])
                                for k in range(5)})

    def test_split_by_hash(self):
        rows = [f"{WORDS[i % 10]} {WORDS[i // 10 % 10]}\t{i % 3}\tk{i // 2}"
                for i in range(2000)]
        tsv = self.write("a.tsv", "t\tl\tkey\n" + "\n".join(rows) + "\n")
        common = ("--task", "classify", "--tokenizer", self.bert, "--input",
                  tsv, "--columns", "t,l", "--split", "train:0.8,eval:0.2",
                  "--shard-samples", "300")
        self.good(*common, "--split-key", "key", "--output", self.path("x"))
        train, held = (Folder(self.path("x/" + s)) for s in ("train", "eval"))
        self.assertEqual(sorted(train.id + held.id), list(range(2000)))
        self.assertAlmostEqual(len(held.id) / 2000, 0.2, delta=0.04)
        self.assertFalse({i // 2 for i in train.id} & {i // 2 for i in held.id})
        self.assertEqual(len(train.index["shards"]),
                         -(-len(train.id) // 300))
        for f in (train, held):
            self.assertEqual(f.label, [i % 3 for i in f.id])
            self.assertEqual(f.index["labels"], 3)
        # Other rows do not move a row; by default equal texts stay together.
        self.write("a.tsv", "t\tl\tkey\n" + "\n".join(rows[:1000]) + "\n")
        self.good(*common, "--split-key", "key", "--output", self.path("y"))
        self.assertEqual(Folder(self.path("y/eval")).id,
                         [i for i in held.id if i < 1000])
        self.good(*common, "--output", self.path("z"))
        a, b = Folder(self.path("z/train")), Folder(self.path("z/eval"))
        self.assertFalse({tuple(s) for s in a.input} &
                         {tuple(s) for s in b.input})

    def test_same_input_same_bytes(self):
        tsv = self.write("a.tsv", "t\tl\nred\t0\nblue sun\t1\n")
        shards = []
        for out in ("x", "y"):
            self.good("--task", "classify", "--tokenizer", self.bert,
                      "--input", tsv, "--columns", "t,l", "--output",
                      self.path(out))
            shards.append(Folder(self.path(out)).index["shards"])
        self.assertEqual(shards[0], shards[1])

    def test_output_is_kept_unless_forced(self):
        tsv = self.write("a.tsv", "t\tl\nred\t0\n")
        common = ("--task", "classify", "--tokenizer", self.bert, "--input",
                  tsv, "--columns", "t,l", "--output", self.path("out"))
        self.good(*common)
        self.bad("exists", *common)
        self.write("a.tsv", "t\tl\nred\tx\nblue\n")
        self.bad("a.tsv:3: has 1 columns", *common, "--force")
        self.assertEqual(Folder(self.path("out")).label, [0])
        self.write("a.tsv", "t\tl\nblue\t0\nred\t1\n")
        self.good(*common, "--force")
        self.assertEqual(Folder(self.path("out")).label, [0, 1])

    def test_bad_input_is_one_line(self):
        tsv = self.write("a.tsv", "t\tl\nred\t0\nblue\tx\n")
        broken = self.path("broken")
        os.makedirs(broken)
        self.write("broken/tokenizer.json", "{}")
        right = {"--task": "classify", "--tokenizer": self.bert, "--input": tsv,
                 "--columns": "t,l", "--output": self.path("out")}

        def wrong(expect, *more, **changes):
            a = dict(right)
            for key, value in changes.items():
                a["--" + key] = value
            self.bad(expect, *(x for kv in a.items() for x in kv), *more)

        wrong("no column 'z' (it has: t, l)", columns="z,l")
        wrong("not column 9", columns="9,l")
        wrong("has 1 parts", columns="t")
        wrong("empty name", columns="t,,l")
        wrong("'translate' is unknown; choose one of", task="translate")
        wrong("needed for --task", columns="")
        wrong("no such file", input=self.path("none.tsv"))
        wrong("cannot tell the format", input=self.write("a.dat", "x\n"))
        wrong("no rows", input=self.write("e.tsv", ""))
        wrong("no rows", input=self.write("h.tsv", "t\tl\n"))
        wrong("not a finite number", task="regress")
        wrong("a.tsv:3", task="regress")
        wrong("not a class number",
              input=self.write("n.tsv", "t\tl\nred\t-1\nblue\t1\n"))
        wrong("label is empty", input=self.write("m.tsv", "t\tl\nred\t\n"))
        wrong("tokenizer.json is needed", tokenizer=self.path("nowhere"))
        wrong("not a tokenizer", tokenizer=broken)
        wrong("no sentinels", task="span_corruption", columns="t")
        wrong("adds up to", "--split", "a:0.5,b:0.4")
        wrong("NAME:SHARE", "--split", "a:x,b:1")
        wrong("no samples fell", "--split", "a:0.9999999,b:0.0000001")
        wrong("no room", "--max-tokens", "1")
        wrong("at least 1", "--max-tokens", "0")
        wrong("unrecognized arguments: --typo", "--typo")
        wrong("not JSON", input=self.write("a.jsonl", "{oops\n"))
        wrong("no column 'l' (it has: t)",
              input=self.write("b.jsonl", '{"t": "red"}\n'))
        with open(self.path("latin.tsv"), "wb") as f:
            f.write(b"t\tl\ncaf\xe9\t0\n")
        wrong("not UTF-8", input=self.path("latin.tsv"))
        with open(self.path("cut.tsv.gz"), "wb") as f:
            f.write(gzip.compress(b"t\tl\nred\t0\n" * 99)[:-20])
        wrong("cannot read", input=self.path("cut.tsv.gz"))
        wrong("--output", output="/proc/nothing/here")

    def test_the_decode_table_gives_the_text_back(self):
        tsv = self.write("a.tsv", "a\tb\nred sun\tmoon\n")
        self.good("--task", "text_to_text", "--tokenizer", self.t5, "--input",
                  tsv, "--columns", "a,b", "--output", self.path("x"))
        with open(self.path("x/vocab.json"), encoding="utf-8") as v:
            table = json.load(v)
        self.assertEqual(table["decoder"], "metaspace")
        tokens = [table["tokens"][i] for i in Folder(self.path("x")).input[0]
                  if i not in table["special"]]
        self.assertEqual("".join(tokens).replace("▁", " ")[1:], "red sun")


class DebianDescriptionsTest(unittest.TestCase):
    def test_keeps_the_largest_sections_without_their_area(self):
        records = []
        for name, section, text in [
                ("b", "games", "Play\n More of\n .\n it\tnow"),
                ("a", "non-free/games", "Old play"),
                ("c", "contrib/net", "Wire"), ("d", "net", "Cable"),
                ("e", "misc", "Rest"), ("b", "net", "Twice")]:
            records.append(f"Package: {name}\nVersion: 1\nDescription: {text}\n"
                           f"Section: {section}\n")
        with tempfile.TemporaryDirectory() as folder:
            source, out = folder + "/avail", folder + "/out.tsv"
            with open(source, "w") as f:
                f.write("\n".join(records))
            subprocess.run(
                [sys.executable,
                 os.path.join(jobs.ROOT, "data", "debian_descriptions.py"),
                 "--input", source, "--output", out, "--classes", "2"],
                check=True, capture_output=True)
            with open(out) as f:
                self.assertEqual(f.read().split("\n"), [
                    "name\ttext\tsection", "a\tOld play\tgames",
                    "b\tPlay More of it now\tgames", "c\tWire\tnet",
                    "d\tCable\tnet", ""])


if __name__ == "__main__":
    unittest.main()
