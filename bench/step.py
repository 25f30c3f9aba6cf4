"""LoRA step, launch and memory, side by side with PyTorch DDP + HF peft.

  .venv/bin/python bench/step.py --peer-python PY [--rounds 3]

T5 shapes, LoRA r 8 on q and v, fp32, 2 ranks with one thread each, batch 4 per
rank, 128 input and 32 target tokens, AdamW, clipping at 1. Each round runs the
peer and ours one after the other on the same two cores; the ratios are taken
round by round. PY is a Python that has torch 2.11, transformers and peft.

Memory: ours is the peak of the whole process (loading included), the peer's
the peak of its training steps alone.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time

from common import (BINARY, ROOT, VENV, first_line_time, machine, median,
                    mpi_environment, read_metrics, save, table,
                    write_t5_config)

WARMUP = 2


def run_peer(args, scratch):
    out = os.path.join(scratch, "peer.json")
    env = dict(os.environ, THINWIRE_T0=repr(time.time()),
               OMP_NUM_THREADS="1")
    subprocess.run(
        [args.peer_python, "-m", "torch.distributed.run",
         "--nproc-per-node", "2", "--master-port", "29517",
         os.path.join(ROOT, "bench", "peers", "ddp_peft.py"),
         "--model", args.model, "--steps", str(args.steps),
         "--warmup", str(WARMUP), "--dropout", str(args.dropout),
         "--out", out], env=env, check=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if not args.verbose else None)
    with open(out) as f:
        return json.load(f)


def run_ours(args, scratch, data):
    config = os.path.join(scratch, "model", "config.json")
    write_t5_config(config, args.model, args.dropout)
    run = os.path.join(scratch, "run")
    shutil.rmtree(run, ignore_errors=True)
    text = f"""
model: {{config: {config}, init: random, seed: 1}}
task: {{kind: text_to_text}}
data: {{train: {data}, batch_size: 4, seed: 1}}
peft:
  - {{method: lora, r: 8, alpha: 16, target_modules: [q, v]}}
train: {{steps: {args.steps + WARMUP}, lr: 3e-4, log_every: 1, clip: 1.0}}
output: {run}
"""
    path = os.path.join(scratch, "ours.yaml")
    with open(path, "w") as f:
        f.write(text)
    begin = time.time()
    process = subprocess.Popen(
        ["mpirun", "-np", "2", "--bind-to", "core", BINARY, "train", path],
        env=mpi_environment(), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if not args.verbose else None)
    first = first_line_time(os.path.join(run, "metrics.jsonl"), "step",
                            process)
    if process.wait() != 0 or first is None:
        raise SystemExit("thinwire failed; run with --verbose")
    lines = read_metrics(run)
    steps = [l for l in lines if l["event"] == "step"]
    summary = next(l for l in lines if l["event"] == "summary")
    return dict(
        step_seconds=[l["step_ms"] / 1e3 for l in steps[WARMUP:]],
        parts={k: median([l[k] for l in steps[WARMUP:]]) for k in (
            "data_ms", "forward_ms", "backward_ms", "comm_ms",
            "optimizer_ms")},
        first_step_seconds=first - begin,
        peak_rss_bytes=summary["peak_rss_bytes"],
        trainable=summary["trainable_parameters"],
        payload_bytes=summary["payload_bytes_per_step"],
        sent_bytes_per_step=median([l["sent_bytes"] for l in steps]))


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--peer-python", required=True)
    p.add_argument("--model", default="t5-small")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--dropout", type=float, default=0.0)
    p.add_argument("--verbose", action="store_true")
    args = p.parse_args()
    data = os.path.join(ROOT, "build", "bench", "t2t-128-32")
    subprocess.run([VENV, os.path.join(ROOT, "bench", "synthetic.py"),
                    "--output", data], check=True)
    rounds = []
    with tempfile.TemporaryDirectory() as scratch:
        for i in range(args.rounds):
            pair = dict(peer=run_peer(args, scratch),
                        ours=run_ours(args, scratch, data))
            assert pair["peer"]["trainable"] == pair["ours"]["trainable"]
            rounds.append(pair)
            print(f"round {i + 1}/{args.rounds}: peer "
                  f"{median(pair['peer']['step_seconds']):.3f} s, ours "
                  f"{median(pair['ours']['step_seconds']):.3f} s a step")

    def figures(key):
        a = [key(r["ours"]) for r in rounds]
        b = [key(r["peer"]) for r in rounds]
        ratios = [x / y for x, y in zip(a, b)]
        return median(a), median(b), median(ratios), min(ratios), max(ratios)

    keys = [("step, s", lambda r: median(r["step_seconds"]), 1.0),
            ("launch to first step, s", lambda r: r["first_step_seconds"],
             1 / 3),
            ("peak memory of a rank, MB",
             lambda r: r["peak_rss_bytes"] / 1e6, 0.6)]
    rows = [("figure", "ours", "DDP + peft", "ratio", "min", "max", "mark")]
    for name, key, mark in keys:
        o, b, r, low, high = figures(key)
        rows.append((name, f"{o:.3f}", f"{b:.3f}", f"{r:.3f}", f"{low:.3f}",
                     f"{high:.3f}", f"<= {mark:.2f}"))
    print(f"\n{args.model}, LoRA r 8 on q,v, batch 4 x (128, 32), fp32, "
          f"dropout {args.dropout}, 2 ranks x 1 thread, "
          f"{args.rounds} rounds of {args.steps} steps")
    table(rows)
    name = f"step-{args.model}-dropout{args.dropout}.json"
    save(name, dict(machine=machine(), rounds=rounds, arguments=vars(args)))


if __name__ == "__main__":
    main()
