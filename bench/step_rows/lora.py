"""LoRA r 8 on q and v, T5-small, batch 4 x (128, 32): step, launch to first
step, peak memory of a rank; both steps again with T5's own dropout. In bf16
both sides hold bf16 weights; the peer's LoRA factors and optimizer are bf16
too, its fastest setting, ours fp32."""

from common import median
from step_rows import setting as s


def run(setting):
    figures, raw = [], []
    for dtype, dropout in (("fp32", 0.0), ("fp32", 0.1), ("bf16", 0.0),
                           ("bf16", 0.1)):
        case = dict(dtype=dtype, dropout=dropout)
        rounds = [dict(peer=s.peer(setting, "lora", **case),
                       ours=s.ours(setting, "lora", **case))
                  for _ in range(setting.rounds)]
        raw += [dict(case, **r) for r in rounds]
        for r in rounds:
            assert (r["peer"]["trainable"] ==
                    r["ours"]["summary"]["trainable_parameters"])
        figures.append(s.compare(
            f"step, {dtype}" + (f", dropout {dropout}" if dropout else ""), [(s.seconds(r["ours"]),
                                median(r["peer"]["step_seconds"]))
                               for r in rounds], 0.75))
        if dtype == "bf16" or dropout:
            continue
        figures.append(s.compare(
            "launch to first step", [(r["ours"]["first_step_seconds"],
                                      r["peer"]["first_step_seconds"])
                                     for r in rounds], 1 / 3))
        figures.append(s.compare(
            "peak memory of a rank",
            [(r["ours"]["summary"]["peak_rss_bytes"] / 1e6,
              r["peer"]["peak_rss_bytes"] / 1e6) for r in rounds], 0.6, "MB",
            0))
    return figures, raw
