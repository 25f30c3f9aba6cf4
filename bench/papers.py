#!/usr/bin/env python3
"""The small variant of every paper's config, run; the table of docs/methods.md.

  .venv/bin/python bench/papers.py [--only lora_2021,ia3_2022] [--seeds 1,2]

Trains configs/*_small.yaml on two ranks, one after the other (about two minutes
each), on the data of the quick start, which it prepares where it is missing. Runs
that the result file has already, of the same config, are not repeated. Writes
bench/results/papers.json and the table between the marks in docs/methods.md.
"""

import argparse
import glob
import json
import os
import shutil
import subprocess

from common import (BINARY, ROOT, machine, mpi_environment, read_metrics, save)

RESULTS = os.path.join(ROOT, "bench", "results", "papers.json")
PAGE = os.path.join(ROOT, "docs", "methods.md")
BEGIN, END = "<!-- papers: begin -->", "<!-- papers: end -->"


def config_text(path):
    """With what it extends, so that a changed base counts as a change."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    base = [line.split(":", 1)[1].strip() for line in text.splitlines()
            if line.startswith("extends:")]
    return text + "".join(config_text(os.path.join(ROOT, "configs", name))
                          for name in base)


def run(name, path, seed):
    folder = os.path.join(ROOT, "runs", "papers", f"{name}-{seed}")
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["mpirun", "-np", "2", "--bind-to", "core", BINARY, "train",
                    path, "train.threads=1", f"train.seed={seed}",
                    f"task.head_seed={seed}", f"data.seed={seed}",
                    f"output={folder}"],
                   env=mpi_environment(), cwd=ROOT, check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = read_metrics(folder)
    summary = next(l for l in lines if l["event"] == "summary")
    evals = [l for l in lines if l["event"] == "eval"]
    steps = [l for l in lines if l["event"] == "step"]
    return dict(name=name, seed=seed, config=config_text(path),
                before=evals[0]["metrics"]["accuracy"],
                after=evals[-1]["metrics"]["accuracy"],
                trainable=summary["trainable_parameters"],
                total=summary["total_parameters"],
                bytes_per_step=summary["payload_bytes_per_step"],
                step_ms=sorted(l["step_ms"] for l in steps)[len(steps) // 2],
                peak_rss_bytes=summary["peak_rss_bytes"])


def about(path):
    with open(path, encoding="utf-8") as f:
        lines = f.read().splitlines()
    at = lines.index("about: >-") + 1
    text = ""
    while at < len(lines) and lines[at].startswith("  "):
        text += " " + lines[at].strip()
        at += 1
    return text.strip().split(" Here:")[0].rstrip(".")


def rows(runs, full):
    by_name = {}
    for r in runs:
        by_name.setdefault(r["name"], []).append(r)
    yield ("| config | what trains | before | after | full fine-tuning | "
           "trainable | bytes per step |")
    yield "|---|---|---|---|---|---|---|"
    for name, own in sorted(by_name.items(),
                            key=lambda item: -item[1][0]["trainable"]):
        after = [r["after"] for r in own]
        mean = sum(after) / len(after)
        spread = (f" ({min(after):.3f} to {max(after):.3f})"
                  if len(after) > 1 else "")
        first = own[0]
        path = os.path.join(ROOT, "configs", f"{name}_small.yaml")
        yield (f"| `{name}` | {about(path)} | {first['before']:.3f} | "
               f"{mean:.3f}{spread} | {full:.3f} | "
               f"{100 * first['trainable'] / first['total']:.2f} % | "
               f"{first['bytes_per_step']:,} |")


def write_page(runs):
    with open(os.path.join(ROOT, "docs", "results",
                           "quickstart_full.json")) as f:
        full = json.load(f)["after"]
    with open(PAGE, encoding="utf-8") as f:
        text = f.read()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    table = "\n".join(rows(runs, full))
    with open(PAGE, "w", encoding="utf-8") as f:
        f.write(f"{before}{BEGIN}\n{table}\n{END}{after}")


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--only", default="", help="names by commas")
    p.add_argument("--seeds", default="1", help="by commas (default 1)")
    args = p.parse_args()
    subprocess.run(["bash", "launch/quickstart.sh", "--data"], cwd=ROOT,
                   check=True)
    runs = []
    if os.path.exists(RESULTS):
        with open(RESULTS) as f:
            runs = json.load(f)["runs"]
    paths = {os.path.basename(path).removesuffix("_small.yaml"): path
             for path in sorted(glob.glob(os.path.join(ROOT, "configs",
                                                       "*_small.yaml")))}
    runs = [r for r in runs if r["name"] in paths and
            r["config"] == config_text(paths[r["name"]])]
    only = args.only.split(",") if args.only else list(paths)
    for name in only:
        if name not in paths:
            p.error(f"no configs/{name}_small.yaml")
        for seed in map(int, args.seeds.split(",")):
            if any(r["name"] == name and r["seed"] == seed for r in runs):
                continue
            print(f"{name}, seed {seed}", flush=True)
            runs.append(run(name, paths[name], seed))
            print(f"  {runs[-1]['before']:.3f} -> {runs[-1]['after']:.3f}",
                  flush=True)
            save("papers.json", dict(machine=machine(), runs=runs))
    write_page(runs)


if __name__ == "__main__":
    main()
