#!/usr/bin/env python3
"""Ways to train a T5 beside and inside it: quality, memory, bytes and time.

  .venv/bin/python bench/small_t5.py [--steps N] [--seeds 1,2]

The T5 that launch/small_t5.sh pre-trains by span corruption of Debian's package
descriptions (made where it is missing) answers with the archive section of a
package, one of 20 words, from its description: ladder side-tuning, LoRA, adapters,
SparseAdapter, DSEE, the structure that S3PET's search finds, and full fine-tuning.
Two ranks, one thread each, steps of 64, AdamW at 1e-2 (the better of two decades for LST, LoRA and adapters); full
fine-tuning by Adafactor with steps of each matrix's own scale, which serves it
better. The search learns its gates on examples that nothing else sees.

Writes bench/results/small_t5.json and the table between the marks in
docs/methods.md. Runs that the result file has already are not repeated.
"""

import argparse
import os
import subprocess

from common import (ROOT, markdown, median, mpirun, table,
                    train as run_config, write_between)
from kept_runs import KeptRuns

TASK = os.path.join(".cache", "small_t5", "tasks", "section")
FOLDER = os.path.join(ROOT, "runs", "small_t5")
PAGE = os.path.join(ROOT, "docs", "methods.md")
BUDGET = 0.005  # of the backbone's numbers: about what LoRA of rank 4 trains
SEARCH_STEPS = 200
SCALED = "optimizer: adafactor, scale_parameter: true, lr: 1e-2"
RATE = "lr: 1e-2"
METHODS = {  # what stands under `peft`, how it learns
    "full fine-tuning": ("{method: full}", SCALED),
    "LST, a quarter of the width": (
        "{method: lst, reduction_factor: 4}", RATE),
    "adapters, bottleneck 16": ("{method: houlsby, bottleneck: 16}", RATE),
    "SparseAdapter, bottleneck 64, 75 % pruned (SNIP)": (
        "{method: sparse_adapter, adapter: {method: houlsby, bottleneck: 64}, "
        "sparsity: 0.75, samples: 256}", RATE),
    "LoRA, rank 8, queries and values": (
        "{method: lora, r: 8, alpha: 16, target_modules: [q, v]}", RATE),
    "DSEE, rank 8, then 1 of 4 heads and 25 % of channels go": (
        "{method: dsee, r: 8, prune_after: %(half)d, prune_heads: 1, "
        "prune_channels: 0.25}", RATE),
    "S3PET's structure, found for 0.5 %": (
        "{method: sparse_structure}", RATE),
}
SEARCHED = "S3PET's structure, found for 0.5 %"


def config_of(method, steps):
    peft, how = METHODS[method]
    return f"""
model: {{path: .cache/small_t5/model}}
task: {{kind: text_to_text}}
data: {{train: {TASK}/train, eval: {TASK}/eval, batch_size: 32}}
peft: [{peft % dict(half=steps // 2) if "%" in peft else peft}]
train: {{{how}, steps: {steps}, warmup: {steps // 20}, schedule: linear,
         eval_at_start: true, eval_batch_size: 128, threads: 1}}
"""


def pretraining():
    with open(os.path.join(ROOT, "configs", "small_t5_pretrain.yaml"),
              encoding="utf-8") as f:
        return f.read()


def written(name, text):
    path = os.path.join(FOLDER, name)
    os.makedirs(FOLDER, exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    return path


def found_structure(steps):
    """A config with the structure that a search finds, for as many steps."""
    search = written("search.yaml", config_of(SEARCHED, SEARCH_STEPS) +
                     f"search: {{budget: {BUDGET}, data: {TASK}/rest}}\n")
    found = os.path.join(FOLDER, "found.yaml")
    mpirun(["search", search, "--output", found],
           os.path.join(FOLDER, "search.log"))
    return found, [f"train.steps={steps}", f"train.warmup={steps // 20}"]


def train(method, steps, seed):
    if method == SEARCHED:
        config, changes = found_structure(steps)
    else:
        config, changes = written("run.yaml", config_of(method, steps)), []
    lines = run_config(config, os.path.join(FOLDER, "run"), *changes,
                       f"train.seed={seed}", f"data.seed={seed}")
    evals = [l["metrics"] for l in lines if l["event"] == "eval"]
    summary = next(l for l in lines if l["event"] == "summary")
    print(f"{method}, seed {seed}: {evals[-1]['exact_match']:.4f}", flush=True)
    return dict(before=evals[0], after=evals[-1],
                trainable=summary["trainable_parameters"],
                total=summary["total_parameters"],
                bytes_per_step=summary["payload_bytes_per_step"],
                peak_tensor_bytes=summary["measured"]["peak_tensor_bytes"],
                peak_rss_bytes=summary["peak_rss_bytes"],
                seconds=summary["seconds"],
                step_ms=median([l["step_ms"] for l in lines
                                if l["event"] == "step"]))


def rows(kept, steps, seeds):
    yield ("what trains", "share", "exact match", "loss", "tensors, MB",
           "process, MB", "bytes per step", "step, ms")
    for method in METHODS:
        own = [kept.get(dict(method=method, config=config_of(method, steps),
                             start=pretraining(), steps=steps, seed=seed),
                        lambda s=seed: train(method, steps, s))
               for seed in seeds]
        first = own[0]

        def mean(key):
            return sum(r["after"][key] for r in own) / len(own)

        yield (method, f"{100 * first['trainable'] / first['total']:.2f} %",
               f"{mean('exact_match'):.3f}", f"{mean('loss'):.3f}",
               f"{first['peak_tensor_bytes'] / 1e6:.0f}",
               f"{first['peak_rss_bytes'] / 1e6:.0f}",
               f"{first['bytes_per_step']:,}",
               f"{median([r['step_ms'] for r in own]):.0f}")


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--steps", type=int, default=400)
    p.add_argument("--seeds", default="1", help="by commas (default 1)")
    args = p.parse_args()
    subprocess.run(["bash", "launch/small_t5.sh"], cwd=ROOT, check=True)
    kept = KeptRuns("small_t5.json", arguments=vars(args))
    found = list(rows(kept, args.steps,
                      list(map(int, args.seeds.split(",")))))
    table(found)
    write_between(PAGE, "small t5", "\n".join(["", *markdown(found), ""]))


if __name__ == "__main__":
    main()
