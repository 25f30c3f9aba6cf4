"""Bytes of the exchange, counted at the network interface.

  .venv/bin/python bench/wire_bytes.py

Runs LoRA and FISH 0.5 % on T5-small shapes at 2 and 4 ranks inside a network
namespace of its own, over TCP (`--mca btl tcp,self`), and divides what the
loopback interface counted between two numbers of steps by their difference, so
that launch, agreement and checkpoint traffic cancel. Beside it: the counter of
the transport, and the formula 2 (P - 1) / P x 4 k. Needs root (unshare).
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile

from common import (BINARY, ROOT, VENV, machine, mpi_environment,
                    read_metrics, save, table, write_t5_config)

METHODS = {
    "lora": "{method: lora, r: 8, alpha: 16, target_modules: [q, v]}",
    "fish": "{method: fish_mask, density: 0.005, samples: 8}",
}
COUNT = r"""
ip link set lo up
"$@" >/dev/null 2>&1 || exit 1
awk -F'[: ]+' '$2 == "lo" || $1 == "lo" {print}' /proc/net/dev
"""


def transmitted(line):
    return int(line.split(":")[1].split()[8])


def run(scratch, data, method, ranks, steps):
    config = os.path.join(scratch, "model", "config.json")
    write_t5_config(config, "t5-small", 0.0)
    folder = os.path.join(scratch, "run")
    shutil.rmtree(folder, ignore_errors=True)
    path = os.path.join(scratch, "run.yaml")
    with open(path, "w") as f:
        f.write(f"""
model: {{config: {config}, init: random, seed: 1}}
task: {{kind: text_to_text}}
data: {{train: {data}, batch_size: 1, seed: 1}}
peft:
  - {METHODS[method]}
train: {{steps: {steps}, lr: 3e-4, log_every: 1}}
output: {folder}
""")
    out = subprocess.run(
        ["unshare", "-n", "bash", "-c", COUNT, "bash", "mpirun", "-np",
         str(ranks), "--oversubscribe", "--bind-to", "none", "--mca", "pml",
         "ob1", "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include",
         "lo", BINARY, "train", path],
        env=mpi_environment(), check=True, capture_output=True, text=True)
    lines = read_metrics(folder)
    summary = next(l for l in lines if l["event"] == "summary")
    per_step = [l["sent_bytes"] for l in lines if l["event"] == "step"]
    return transmitted(out.stdout), per_step[-1], summary


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--few", type=int, default=4, help="steps of the short run")
    p.add_argument("--many", type=int, default=24, help="of the long run")
    args = p.parse_args()
    data = os.path.join(ROOT, "build", "bench", "t2t-32-8")
    subprocess.run([VENV, os.path.join(ROOT, "bench", "synthetic.py"),
                    "--input", "32", "--target", "8", "--output", data],
                   check=True)
    rows = [("method", "ranks", "k", "formula", "transport", "interface",
             "transport / formula", "interface / formula", "mark")]
    records = []
    with tempfile.TemporaryDirectory() as scratch:
        for method in METHODS:
            for ranks in (2, 4):
                few = run(scratch, data, method, ranks, args.few)
                many = run(scratch, data, method, ranks, args.many)
                wire = (many[0] - few[0]) / (args.many - args.few) / ranks
                k = many[2]["trainable_parameters"]
                formula = 2 * (ranks - 1) / ranks * 4 * k
                rows.append((method, ranks, k, f"{formula:.0f}",
                             many[1], f"{wire:.0f}",
                             f"{many[1] / formula:.4f}",
                             f"{wire / formula:.4f}", "<= 1.02"))
                records.append(dict(method=method, ranks=ranks, k=k,
                                    formula=formula, transport=many[1],
                                    interface=wire))
    print("bytes sent by a rank in a step")
    table(rows)
    save("wire_bytes.json", dict(machine=machine(), rows=records,
                                 arguments=vars(args)))


if __name__ == "__main__":
    main()
