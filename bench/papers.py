#!/usr/bin/env python3
"""The small variant of every paper's config, run; the tables of docs/methods.md.

  .venv/bin/python bench/papers.py [--only lora_2021,ia3_2022] [--seeds 1,2]

Trains configs/*_small.yaml on two ranks, one after the other (about two minutes
each), and for each set of data full fine-tuning to read them against (its config
is the set's base, NAME_base.yaml, with _full for _base). Data, and the small T5
that some start from, are made where they are missing (quickstart.sh --data,
small_t5.sh), and so are deltas of other runs that a config names. Runs that the
result file has already, of the same config, are not repeated. Writes
bench/results/papers.json and the tables between the marks in docs/methods.md.
"""

import argparse
import glob
import json
import os
import re
import subprocess

from common import ROOT, machine, markdown, save, train, write_between

CONFIGS = os.path.join(ROOT, "configs")
RUNS = os.path.join(ROOT, "runs", "papers")
RESULTS = os.path.join(ROOT, "bench", "results", "papers.json")
PAGE = os.path.join(ROOT, "docs", "methods.md")
# By base: what stands over a table, and what makes its data.
SETS = {
    "quickstart": ("MiniLM-L6, the section of a package, 20 classes: accuracy",
                   ["launch/quickstart.sh", "--data"]),
    "small_t5": ("Small T5, four tasks at once: the mean of their shares of "
                 "answers that match exactly", ["launch/small_t5.sh"]),
    "small_t5_choose": ("Small T5, the section of a package as one of 20 "
                        "answers: accuracy", ["launch/small_t5.sh"]),
}


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def config_path(name):
    return os.path.join(CONFIGS, f"{name}.yaml")


def base_of(name):
    found = re.search(r"^extends: (\w+)\.yaml$", read(config_path(name)), re.M)
    return found.group(1) if found else None


def set_of(name):
    return base_of(name).removesuffix("_base")


def sources_of(name):
    """Other configs, whose deltas this one starts from."""
    return re.findall(r"runs/papers/(\w+)/best/", read(config_path(name)))


def config_text(name):
    """With what it extends and starts from, whose changes are its own."""
    own = read(config_path(name))
    others = ([base_of(name)] if base_of(name) else []) + sources_of(name)
    if "path: .cache/small_t5/model" in own:
        others.append("small_t5_pretrain")
    return own + "".join(map(config_text, others))


def run(name, seed, folder):
    seeds = [f"train.seed={seed}", f"data.seed={seed}"]
    if "kind: classify" in config_text(name):
        seeds.append(f"task.head_seed={seed}")
    lines = train(config_path(name), folder, *seeds)
    summary = next(l for l in lines if l["event"] == "summary")
    # Of several tasks the last line is of all together.
    evals = [l["metrics"] for l in lines
             if l["event"] == "eval" and "task" not in l]
    metric = next(m for m in ("average", "accuracy", "exact_match")
                  if m in evals[-1])
    steps = sorted(l["step_ms"] for l in lines if l["event"] == "step")
    return dict(name=name, seed=seed, config=config_text(name), metric=metric,
                before=evals[0][metric], after=evals[-1][metric],
                trainable=summary["trainable_parameters"],
                total=summary["total_parameters"],
                bytes_per_step=summary["payload_bytes_per_step"],
                step_ms=steps[len(steps) // 2],
                peak_rss_bytes=summary["peak_rss_bytes"])


def about(name):
    text = re.search(r"^about: >-\n((?:  .*\n)+)",
                     read(config_path(name)), re.M).group(1)
    return " ".join(text.split()).split(" Here:")[0].rstrip(".")


def rows(runs, full):
    yield ("config", "what trains", "before", "after", "full fine-tuning",
           "trainable", "bytes per step")
    by_name = {}
    for r in runs:
        by_name.setdefault(r["name"], []).append(r)
    for name, own in sorted(by_name.items(),
                            key=lambda item: -item[1][0]["trainable"]):
        after = [r["after"] for r in own]
        mean = sum(after) / len(after)
        spread = (f" ({min(after):.3f} to {max(after):.3f})"
                  if len(after) > 1 else "")
        first = own[0]
        share = 100 * first["trainable"] / first["total"]
        yield (f"`{name}`", about(name), f"{first['before']:.3f}",
               f"{mean:.3f}{spread}", f"{full:.3f}", f"{share:.2f} %",
               f"{first['bytes_per_step']:,}")


def write_page(runs):
    parts = []
    for key, (title, _) in SETS.items():
        full = [r["after"] for r in runs if r["name"] == f"{key}_full"]
        own = [r for r in runs if r["name"].endswith("_small")
               and set_of(r["name"]) == key]
        if own and full:
            parts += [f"**{title}**", "",
                      *markdown(list(rows(own, sum(full) / len(full)))), ""]
    write_between(PAGE, "papers", "\n".join(["", *parts]))


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--only", default="", help="names by commas")
    p.add_argument("--seeds", default="1", help="by commas (default 1)")
    args = p.parse_args()
    small = [os.path.basename(path).removesuffix(".yaml")
             for path in sorted(glob.glob(config_path("*_small")))]
    names = [f"{name}_small" for name in args.only.split(",") if name] or small
    for name in names:
        if name not in small:
            p.error(f"no configs/{name}.yaml")
    sets = [key for key in SETS if key in map(set_of, names)]
    names = [f"{key}_full" for key in sets] + names
    for command in {tuple(SETS[key][1]) for key in sets}:
        subprocess.run(["bash", *command], cwd=ROOT, check=True)
    runs = json.loads(read(RESULTS))["runs"] if os.path.exists(RESULTS) else []
    runs = [r for r in runs if os.path.exists(config_path(r["name"])) and
            r["config"] == config_text(r["name"])]
    made = set()  # of other runs' deltas: never those of another config
    for name in names:
        for seed in map(int, args.seeds.split(",")):
            if any(r["name"] == name and r["seed"] == seed for r in runs):
                continue
            for source in set(sources_of(name)) - made:
                print(f"{source}, for {name}", flush=True)
                run(source, 1, os.path.join(RUNS, source))
                made.add(source)
            print(f"{name}, seed {seed}", flush=True)
            runs.append(run(name, seed, os.path.join(RUNS, f"{name}-{seed}")))
            print(f"  {runs[-1]['before']:.3f} -> {runs[-1]['after']:.3f}",
                  flush=True)
            save("papers.json", dict(machine=machine(), runs=runs))
    write_page(runs)


if __name__ == "__main__":
    main()
