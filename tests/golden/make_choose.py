"""Golden data of ranking answers (T-Few's three losses) on the tiny T5 1.1.

Each example is a batch of its own, as in the paper's largest runs, and its
answers are padded to one length, as the reference code does it: what pads and
the right answer add to its unlikelihood (-log 1.01 each, without gradient) is
taken off here, since Thinwire has no pads."""

import json
import math
import shutil

import torch

from common import HERE, grads, write_golden
from common_peft import load

SAMPLES = [
    dict(input=[5, 6, 9, 14, 1], choices=[[9, 1], [8, 3, 4, 1], [30, 1]], label=1),
    dict(input=[7, 1], choices=[[12, 22, 1], [13, 1]], label=0),
    dict(input=[33, 2, 19, 1], choices=[[4, 1], [5, 1], [6, 1], [7, 8, 1]], label=3),
]


def example(model, sample, length_norm, lm, length_normalised, unlikelihood):
    choices, right = sample["choices"], sample["label"]
    most = max(map(len, choices))
    labels = torch.full((len(choices), most), -100)
    for row, choice in zip(labels, choices):
        row[: len(choice)] = torch.tensor(choice)
    states = model.encoder(torch.tensor([sample["input"]])).last_hidden_state
    states = states.repeat(len(choices), 1, 1)
    logits = model(encoder_outputs=(states,), labels=labels).logits
    ce = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none"
    ).view(labels.shape)  # 0 at pads
    real = labels != -100
    score = ce.sum(1) / real.sum(1) ** length_norm
    total = lm * ce[right].sum() / real[right].sum()
    total = total + length_normalised * torch.nn.functional.cross_entropy(
        -score[None], torch.tensor([right])
    )
    away = ~real
    away[right] = True
    logp = torch.where(away, torch.full_like(ce, -100.0), -ce)
    log_not = torch.log(1 - logp.exp() + 1e-2)
    kept = real.clone()
    kept[right] = False
    constant = int(away.sum()) * math.log(1.01)
    total = total - unlikelihood * (log_not.sum() - constant) / kept.sum()
    return total, -score


def main():
    model, _ = load("t5_gated")
    folder = HERE / "choose_t5"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    cases = {
        "t_few": dict(lm=1, length_normalised=1, unlikelihood=1, length_norm=1),
        "weighted": dict(
            lm=0.5, length_normalised=2, unlikelihood=0.25, length_norm=0.5
        ),
    }
    (folder / "samples.json").write_text(
        json.dumps({"model": "t5_gated", "samples": SAMPLES, "cases": cases})
        + "\n"
    )
    for p in model.parameters():
        p.requires_grad_(True)
    tensors = {}
    for name, weights in cases.items():
        model.zero_grad()
        both = [example(model, s, **weights) for s in SAMPLES]
        sum(loss for loss, _ in both).backward()
        tensors[name + ".loss"] = torch.stack([loss for loss, _ in both])
        tensors[name + ".scores"] = torch.cat([scores for _, scores in both])
        for key, grad in grads(model).items():
            if name == "t_few" or "block.0" in key:  # every one, for size once
                tensors[f"{name}.{key}"] = grad
    write_golden(folder, tensors)


main()
