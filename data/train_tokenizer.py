#!/usr/bin/env python3
"""A tokenizer in T5's form from plain text: a folder with tokenizer.json.

Byte-pair pieces of NFKC text, words begun by "▁" as SentencePiece writes them:
<pad> 0, </s> 1 (behind every text), <unk> 2, and last the sentinels of span
corruption, of which <extra_id_0> has the highest id. The same text gives the same
tokenizer, byte for byte (the library's Unigram trainer does not).
"""

import argparse
import json
import os
import sys

SPECIAL = ["<pad>", "</s>", "<unk>"]


def texts(path, column):
    """A column of a TSV with a header, or the lines of a text file."""
    with open(path, encoding="utf-8") as f:
        place = None
        if column:
            header = f.readline().rstrip("\n").split("\t")
            if column not in header:
                raise OSError(f"{path}: no column '{column}'; it has "
                              f"{', '.join(header)}")
            place = header.index(column)
        for line in f:
            line = line.rstrip("\n")
            yield line if place is None else line.split("\t")[place]


def train(lines, vocabulary, sentinels):
    from tokenizers import (AddedToken, Tokenizer, decoders, models,
                            normalizers, pre_tokenizers, processors, trainers)

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=vocabulary - sentinels, special_tokens=SPECIAL,
        show_progress=sys.stderr.isatty()))
    # Fewer pieces than asked for leave no gap before the sentinels.
    tokenizer.add_special_tokens([
        AddedToken(f"<extra_id_{i}>", normalized=False)
        for i in reversed(range(sentinels))])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--input", required=True, metavar="FILE", help="plain text, or a TSV")
    add("--column", metavar="NAME", help="of the TSV (default: whole lines)")
    add("--vocabulary", type=int, default=8000, metavar="N",
        help="pieces, special tokens and sentinels (default 8000)")
    add("--sentinels", type=int, default=100, metavar="N",
        help="for span corruption (default 100)")
    add("--output", required=True, metavar="DIR", help="folder to write to")
    o = parser.parse_args()
    if not 0 <= o.sentinels < o.vocabulary - len(SPECIAL):
        parser.error(f"--sentinels {o.sentinels} leaves no piece of "
                     f"--vocabulary {o.vocabulary}")
    try:
        tokenizer = train(texts(o.input, o.column), o.vocabulary, o.sentinels)
        os.makedirs(o.output, exist_ok=True)
        path = os.path.join(o.output, "tokenizer.json")
        tokenizer.save(path + ".tmp")
        os.replace(path + ".tmp", path)
        with open(os.path.join(o.output, "tokenizer_config.json"), "w") as f:
            json.dump({"tokenizer_class": "PreTrainedTokenizerFast",
                       "pad_token": "<pad>", "eos_token": "</s>",
                       "unk_token": "<unk>"}, f, indent=2)
            f.write("\n")
    except OSError as e:
        print(f"error: train_tokenizer: {e}", file=sys.stderr)
        return 2
    print(f"{path}: {tokenizer.get_vocab_size()} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
