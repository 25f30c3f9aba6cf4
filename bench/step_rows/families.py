"""Each method's step over that of LoRA with about as many trained numbers (on q
and v of T5-small, at least rank 1), ours; beside it HF peft's step where peft
has the method for an encoder-decoder. Batch 4 x (128, 32), without dropout."""

from common import median
from step_rows import setting as s

LORA_RANK_NUMBERS = 36_864  # of q and v in 18 attentions, per rank

# Prompts of 20: the encoder meets 148 tokens a sample instead of 128.
METHODS = {
    "houlsby": "{method: houlsby, reduction_factor: 16}",
    "pfeiffer": "{method: pfeiffer, reduction_factor: 16}",
    "parallel_adapter": "{method: parallel_adapter, bottleneck: 32}",
    "phm_adapter": "{method: phm_adapter, reduction_factor: 16}",
    "compacter": "{method: compacter, reduction_factor: 16}",
    "prompt_tuning": "{method: prompt_tuning, length: 20}",
    "prefix_tuning":
        "{method: prefix_tuning, length: 20, reparametrise: false}",
    "ia3": "{method: ia3}",
    "bitfit": "{method: bitfit, add_missing: true}",
    "vera": "{method: vera, r: 64}",
    "kadaptation": "{method: kadaptation}",
    "dsee": "{method: dsee, support: magnitude}",
}
OF_PEFT = ("ia3", "prompt_tuning")


def lora(setting, rank):
    return s.ours(setting, f"{{method: lora, r: {rank}, alpha: 16, "
                           "target_modules: [q, v]}")


def run(setting):
    ranks, raw = {}, []
    for _ in range(setting.rounds):
        timed = {}
        for method, peft in METHODS.items():
            ours = s.ours(setting, peft)
            numbers = ours["summary"]["trainable_parameters"]
            rank = max(1, round(numbers / LORA_RANK_NUMBERS))
            ranks[method] = (numbers, rank)
            timed[method] = ours
            if f"lora {rank}" not in timed:
                timed[f"lora {rank}"] = lora(setting, rank)
            if method in OF_PEFT and setting.peer_python:
                timed["peft " + method] = s.peer(setting, method)
        raw.append(timed)
    figures = []
    for method, (numbers, rank) in ranks.items():
        figure = s.compare(
            f"{method} / LoRA r {rank}, step",
            [(s.seconds(r[method]), s.seconds(r[f"lora {rank}"]))
             for r in raw], 1.15)
        figure.beside += f"; {numbers:,} numbers"
        if "peft " + method in raw[0]:
            ratio = median([s.seconds(r[method]) /
                            median(r["peft " + method]["step_seconds"])
                            for r in raw])
            figure.beside += f"; {ratio:.2f} of peft's step"
        figures.append(figure)
    return figures, raw
