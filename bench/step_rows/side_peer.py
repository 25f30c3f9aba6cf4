"""Ladder side-tuning against the same network in plain PyTorch, beside 9 of 12
layers of T5-base, batch 16 x (256, 32), dropout 0.1 in the side network, fp32, one
process of one thread: peak memory of the steps, and time of one."""

import json
import os
import subprocess

import common
from step_rows import setting as s
from step_rows.side import KEPT, METHODS, STEPS


def peer(setting):
    out = os.path.join(setting.scratch, "side_network.json")
    subprocess.run(
        [setting.peer(),
         os.path.join(common.ROOT, "bench", "peers", "side_network.py"),
         "--layers", KEPT.strip("[]").replace(" ", ""), "--steps", str(STEPS),
         "--out", out],
        env=dict(os.environ, OMP_NUM_THREADS="1"), check=True,
        stdout=s.quiet(setting), stderr=s.quiet(setting))
    with open(out) as f:
        return json.load(f)


def run(setting):
    raw = [dict(ours=s.ours(setting, METHODS["lst"], model="t5-base", batch=16,
                            source=256, dropout=0.1, steps=STEPS, ranks=1),
                peer=peer(setting))
           for _ in range(setting.rounds)]
    return [
        s.compare("lst / plain PyTorch, peak",
                  [(r["ours"]["summary"]["peak_rss_bytes"] / 1e6,
                    r["peer"]["peak_rss_bytes"] / 1e6) for r in raw],
                  0.8, "MB", 0),
        s.compare("lst / plain PyTorch, step",
                  [(s.seconds(r["ours"]),
                    common.median(r["peer"]["step_seconds"])) for r in raw],
                  1),
    ], raw
