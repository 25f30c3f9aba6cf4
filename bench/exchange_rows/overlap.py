"""Exposed communication, LoRA on T5-small at 10 Mbit/s: against the ideal, which
is the run's own ready times replayed over the probed rate, and against DDP with
buckets of 25 MB (its default) and 0.1 MB."""

import json
import os

from exchange_rows import setting as s

RATE = "10mbit"
WARMUP = 2
WIRE_BYTES = {"fp32": 4, "bf16": 2, "int8": 1 + 4 / 256}


def read_trace(folder, ranks):
    """(bytes of each bucket on the wire, per rank the lines by exchange)."""
    buckets, lines = None, []
    for r in range(ranks):
        with open(os.path.join(folder, f"exchange-{r}.jsonl")) as f:
            for line in map(json.loads, f):
                if "buckets" in line:  # cut anew, after the first step
                    buckets = [b["count"] * WIRE_BYTES[b["codec"]]
                               for b in line["buckets"]]
                    mine = []
                else:
                    mine.append(line)
        lines.append(mine)
    return buckets, lines


def replay(buckets, ready, rate, ranks=2):
    """When the last byte of an exchange is there if bucket i may start at
    ready[i], in order, and the link carries `rate` bytes a second each way."""
    now = 0.0
    for size, at in zip(buckets, ready):
        now = max(now, at) + 2 * (ranks - 1) / ranks * size / rate
    return now


def exposures(folder, rate, ranks=2):
    """Per exchange after warm-up: seconds exposed, and what the ideal exposes,
    of the rank for which they are more."""
    buckets, lines = read_trace(folder, ranks)
    out = []
    for step in list(zip(*lines))[WARMUP:]:
        ready = [max(line["ready"][i] for line in step)
                 for i in range(len(buckets))]
        end = replay(buckets, ready, rate, ranks)
        out.append(max((line["done"] - line["finish"],
                        max(0.0, end - line["finish"])) for line in step))
    return out


def ours(setting, hosts, data):
    rate = s.probe(setting, hosts)["bytes_per_s"]
    path, folder = s.config(setting, "overlap", data=data, batch=4,
                            steps=setting.steps + WARMUP,
                            comm=dict(trace=True))
    run = s.run_ours(setting, hosts, path, folder)
    pairs = exposures(folder, rate)
    return dict(rate=rate, exposed=[p[0] for p in pairs],
                ideal=[p[1] for p in pairs],
                buckets=read_trace(folder, 2)[0],
                step_s=s.medians(run["steps"], ["step_ms"], WARMUP)["step_ms"]
                / 1e3, steps=run["steps"])


def ddp(setting, hosts, megabytes):
    run = s.run_ddp(setting, hosts, RATE, ["--bucket-mb", megabytes],
                    max(3, setting.steps // 2), quiet=3)
    run["exposed"] = (s.common.median(run["backward_seconds"])
                      - s.common.median(run["quiet_backward_seconds"]))
    return run


def run(setting):
    data = s.shards(128, 32)
    raw = []
    with s.rate_hosts(2, RATE) as hosts:
        for index in range(setting.rounds):
            turns = [("ours", lambda: ours(setting, hosts, data)),
                     ("ddp 25 MB", lambda: ddp(setting, hosts, 25)),
                     ("ddp 0.1 MB", lambda: ddp(setting, hosts, 0.1))]
            record = {}
            for name, turn in turns if index % 2 == 0 else turns[::-1]:
                record[name] = turn()
            raw.append(record)

    def median(key):
        return s.common.median([key(r) for r in raw])

    exposed = median(lambda r: s.common.median(r["ours"]["exposed"]))
    ideal = median(lambda r: s.common.median(r["ours"]["ideal"]))
    figures = [s.Figure(
        "exposed communication, LoRA at 10 Mbit/s, s",
        f"<= {1.1 * ideal + 0.02:.3f} (1.10 x ideal + 20 ms)",
        f"{exposed:.3f}", exposed <= 1.1 * ideal + 0.02,
        f"ideal {ideal:.3f}, {len(raw[0]['ours']['buckets'])} buckets, step "
        f"{median(lambda r: r['ours']['step_s']):.2f}")]
    for name in ("ddp 25 MB", "ddp 0.1 MB"):
        theirs = median(lambda r: r[name]["exposed"])
        step = median(lambda r: s.common.median(r[name]["step_seconds"]))
        figures.append(s.Figure(
            f"the same against {name}", f"< {theirs:.3f}", f"{exposed:.3f}",
            exposed < theirs, f"its step {step:.2f}"))
    return figures, raw
