"""Peak memory of one process, T5-base, batch 16 x (256, 32), dropout 0.1, fp32:
LoRA against peft, FISH against the dense gradient with a mask. Ours is the peak
of the whole process, loading included; the peer's that of its steps alone."""

from step_rows import setting as s

STEPS = 1


def run(setting):
    figures, raw = [], []
    for method, mark in (("lora", 0.6), ("fish", 0.45)):
        shape = dict(model="t5-base", batch=16, source=256, dropout=0.1,
                     steps=STEPS, ranks=1)
        pair = dict(ours=s.ours(setting, method, **shape),
                    peer=s.peer(setting, method, **shape))
        raw.append(dict(method=method, **pair))
        figures.append(s.compare(
            f"peak, {method}",
            [(pair["ours"]["summary"]["peak_rss_bytes"] / 1e6,
              pair["peer"]["peak_rss_bytes"] / 1e6)], mark, "MB", 0))
    return figures, raw
