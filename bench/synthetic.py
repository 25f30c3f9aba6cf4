"""Text-to-text shards of fixed length and random tokens, for benchmarks.

  .venv/bin/python bench/synthetic.py --output build/bench/t2t

Tokens are uniform over ids 2 … 32,099 (0 pads, 1 ends a text); every input has
--input tokens and every target --target, the end token included.
"""

import argparse
import json
import os
import random
import subprocess
import sys

VOCABULARY = 32100
HERE = os.path.dirname(os.path.abspath(__file__))


def write_tokenizer(folder):
    os.makedirs(folder, exist_ok=True)
    vocab = {"<pad>": 0, "</s>": 1}
    vocab.update((f"w{i}", i) for i in range(2, VOCABULARY))
    added = [dict(id=i, content=t, single_word=False, lstrip=False,
                  rstrip=False, normalized=False, special=True)
             for i, t in ((0, "<pad>"), (1, "</s>"))]
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    tokenizer = dict(
        version="1.0", truncation=None, padding=None, added_tokens=added,
        normalizer=None, pre_tokenizer={"type": "WhitespaceSplit"},
        post_processor=dict(
            type="TemplateProcessing",
            single=[{"Sequence": {"id": "A", "type_id": 0}}, end],
            pair=[{"Sequence": {"id": "A", "type_id": 0}}, end,
                  {"Sequence": {"id": "B", "type_id": 0}}, end],
            special_tokens={"</s>": dict(id="</s>", ids=[1],
                                         tokens=["</s>"])}),
        decoder=None,
        model=dict(type="WordLevel", vocab=vocab, unk_token="<pad>"))
    with open(os.path.join(folder, "tokenizer.json"), "w") as f:
        json.dump(tokenizer, f)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--output", required=True)
    p.add_argument("--samples", type=int, default=512)
    p.add_argument("--input", type=int, default=128, help="tokens")
    p.add_argument("--target", type=int, default=32, help="tokens")
    args = p.parse_args()
    if os.path.exists(os.path.join(args.output, "index.json")):
        return
    work = args.output + ".work"
    write_tokenizer(work)
    rng = random.Random(1)

    def words(n):
        return " ".join(f"w{rng.randrange(2, VOCABULARY)}" for _ in range(n))

    table = os.path.join(work, "table.tsv")
    with open(table, "w") as f:
        f.write("input\ttarget\n")
        for _ in range(args.samples):
            f.write(f"{words(args.input - 1)}\t{words(args.target - 1)}\n")
    subprocess.run(
        [sys.executable, os.path.join(HERE, "..", "data", "prepare.py"),
         "--task", "text_to_text", "--tokenizer", work, "--input", table,
         "--columns", "input,target", "--max-tokens", str(args.input),
         "--max-target-tokens", str(args.target), "--output", args.output],
        check=True)


if __name__ == "__main__":
    main()
