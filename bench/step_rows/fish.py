"""FISH 0.5 %, T5-small, batch 4 x (128, 32), against what the public code does:
the dense gradient under DDP, a mask multiplied in, AdamW on all numbers."""

from common import median
from step_rows import setting as s


def run(setting):
    raw = [dict(peer=s.peer(setting, "fish"), ours=s.ours(setting, "fish"))
           for _ in range(setting.rounds)]
    return [s.compare("step, fp32", [(s.seconds(r["ours"]),
                                      median(r["peer"]["step_seconds"]))
                                     for r in raw], 0.55)], raw
