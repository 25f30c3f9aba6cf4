#!/usr/bin/env python3
"""Which sub-modules of MiniLM need the fewest numbers: local intrinsic dimension.

  .venv/bin/python bench/intrinsic_dimension.py [--dimensions 4,16,...] [--steps N]

For each kind of linear layer, alone: its weights move by a random projection of D
numbers (method intrinsic_dimension), all else but the head is frozen, and the
smallest D of the grid whose accuracy reaches 90 % of full fine-tuning's is its
local intrinsic dimension (He et al. 2023, sec. 3). D = 0 is the head alone. On two
ranks and the data of the quick start, which it prepares where it is missing; a run
takes about two minutes, and a kind as many runs as dimensions up to its own.

Writes bench/results/intrinsic_dimension.json, the table between the marks in
docs/methods.md, and runs/intrinsic_dimension/kadaptation.yaml, a config that adapts
the --keep kinds of the smallest dimension (of equal ones, those with the better
accuracy there). Runs that the result file has already are not repeated.
"""

import argparse
import json
import os
import subprocess

from common import ROOT, markdown, table, train, write_between
from kept_runs import KeptRuns

KINDS = {  # by the ends of their names
    "query": r"attention\.self\.query",
    "key": r"attention\.self\.key",
    "value": r"attention\.self\.value",
    "attention output": r"attention\.output\.dense",
    "feed-forward": r"\d+\.(intermediate|output)\.dense",
}
FOLDER = os.path.join(ROOT, "runs", "intrinsic_dimension")
PAGE = os.path.join(ROOT, "docs", "methods.md")
SHARE = 0.9


def targets(kinds):
    """As target_modules takes them."""
    return json.dumps(r".*\.(" + "|".join(KINDS[k] for k in kinds) + ")")


class Runs:
    def __init__(self, args):
        self.args = args
        self.kept = KeptRuns("intrinsic_dimension.json", arguments=vars(args),
                             kinds=KINDS)

    def accuracy(self, what, config, *changes):
        """Of a run after --steps, by what trains."""
        changes = [*self.args.more, *changes]
        return self.kept.get(
            dict(what=what, steps=self.args.steps, seed=self.args.seed,
                 changes=changes),
            lambda: self.train(what, config, changes))["accuracy"]

    def train(self, what, config, changes):
        steps, seed = self.args.steps, self.args.seed
        lines = train(os.path.join("configs", config),
                      os.path.join(FOLDER, what.replace(" ", "_")),
                      f"train.steps={steps}", f"train.warmup={steps // 10}",
                      f"train.seed={seed}", f"task.head_seed={seed}",
                      f"data.seed={seed}", *changes)
        got = [l for l in lines if l["event"] == "eval"][-1]
        summary = next(l for l in lines if l["event"] == "summary")
        accuracy = got["metrics"]["accuracy"]
        print(f"{what}: {accuracy:.4f}", flush=True)
        return dict(accuracy=accuracy,
                    trainable=summary["trainable_parameters"],
                    seconds=summary["seconds"])


def search(runs, kind, dimensions, wanted):
    """{D: accuracy} of a kind, up to the first that reaches what is wanted."""
    found = {}
    for d in dimensions:
        found[d] = runs.accuracy(
            f"{kind} {d}", "intrinsic_dimension_2021_small.yaml",
            f"peft.0.dimension={d}",
            f"peft.0.target_modules={targets([kind])}")
        if found[d] >= wanted:
            break
    return found


def own_dimension(found, wanted):
    """Infinite where none of the grid was enough."""
    return min((d for d, a in found.items() if a >= wanted),
               default=float("inf"))


def chosen(results, wanted, keep):
    order = sorted(results, key=lambda kind: (
        own_dimension(results[kind], wanted), -max(results[kind].values())))
    return [k for k in order[:keep]
            if own_dimension(results[k], wanted) < float("inf")]


def write_config(kinds):
    path = os.path.join(FOLDER, "kadaptation.yaml")
    extends = os.path.relpath(
        os.path.join(ROOT, "configs", "kadaptation_2023_small.yaml"), FOLDER)
    with open(path, "w", encoding="utf-8") as f:
        f.write(f"extends: {extends}\n"
                f"peft: [{{method: kadaptation, target_modules: "
                f"{targets(kinds)}}}]\n"
                f"output: runs/intrinsic_dimension/kadaptation\n")
    return path


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--dimensions", default="4,16,64,256,1024,4096",
                   help="the grid, by commas (default %(default)s)")
    p.add_argument("--kinds", default=",".join(KINDS), help="by commas")
    p.add_argument("--steps", type=int, default=600)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--keep", type=int, default=2,
                   help="how many kinds to adapt (default 2)")
    p.add_argument("more", nargs="*", help="KEY=VALUE of every run's config")
    args = p.parse_args()
    dimensions = sorted(map(int, args.dimensions.split(",")))
    kinds = args.kinds.split(",")
    for kind in kinds:
        if kind not in KINDS:
            p.error(f"no kind '{kind}'; there are: {', '.join(KINDS)}")
    subprocess.run(["bash", "launch/quickstart.sh", "--data"], cwd=ROOT,
                   check=True)
    runs = Runs(args)
    full = runs.accuracy("full", "quickstart_full.yaml")
    head = runs.accuracy("head", "quickstart_head.yaml")
    wanted = SHARE * full
    results = {kind: search(runs, kind, dimensions, wanted) for kind in kinds}

    rows = [("what moves", "0", *map(str, dimensions), "local dimension")]
    for kind, found in results.items():
        own = own_dimension(found, wanted)
        rows.append((kind, f"{head:.3f}",
                     *(f"{found[d]:.3f}" if d in found else ""
                       for d in dimensions),
                     str(own) if own in found else f"> {dimensions[-1]}"))
    table(rows)
    picked = chosen(results, wanted, args.keep)
    said = (f"Full fine-tuning: {full:.3f}; 90 %: {wanted:.3f}, which the head "
            f"alone {'reaches too' if head >= wanted else 'does not reach'}. "
            f"KAdaptation then adapts: {', '.join(picked) or 'nothing here'}.")
    print(said)
    if picked:
        print("config:", os.path.relpath(write_config(picked), ROOT))
    write_between(PAGE, "intrinsic dimension",
                  "\n".join([*markdown(rows), "", said]))


if __name__ == "__main__":
    main()
