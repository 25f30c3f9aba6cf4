"""What is saved against our own full fine-tuning, the same model and batch:
FISH by the whole step, LoRA by forward and backward."""

from step_rows import setting as s


def run(setting):
    figures, raw = [], []
    for model in ("t5-small", "t5-base"):
        rounds = [{m: s.ours(setting, m, model=model)
                   for m in ("full", "fish", "lora")}
                  for _ in range(setting.rounds)]
        raw += [dict(model=model, **r) for r in rounds]
        figures.append(s.compare(
            f"FISH / full, step, {model}",
            [(s.seconds(r["fish"]), s.seconds(r["full"])) for r in rounds],
            0.75))
        parts = ("forward", "backward")
        figures.append(s.compare(
            f"LoRA / full, forward + backward, {model}",
            [(s.seconds(r["lora"], *parts), s.seconds(r["full"], *parts))
             for r in rounds], 0.70))
    return figures, raw
