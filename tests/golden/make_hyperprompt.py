"""Golden data of HyperPrompt: the paper's formula in place of HF's attention
(common_prefix.py); there is no released code.

He et al. 2022, secs. 3.1 to 3.3: P_K = relu(P D) U and P_V alike, D and U one
per layer (share), per layer and task (sep), or generated from a task and a layer
embedding (global)."""

import torch

from common_peft import contract, load, noise, run, tasks_of, write
from common_prefix import attentions

LENGTH, B = 3, 4
EMBEDDING, HIDDEN, LAYER = 3, 5, 4


def make(name, model_name, d, width, variant, seed):
    model, batch = load(model_name)
    g = torch.Generator().manual_seed(seed)
    trained = {}

    def tensor(key, *shape, scale=0.4):
        if key not in trained:
            trained[key] = noise(shape, g, scale).requires_grad_(True)
        return trained[key]

    def maps(task, layer):
        shapes = {
            "key_down": (B, d),
            "key_up": (width, B),
            "value_down": (B, d),
            "value_up": (width, B),
        }
        if variant != "global":
            end = "" if variant == "share" else f".{task}"
            stem = f"hyperprompt.layers.{layer}."
            return [tensor(stem + m + end, *s) for m, s in shapes.items()]
        ks = [
            tensor(f"hyperprompt.task_embeddings.{k}", EMBEDDING, scale=1)
            for k in (0, 1)
        ]
        zs = tensor(
            "hyperprompt.layer_embeddings.weight",
            len(model.encoder.block),
            EMBEDDING,
            scale=1,
        )
        stem = "hyperprompt.embedding_generator."
        w1 = tensor(stem + "0.weight", HIDDEN, 2 * EMBEDDING)
        w2 = tensor(stem + "2.weight", LAYER, HIDDEN)
        i = w2 @ (w1 @ torch.cat([ks[task], zs[layer]])).relu()
        return [
            (tensor(f"hyperprompt.generators.{m}.weight", s[0] * s[1], LAYER) @ i)
            .view(s)
            for m, s in shapes.items()
        ]

    tasks = tasks_of(batch)
    for module, group, layer in attentions(model):
        if group != "encoder":
            continue

        def prefix(layer=layer):
            made = []
            for task in (0, 1):
                p = tensor(f"hyperprompt.prompts.{task}", LENGTH, d)
                kd, ku, vd, vu = maps(task, layer)
                made.append(
                    ((p @ kd.T).relu() @ ku.T, (p @ vd.T).relu() @ vu.T)
                )
            return [torch.stack([made[t][i] for t in tasks]) for i in (0, 1)]

        module.prefix = prefix
    logits = run(model, batch)
    config = {
        "tasks": 2,
        "variant": variant,
        "length": LENGTH,
        "bottleneck": B,
        "embedding_dim": EMBEDDING,
        "hidden_dim": HIDDEN,
        "layer_dim": LAYER,
    }
    write(name, model_name, "hyperprompt", config, logits, trained)


make("hyperprompt_t5_global", "t5_gated", 20, 21, "global", 35)
make("hyperprompt_t5_share", "t5_tied", 20, 21, "share", 36)
make("hyperprompt_t5_sep", "t5_tied", 20, 21, "sep", 37)


def counts(variant, **more):
    return {"tasks": 8, "variant": variant, **more}


contract(
    "hyperprompt_t5_global",
    {
        "tasks": 2,
        "length": 3,
        "bottleneck": 4,
        "embedding_dim": 4,
        "hidden_dim": 6,
        "layer_dim": 4,
    },
    start="another",
    counts=[
        ("t5-base", counts("global"), 4_830_464),
        ("t5-base", counts("share", bottleneck=6), 319_488),
        ("t5-base", counts("sep"), 7_176_192),
        ("t5-large", counts("global"), 8_534_016),
        ("t5-3b", counts("global"), 21_116_928),
    ],
)
