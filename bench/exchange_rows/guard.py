"""What the guard adds to a step: the trainer's path (norm and check of the
gradient, guard in the messages, accounting) less the same all-reduce alone, of
the payload that the run has, against the run's own steps. Nothing overlaps it
here, and no link hides it."""

from exchange_rows import latency
from exchange_rows import setting as s


def cost(setting, hosts, size):
    """Seconds of the trainer's path and of the collective alone, by round."""
    pairs = []
    for _ in range(max(2, setting.rounds)):
        record = latency.bench_comm(
            setting, hosts, ["--paths", "collective,trainer", "--algorithms",
                             "auto", "--sizes", size, "--seconds", 1,
                             "--rounds", 6])
        found = {row["path"]: row["p50_s"] for row in record["rows"]}
        pairs.append((found["trainer"], found["collective"]))
    return pairs


def run(setting):
    data = s.shards(128, 32)
    figures, raw = [], {}
    for method in ("lora", "fish"):
        with s.rate_hosts(2) as hosts:
            path, folder = s.config(setting, "guard", method=method, data=data,
                                    batch=4, steps=setting.steps + 2)
            run_of = s.run_ours(setting, hosts, path, folder)
            size = run_of["summary"]["payload_bytes_per_step"]
            pairs = cost(setting, hosts, size)
        step = s.medians(run_of["steps"], ["step_ms"], 2)["step_ms"]
        added = 1e3 * s.common.median([a - b for a, b in pairs])
        raw[method] = dict(bytes=size, step_ms=step, added_ms=added,
                           pairs=pairs, steps=run_of["steps"])
        figures.append(s.at_most(
            f"the guard's part of a step, T5-small, {method}",
            100 * added / step, 1, " %", digits=3,
            beside=f"{added:.3f} of {step:.0f} ms"))
    return figures, raw
