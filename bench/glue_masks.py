#!/usr/bin/env python3
"""Which numbers to train: FISH, random and magnitude masks and BitFit on GLUE.

  .venv/bin/python bench/glue_masks.py --glue FOLDER [--steps N] [--seeds 1,2]

MiniLM-L6 on SST-2, RTE and CoLA (FOLDER/{sst2,rte,cola}/{train,dev}.tsv), two
ranks, steps of 32. Masks of the densities of Sung et al. 2021, sec. 4.1; the
head trains in every run and counts against the density. Each method at the best
of --rates learning rates, by the first seed's evaluation, as in a search that
every method is granted alike; full fine-tuning at a tenth of them. The metric is GLUE's own: accuracy, and
Matthews' correlation for CoLA, of up to --eval-samples of the development set.

Writes bench/results/glue_masks.json and the table between the marks in
docs/methods.md. Runs that the result file has already are not repeated.
"""

import argparse
import os
import subprocess

from common import ROOT, VENV, markdown, table, train, write_between
from kept_runs import KeptRuns
from sst2_grid import minilm

WORK = os.path.join(ROOT, "build", "bench", "glue")
PAGE = os.path.join(ROOT, "docs", "methods.md")
TASKS = {  # columns, how the file is read, GLUE's metric, share of --steps
    "sst2": ("sentence,label", [], "accuracy", 1),
    "rte": ("sentence1+sentence2,label", [], "accuracy", 0.5),  # few and long
    "cola": ("4,2", ["--no-header"], "matthews", 1),
}
DENSITIES = [0.0002, 0.001, 0.005, 0.021]
MASKS = {
    "FISH": "{method: fish_mask, density: %s, samples: 256}",
    "random": "{method: random_mask, density: %s}",
    "magnitude": "{method: magnitude_mask, density: %s}",
}
METHODS = {
    **{f"{name}, {100 * d:g} %": [config % d]
       for d in DENSITIES for name, config in MASKS.items()},
    "BitFit": ["{method: bitfit}"],
    "head alone": ["{method: head}"],
    "full fine-tuning": ["{method: full}"],
}
RATE_SHARES = {"full fine-tuning": 0.1}


def prepare(glue, task, model):
    columns, how, *_ = TASKS[task]
    for split, name in (("train", "train"), ("dev", "eval")):
        out = os.path.join(WORK, task, name)
        if not os.path.exists(out):
            subprocess.run(
                [VENV, os.path.join(ROOT, "data", "prepare.py"), "--task",
                 "classify", "--tokenizer", model, "--input",
                 os.path.join(glue, task, f"{split}.tsv"), "--columns",
                 columns, "--max-tokens", "128", *how, "--output", out],
                check=True)


class Runs:
    def __init__(self, args, model):
        self.args, self.model = args, model
        self.kept = KeptRuns("glue_masks.json", arguments=vars(args),
                             methods=METHODS)

    def score(self, task, method, rate, seed):
        return self.kept.get(
            dict(task=task, method=method, rate=rate, seed=seed,
                 steps=self.steps(task), samples=self.args.eval_samples),
            lambda: self.train(task, method, rate, seed))

    def steps(self, task):
        return int(self.args.steps * TASKS[task][3])

    def train(self, task, method, rate, seed):
        steps = self.steps(task)
        config = os.path.join(WORK, "run.yaml")
        with open(config, "w", encoding="utf-8") as f:
            f.write(f"""
model: {{path: {self.model}}}
task: {{kind: classify, labels: 2, head_seed: {seed}}}
data: {{train: {WORK}/{task}/train, eval: {WORK}/{task}/eval, batch_size: 16, seed: {seed}}}
peft: [{", ".join(METHODS[method])}]
train: {{steps: {steps}, lr: {rate}, warmup: {steps // 10}, schedule: linear,
         eval_samples: {self.args.eval_samples}, eval_batch_size: 64, seed: {seed}}}
""")
        lines = train(config, os.path.join(WORK, "run"))
        metrics = [l for l in lines if l["event"] == "eval"][-1]["metrics"]
        summary = next(l for l in lines if l["event"] == "summary")
        score = metrics[TASKS[task][2]]
        print(f"{task} {method} at {rate:g}, seed {seed}: {score:.4f}",
              flush=True)
        return dict(score=score, metrics=metrics,
                    trainable=summary["trainable_parameters"],
                    total=summary["total_parameters"])


def best(runs, task, method):
    """(mean over the seeds, all of them, a run) at the better rate."""
    share = RATE_SHARES.get(method, 1)
    first = [runs.score(task, method, share * rate, runs.args.seeds[0])
             for rate in runs.args.rates]
    chosen = max(first, key=lambda r: r["score"])
    scores = [runs.score(task, method, chosen["rate"], seed)["score"]
              for seed in runs.args.seeds]
    return sum(scores) / len(scores), scores, chosen


def rows(runs, tasks):
    yield ("trains", "share", *tasks, "mean")
    for method in METHODS:
        found = [best(runs, task, method) for task in tasks]
        share = 100 * found[0][2]["trainable"] / found[0][2]["total"]
        cells = []
        for mean, scores, _ in found:
            spread = (f" ({min(scores):.3f} to {max(scores):.3f})"
                      if len(scores) > 1 else "")
            cells.append(f"{mean:.3f}{spread}")
        mean = sum(f[0] for f in found) / len(found)
        yield (method, f"{share:.2f} %", *cells, f"{mean:.3f}")


def numbers(kind):
    return lambda text: [kind(x) for x in text.split(",")]


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--glue", required=True)
    p.add_argument("--steps", type=int, default=400)
    p.add_argument("--seeds", type=numbers(int), default=[1])
    p.add_argument("--rates", type=numbers(float), default=[1e-3, 4e-3])
    p.add_argument("--eval-samples", type=int, default=2000)
    p.add_argument("--tasks", type=lambda text: text.split(","),
                   default=list(TASKS), help="by commas (default all)")
    args = p.parse_args()
    for task in args.tasks:
        if task not in TASKS:
            p.error(f"no task '{task}'; there are: {', '.join(TASKS)}")
    model = minilm()
    for task in args.tasks:
        prepare(args.glue, task, model)
    runs = Runs(args, model)
    found = list(rows(runs, args.tasks))
    table(found)
    rates = " or ".join(f"{r:g}" for r in args.rates)
    steps = ", ".join(str(runs.steps(task)) for task in args.tasks)
    said = (f"On GLUE, MiniLM-L6, two ranks, {steps} steps of 32, learning rate "
            f"{rates}" +
            (", the better" if len(args.rates) > 1 else "") +
            " (`bench/glue_masks.py`):")
    write_between(PAGE, "glue masks",
                  "\n".join(["", said, "", *markdown(found), ""]))


if __name__ == "__main__":
    main()
