"""Golden data of intrinsic dimension: the projection as a matrix, in hooks on
HF's models.

P [N, D], block by block: H G P H B / (|G| sqrt(D)) with p the power of two from
D up, its first D columns; random numbers are those of base/random.h, from its
definition. A weight's numbers are the first of its blocks'."""

import numpy as np
import torch
from scipy.linalg import hadamard
from transformers.pytorch_utils import Conv1D

from common_peft import contract, load, noise, run, run_lm, write
from common_random import normal, uniform


def projection(dimension, numbers, seed):
    """For each tensor of so many numbers: its rows of P [numbers, D]."""
    p = 1 << (dimension - 1).bit_length()
    h = hadamard(p).astype(np.float64)
    rows = [-(-n // p) for n in numbers]
    shape = (sum(rows), p)
    draw = lambda f, name: f(shape[0] * p, seed, name).reshape(shape)
    signs = np.where(draw(uniform, "fastfood.signs") >= 0.5, 1.0, -1.0)
    order = draw(uniform, "fastfood.order").argsort(1, kind="stable")
    g = draw(normal, "fastfood.normal")
    blocks = [
        h @ (g[i, :, None] * (h * signs[i])[order[i]])
        / (np.linalg.norm(g[i]) * np.sqrt(dimension))
        for i in range(len(g))
    ]
    out, first = [], 0
    for n, count in zip(numbers, rows):
        whole = np.concatenate(blocks[first : first + count])
        out.append(torch.from_numpy(whole[:n, :dimension]).float())
        first += count
    return out


def make(name, model_name, targets, dimension, seed=0, **config):
    model, batch = load(model_name)
    sites = [
        module
        for key, module in model.named_modules()
        if any(("." + key).endswith("." + target) for target in targets)
    ]
    numbers = [module.weight.numel() for module in sites]
    g = torch.Generator().manual_seed(len(name))
    theta = noise((dimension,), g, 0.1).requires_grad_(True)
    for module, rows in zip(sites, projection(dimension, numbers, seed)):
        shape = module.weight.shape
        if isinstance(module, Conv1D):
            shape = shape[::-1]

        def hook(module, x, y, rows=rows, shape=shape):
            return y + x[0] @ (rows @ theta).reshape(shape).T

        module.register_forward_hook(hook)
    trained = {"intrinsic_dimension.theta": theta}
    for key, p in model.named_parameters():
        if key.startswith("classifier"):
            trained[key] = p.requires_grad_(True)
    logits = (run_lm if "gpt2" in model_name else run)(model, batch)
    config = {"dimension": dimension, "projection_seed": seed, **config}
    write(name, model_name, "intrinsic_dimension", config, logits, trained)


make("intrinsic_dimension_bert", "bert_classify", ["query", "value"], 7)
make("intrinsic_dimension_gpt2", "gpt2_lm", ["c_attn"], 33, 5)
feed_forward = ["wi", "wo"]
make(
    "intrinsic_dimension_t5",
    "t5_tied",
    feed_forward,
    100,
    1 << 40,
    target_modules=feed_forward,
)
contract("intrinsic_dimension_bert", {"dimension": 20})
