#!/usr/bin/env python3
"""Makes the golden shard folders that data/*_test.cpp reads.

shards_classify/, shards_text/ and shards_references/ come out of data/prepare.py; what they must
hold is written to shards_expected.json by the tokenizers library alone.
Run from anywhere with the environment of data preparation:
    .venv/bin/python tests/golden/make_shards.py
"""

import json
import os
import random
import subprocess
import sys
import tempfile

from tokenizers import (Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors)

HERE = os.path.dirname(os.path.abspath(__file__))
PREPARE = os.path.join(HERE, "..", "..", "data", "prepare.py")
WORDS = ("able acid arch baby back band cave chef clay dawn deal desk echo edge "
         "envy fact farm film gate gift goal hall hand harp idea iron isle jade "
         "jazz joke keen kelp kite lace lake lamp made mail maze").split()
LABELS = ("bird", "fish", "moss")
ROWS, SHARD, STRIDE = 2500, 1100, 97


def wordpiece(folder):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokens += sorted({w[:2] for w in WORDS})
    tokens += sorted({"##" + w[2:] for w in WORDS} |
                     {"##" + w[-1] for w in WORDS})
    tok = Tokenizer(models.WordPiece({t: i for i, t in enumerate(tokens)},
                                     unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer()
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tok.decoder = decoders.WordPiece()
    tok.add_special_tokens(tokens[:4])
    tok.save(os.path.join(folder, "tokenizer.json"))
    return tok


def unigram(folder):
    pieces = ["<pad>", "</s>", "<unk>"] + ["▁" + w for w in WORDS]
    pieces += ["▁"] + [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tok = Tokenizer(models.Unigram([(p, -float(i)) for i, p in
                                    enumerate(pieces)], unk_id=2))
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    tok.decoder = decoders.Metaspace()
    tok.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    tok.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tok.save(os.path.join(folder, "tokenizer.json"))
    return tok


def prepare(output, tokenizer, rows, *arguments):
    source = os.path.join(tokenizer, "rows.tsv")
    with open(source, "w") as f:
        f.write("".join("\t".join(row) + "\n" for row in rows))
    subprocess.run([sys.executable, PREPARE, "--tokenizer", tokenizer,
                    "--input", source, "--no-header", "--force", "--output",
                    os.path.join(HERE, output), *arguments], check=True)


def main():
    random.seed(7)

    def words():
        return " ".join(random.choices(WORDS, k=random.randint(1, 6)))

    rows = [(words(), words(), random.choice(LABELS)) for _ in range(ROWS)]
    expected = {"stride": STRIDE, "classify": [], "text": []}
    with tempfile.TemporaryDirectory() as folder:
        tok = wordpiece(folder)
        prepare("shards_classify", folder, rows, "--task", "classify",
                "--columns", "1+2,3", "--max-tokens", "20", "--task-id", "5",
                "--shard-samples", str(SHARD))
        tok.enable_truncation(20)
        for i in range(0, ROWS, STRIDE):
            e = tok.encode(rows[i][0], rows[i][1])
            expected["classify"].append(
                {"input": e.ids, "types": e.type_ids,
                 "label": LABELS.index(rows[i][2]),
                 "decoded": tok.decode(e.ids)})
    with tempfile.TemporaryDirectory() as folder:
        tok = unigram(folder)
        prepare("shards_text", folder, rows[:200], "--task", "text_to_text",
                "--columns", "1,2", "--prefix", "deal: ", "--shard-samples",
                "90")
        for i in range(0, 200, STRIDE):
            ids = tok.encode("deal: " + rows[i][0]).ids
            expected["text"].append(
                {"input": ids, "decoded": tok.decode(ids),
                 "target": tok.encode(rows[i][1]).ids,
                 "reference": rows[i][1]})
        answers = [" ".join(WORDS[i:i + 1 + i % 3]) for i in range(4)]
        prepare("shards_choose", folder,
                [(row[0], answers[i % 4]) for i, row in enumerate(rows[:20])],
                "--task", "choose", "--columns", "1,2", "--choices",
                ",".join(answers))
        expected["choose"] = [tok.encode(a).ids for a in answers]
        # One to four references a row; the first is the target.
        several = [(a, " | ".join([b, *c.split()[:i % 4]]))
                   for i, (a, b, c) in enumerate(
                       (words(), words(), words()) for _ in range(30))]
        prepare("shards_references", folder, several, "--task", "text_to_text",
                "--columns", "1,2", "--reference-separator", "|",
                "--shard-samples", "12")
        expected["references"] = [b.split(" | ") for _, b in several]
    with open(os.path.join(HERE, "shards_expected.json"), "w") as f:
        json.dump(expected, f)
        f.write("\n")


if __name__ == "__main__":
    main()
