"""Golden data of ATTEMPT: the paper's formula on HF's embeddings.

Asai et al. 2022, secs. 3.2 and 3.3: an example's prompt is P_T + sum_j a_j P_j
over the sources and P_T, a = softmax(p_j . h / tau), p_j the maximum over the
vectors of P_j, h = LN(W_up silu(W_down x)), x the maximum over the tokens."""

import math

import torch
from torch.nn.functional import layer_norm, silu

from common_peft import contract, load, noise, run, tasks_of, with_prompt, write

LENGTH, SOURCES, BOTTLENECK = 3, 2, 5


def prompts(words, batch, sources, t, tau, padding):
    out = []
    for b, task in enumerate(tasks_of(batch)):
        tokens = words[b][batch["attention_mask"][b] == 1]
        if padding is not None:
            tokens = torch.cat([tokens, padding[None]])
        x = tokens.max(0).values
        h = silu(t["encoder.attn_W_down.weight"] @ x)
        h = layer_norm(
            t["encoder.attn_W_up.weight"] @ h,
            x.shape,
            t["encoder.layer_norm.weight"],
            t["encoder.layer_norm.bias"],
            1e-5,
        )
        own = t[f"prefix_shared.{task}"]
        all_of_them = [*sources, own]
        scores = torch.stack([p.max(0).values @ h for p in all_of_them])
        a = torch.softmax(scores / tau, 0)
        out.append(own + sum(w * p for w, p in zip(a, all_of_them)))
    return torch.stack(out)


def make(name, model_name, d, tau, pool_padding, train_norm, seed):
    model, batch = load(model_name)
    g = torch.Generator().manual_seed(seed)
    sources = noise((SOURCES, LENGTH, d), g, 0.5)
    made = {
        "prefix_shared.0": noise((LENGTH, d), g, 0.5),
        "prefix_shared.1": noise((LENGTH, d), g, 0.5),
        "encoder.attn_W_down.weight": noise((BOTTLENECK, d), g, 0.4),
        "encoder.attn_W_up.weight": noise((d, BOTTLENECK), g, 0.4),
        "encoder.layer_norm.weight": 1 + noise((d,), g),
        "encoder.layer_norm.bias": noise((d,), g),
    }
    constants = {"mul_prefix_emb": sources}
    trained = {}
    for key, value in made.items():
        if "layer_norm" in key and not train_norm:
            constants[key] = value
        else:
            trained[key] = value.requires_grad_(True)
    words = model.shared(batch["input_ids"])
    pad = model.config.pad_token_id
    padding = model.shared.weight[pad] if pool_padding else None
    mixed = prompts(
        words, batch, sources, made, tau or d * math.e, padding
    )
    logits = run(model, with_prompt(words, mixed, batch, 0))
    config = {
        "length": LENGTH,
        "tasks": 2,
        "random_sources": SOURCES,
        "bottleneck": BOTTLENECK,
        "temperature": tau,
        "pool_padding": pool_padding,
        "train_norm": train_norm,
    }
    more = {"constant." + key: value for key, value in constants.items()}
    write(name, model_name, "attempt", config, logits, trained, more)


# At the paper's temperature the mixture is all but even; at 2 it is not.
make("attempt_t5", "t5_tied", 20, 2.0, False, True, 31)
make("attempt_t5_padding", "t5_gated", 20, None, True, False, 32)


def counts(tasks):
    return {"tasks": tasks, "random_sources": 1}


contract(
    "attempt_t5",
    {"length": 3, "tasks": 2, "random_sources": 2, "bottleneck": 6},
    start="another",
    counts=[
        ("t5-base", counts(1), 231_936),
        ("t5-base", {**counts(1), "train_norm": False}, 230_400),
        ("t5-base", counts(8), 769_536),
        ("t5-3b", counts(1), 309_248),
        ("t5-3b", counts(8), 1_026_048),
    ],
)
