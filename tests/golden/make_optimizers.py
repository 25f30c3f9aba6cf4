"""Golden data of the optimizers: 24 steps over a matrix, a stack of matrices, a
vector, and the 50 numbers that a mask leaves of a tensor, under
torch.optim.AdamW, transformers.Adafactor, and Lion as Chen et al. 2023, alg. 2,
have it, all in fp64.

Tolerance of the test: 2e-6 relative, fp32 rounding of 24 steps. Gradients reach
over four orders of magnitude, some are zero throughout, some at times.
"""

import numpy as np
import torch
import transformers
from transformers.optimization import Adafactor

from common import HERE, write_golden

STEPS, SEEN = 24, (1, 2, 24)
SHAPES = {"matrix": (17, 29), "stack": (2, 5, 7), "vector": (33,),
          "masked": (50,)}

g = torch.Generator().manual_seed(21)
initial, grads = {}, {}
for name, shape in SHAPES.items():
    initial[name] = torch.randn(shape, generator=g)
    scale = 10 ** (-4 * torch.rand(shape, generator=g))
    scale[..., 3] = 0  # never moved but by decay
    step = torch.randn((STEPS, *shape), generator=g)
    step[torch.rand(step.shape, generator=g) < 0.1] = 0
    grads[name] = step * scale


def with_torch(make):
    params = {n: torch.nn.Parameter(p.double()) for n, p in initial.items()}
    optimizer = make(list(params.values()))
    seen = {}
    for i in range(STEPS):
        for name, p in params.items():
            p.grad = grads[name][i].double()
        optimizer.step()
        if i + 1 in SEEN:
            seen[i + 1] = {n: p.detach().clone() for n, p in params.items()}
    return seen


def adafactor(**options):
    defaults = dict(lr=1e-2, scale_parameter=False, relative_step=False)
    return with_torch(lambda p: Adafactor(p, **(defaults | options)))


def lion(lr, beta1, beta2, weight_decay):
    theta = {n: p.double().numpy() for n, p in initial.items()}
    m = {n: np.zeros_like(p) for n, p in theta.items()}
    seen = {}
    for i in range(STEPS):
        for name in theta:
            grad = grads[name][i].double().numpy()
            c = beta1 * m[name] + (1 - beta1) * grad
            theta[name] = theta[name] - lr * (
                np.sign(c) + weight_decay * theta[name]
            )
            m[name] = beta2 * m[name] + (1 - beta2) * grad
        if i + 1 in SEEN:
            seen[i + 1] = {n: torch.from_numpy(p) for n, p in theta.items()}
    return seen


runs = {
    "adamw": with_torch(
        lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1)
    ),
    "adamw_betas": with_torch(
        lambda p: torch.optim.AdamW(
            p, lr=1e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.0
        )
    ),
    "lion": lion(1e-2, 0.9, 0.99, 0.1),
    "lion_betas": lion(1e-2, 0.95, 0.98, 0.0),
    "adafactor": adafactor(),
    "adafactor_scaled": adafactor(scale_parameter=True, weight_decay=0.1),
    "adafactor_mean": adafactor(
        beta1=0.9, clip_threshold=0.5, decay_rate=-0.6, eps=(1e-8, 2.0),
        scale_parameter=True, weight_decay=0.1,
    ),
    "adafactor_relative": adafactor(lr=None, relative_step=True),
    "adafactor_warmup": adafactor(
        lr=None, relative_step=True, warmup_init=True, scale_parameter=True
    ),
}
folder = HERE / "optimizers"
folder.mkdir(exist_ok=True)
write_golden(
    folder,
    {f"initial.{n}": p for n, p in initial.items()}
    | {f"grads.{n}": p for n, p in grads.items()}
    | {
        f"{run}.{step}.{name}": p.float()
        for run, seen in runs.items()
        for step, values in seen.items()
        for name, p in values.items()
    },
)
