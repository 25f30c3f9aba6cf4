"""Peak memory of one process and time of its step over our own full
fine-tuning's, T5-base, batch 16 x (256, 32), dropout 0.1, fp32: ladder
side-tuning beside 9 of 12 layers, LoRA, adapters. Marks of memory are the savings
that Sung et al. 2022 report, 69 % and 26 %."""

from step_rows import setting as s

STEPS = 2
KEPT = "[1, 2, 3, 5, 6, 7, 9, 10, 11]"
METHODS = {
    # Scores would take as much memory as the weights, once, before the steps.
    "lst": f"{{method: lst, encoder_layers: {KEPT}, decoder_layers: {KEPT}, "
           "init: magnitude}",
    "lora": "{method: lora, r: 32, alpha: 32, target_modules: [q, v]}",
    "houlsby": "{method: houlsby, reduction_factor: 16}",
}
MEMORY = {"lst": 0.31, "lora": 0.74, "houlsby": 0.74}
STEP = {"lst": 0.40}


def run(setting):
    raw = {m: s.ours(setting, METHODS.get(m, m), model="t5-base", batch=16,
                     source=256, dropout=0.1, steps=STEPS, ranks=1)
           for m in ("full", *METHODS)}
    full = raw["full"]

    def peak(r):
        return r["summary"]["peak_rss_bytes"] / 1e6

    figures = [s.compare(f"{m} / full, peak", [(peak(raw[m]), peak(full))],
                         mark, "MB", 0) for m, mark in MEMORY.items()]
    figures += [s.compare(f"{m} / full, step",
                          [(s.seconds(raw[m]), s.seconds(full))], mark)
                for m, mark in STEP.items()]
    return figures, raw
