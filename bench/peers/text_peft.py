"""Peer: HF transformers + peft on sentences of a TSV file, one process.

  bench/peers/text_peft.py --model HF_DIR --input TRAIN.tsv --columns sentence \\
      --steps 80 --out FILE

LoRA r 8 on query and value, fp32, no dropout of its own but the model's
configuration. Batches are padded to their longest sample. --grouping length
draws batches as the Trainer does with group_by_length: random within the
length groups of transformers' own sampler. Writes seconds_per_sample, the mean
over whole steps after warm-up, and each step's seconds and shape.
"""

import argparse
import csv
import json
import time

import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers.trainer_pt_utils import LengthGroupedSampler

WARMUP = 2


def batches(args, tokenizer):
    with open(args.input) as f:
        rows = list(csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE))
    columns = args.columns.split(",")
    names = sorted({r["label"] for r in rows})
    texts = [tuple(r[c] for c in columns) for r in rows]
    ids = [tokenizer(*t, truncation=True,
                     max_length=args.max_tokens)["input_ids"] for t in texts]
    g = torch.Generator().manual_seed(1)
    if args.grouping == "length":
        order = list(LengthGroupedSampler(
            args.batch, lengths=[len(i) for i in ids], generator=g))
    else:
        order = torch.randperm(len(ids), generator=g).tolist()
    # Groups of every length, as they come over an epoch.
    whole = [order[i:i + args.batch]
             for i in range(0, len(order) - args.batch + 1, args.batch)]
    chosen = torch.randperm(len(whole), generator=g)[:args.steps + WARMUP]
    for b in chosen.tolist():
        batch = tokenizer.pad({"input_ids": [ids[i] for i in whole[b]]},
                              return_tensors="pt")
        batch["labels"] = torch.tensor(
            [names.index(rows[i]["label"]) for i in whole[b]])
        yield batch


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--model", required=True)
    p.add_argument("--input", required=True)
    p.add_argument("--columns", required=True)
    p.add_argument("--max-tokens", type=int, required=True)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--steps", type=int, default=80)
    p.add_argument("--grouping", choices=("length", "none"), default="length")
    p.add_argument("--out", required=True)
    args = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    model = get_peft_model(
        transformers.AutoModelForSequenceClassification.from_pretrained(
            args.model, num_labels=2),
        LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"],
                   task_type="SEQ_CLS"))
    model.train()
    trainable = [q for q in model.parameters() if q.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=3e-4, weight_decay=0.0,
                                  fused=True)
    seconds, shapes = [], []
    for batch in batches(args, tokenizer):
        begin = time.perf_counter()
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - begin)
        shapes.append([list(batch["input_ids"].shape),
                       int(batch["attention_mask"].sum())])
    seconds, shapes = seconds[WARMUP:], shapes[WARMUP:]
    with open(args.out, "w") as f:
        json.dump(dict(versions={"torch": torch.__version__,
                                 "transformers": transformers.__version__},
                       seconds_per_sample=sum(seconds) / len(seconds) /
                       args.batch,
                       step_seconds=seconds, shapes=shapes), f)


if __name__ == "__main__":
    main()
