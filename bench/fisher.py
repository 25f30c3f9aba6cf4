"""A FISH mask, side by side with one backward per example in PyTorch.

  .venv/bin/python bench/fisher.py --peer-python PY [--samples 128,1024]

T5-small, random weights, fp32, 128 input and 32 target tokens, density 0.5 %.
Each round runs the peer (peers/fisher_per_example.py) and `thinwire mask` one
after the other on the same cores; ratios are taken round by round. PY is a
Python that has torch 2.11 and transformers.

Scoring: the peer's loop over the examples. Ours is the whole command less the
same command for one example, plus that example's share. Memory: resident, less
what the process held before it had a model (ours: `thinwire list`); the mark is
weights and one vector of scores, and a tenth more.
"""

import argparse
import json
import os
import subprocess
import tempfile

from common import (BINARY, ROOT, VENV, machine, measured, median, pinned, save,
                    table, write_t5_config)


def run_peer(args, samples, threads, scratch):
    out = os.path.join(scratch, "peer.json")
    subprocess.run(
        pinned(threads, [
            args.peer_python,
            os.path.join(ROOT, "bench", "peers", "fisher_per_example.py"),
            "--samples", str(samples), "--threads", str(threads),
            "--out", out]),
        env=dict(os.environ, OMP_NUM_THREADS=str(threads)), check=True)
    with open(out) as f:
        return json.load(f)


def run_ours(config, samples, threads, scratch):
    def mask(n):
        return measured(
            [BINARY, "mask", config, f"train.threads={threads}",
             f"peft.0.samples={n}", "--output",
             os.path.join(scratch, "mask.safetensors")], threads)

    one, _ = mask(1)
    whole, peak = mask(samples)
    _, idle = measured([BINARY, "list"], threads)
    return dict(whole_seconds=whole, one_example_seconds=one,
                scoring_seconds=(whole - one) * samples / (samples - 1),
                idle_bytes=idle, peak_bytes=peak)


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--peer-python", required=True)
    p.add_argument("--samples", default="128,1024")
    p.add_argument("--threads", default="1,2")
    p.add_argument("--rounds", type=int, default=3)
    args = p.parse_args()
    data = os.path.join(ROOT, "build", "bench", "t2t-128-32-1024")
    subprocess.run([VENV, os.path.join(ROOT, "bench", "synthetic.py"),
                    "--output", data, "--samples", "1024"], check=True)
    rows = [("samples", "threads", "figure", "ours", "per example", "ratio",
             "mark")]
    rounds = []
    with tempfile.TemporaryDirectory() as scratch:
        model = os.path.join(scratch, "model", "config.json")
        write_t5_config(model, "t5-small", 0.0)
        config = os.path.join(scratch, "ours.yaml")
        with open(config, "w") as f:
            f.write(f"""
model: {{config: {model}, init: random, seed: 1}}
task: {{kind: text_to_text}}
data: {{train: {data}, batch_size: 4, seed: 1}}
peft:
  - {{method: fish_mask, density: 0.005, samples: 128}}
train: {{steps: 1, lr: 1e-3}}
output: {scratch}/run
""")
        for threads in map(int, args.threads.split(",")):
            for samples in map(int, args.samples.split(",")):
                pairs = []
                for _ in range(args.rounds):
                    pairs.append(dict(
                        samples=samples, threads=threads,
                        peer=run_peer(args, samples, threads, scratch),
                        ours=run_ours(config, samples, threads, scratch)))
                rounds += pairs
                times = [(r["ours"]["scoring_seconds"],
                          r["peer"]["scoring_seconds"]) for r in pairs]
                rows.append((samples, threads, "scoring, s",
                             f"{median([o for o, _ in times]):.1f}",
                             f"{median([b for _, b in times]):.1f}",
                             f"{median([o / b for o, b in times]):.3f}",
                             "<= 0.40"))
                sizes = [[(r[side]["peak_bytes"] - r[side]["idle_bytes"]) / 1e6
                          for r in pairs] for side in ("ours", "peer")]
                least = 8 * pairs[0]["peer"]["parameters"] / 1e6
                rows.append((samples, threads, "peak less idle, MB",
                             f"{median(sizes[0]):.0f}",
                             f"{median(sizes[1]):.0f}",
                             f"{median(sizes[0]) / least:.3f} x (weights + "
                             "scores)", "<= 1.10"))
    table(rows)
    save("fisher.json", dict(machine=machine(), rounds=rounds,
                             arguments=vars(args)))


if __name__ == "__main__":
    main()
