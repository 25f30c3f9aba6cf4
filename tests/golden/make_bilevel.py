"""Golden data of a search's steps (dist/bilevel.h): two of second order and two
of first, on a tiny T5 whose four kinds of modules stand behind gates, in fp64 by
autograd; zeta by Brent's method. SGD with momentum moves the modules, so that
their size shows in the next step, AdamW moves alpha. Rates are large, so that
the second-order term is as large as the first.

Tolerance of the test: 2e-3 of the gradient. The second-order term is a
difference of two fp32 gradients, which are 1e-6 off, over 2 e = 0.02 / |v|."""

import json
import shutil

import numpy as np
import scipy.optimize
import torch

from common import HERE, write_golden
from common_peft import load
from common_structure import FACTOR, Adder

MODEL, STEPS = "t5_gated", 2
LR, MOMENTUM, CLIP = (0.05, 0.03), 0.9, 1.0
GATE_LR, GATE_CLIP, SLACK = (0.1, 0.07), 2.0, 1e-7
# By kind, then in the order in which the model runs: the gates' numbers.
SPACE = {
    "lora": [
        "encoder.block.1.layer.0.SelfAttention.q",
        "decoder.block.0.layer.2.DenseReluDense.wi_1",
    ],
    "adapter": ["encoder.block.0.layer.0", "decoder.block.1.layer.2"],
    "bias": [
        "encoder.block.0.layer.1.DenseReluDense.wo",
        "decoder.block.0.layer.1.layer_norm",
        "decoder.final_layer_norm",
    ],
    "gain": ["encoder.final_layer_norm", "decoder.block.1.layer.0.layer_norm"],
}
ENDS = {
    "encoder.block.0.layer.0": "encoder.block.0.layer.0.SelfAttention",
    "decoder.block.1.layer.2": "decoder.block.1.layer.2.DenseReluDense",
}
NUMBERED = [(kind, site) for kind, sites in SPACE.items() for site in sites]


def counts_of(trained):
    """Numbers of each module."""
    ends = {"lora": ".lora_", "adapter": ".adapters.", "bias": ".added_bias"}
    out = []
    for kind, site in NUMBERED:
        end = site + ends.get(kind, ".added_gain")
        out.append(sum(p.numel() for n, p in trained.items() if end in n))
    return np.array(out)


class Search:
    def __init__(self, second_order):
        model, batch = load(MODEL)
        self.model = model.double()
        self.gates = dict.fromkeys(NUMBERED, 1.0)
        g = torch.Generator().manual_seed(9)
        adder = Adder(self.model, g, self.gates)
        adder.add(SPACE, ENDS)
        self.names = sorted(adder.trained)
        self.initial = {n: adder.trained[n].detach().clone() for n in self.names}
        for n in self.names:
            p = adder.trained[n]
            p.data = p.data.double()
        self.w = [adder.trained[n] for n in self.names]
        self.counts = counts_of(adder.trained)
        self.budget = int(self.counts.sum() * 0.4)
        self.alpha = torch.zeros(len(NUMBERED), dtype=torch.double)
        self.alpha.requires_grad_(True)
        self.alpha_optimizer = torch.optim.AdamW(
            [self.alpha], lr=1, weight_decay=0
        )
        self.velocity = [torch.zeros_like(p) for p in self.w]
        self.second_order = second_order
        self.train, self.valid = (
            {k: v[rows] for k, v in batch.items()}
            for rows in (slice(0, 2), slice(2, 4))
        )

    def loss(self, batch, noise):
        """Its gates are functions of alpha."""
        a = self.alpha.detach().numpy()

        def over(zeta):
            p = 1 / (1 + np.exp(zeta - a))
            return (self.counts * p).sum() - self.budget * (1 - SLACK)

        zeta = scipy.optimize.brentq(over, -50, 50, xtol=1e-14)
        p = torch.sigmoid(self.alpha - zeta)
        p = p / p.sum() * p.sum().detach()
        u = torch.from_numpy(noise)
        z = torch.sigmoid(
            u.log() - (1 - u).log() + p.log() - (1 - p).log()
        )
        for key, gate in zip(NUMBERED, z):
            self.gates[key] = gate
        return self.model(**batch).loss  # the mean over target tokens

    def put(self, values):
        with torch.no_grad():
            for p, value in zip(self.w, values):
                p.copy_(value)

    def moved(self, gradient, lr):
        """SGD's step, and the velocity after it."""
        velocity = [MOMENTUM * v + g for v, g in zip(self.velocity, gradient)]
        return [p.detach() - lr * v for p, v in zip(self.w, velocity)], velocity

    def alpha_gradient(self, noise, lr):
        before = [p.detach().clone() for p in self.w]
        if self.second_order:
            loss = self.loss(self.train, noise)
            self.put(self.moved(torch.autograd.grad(loss, self.w), lr)[0])
        valid = self.loss(self.valid, noise)
        gradient, *v = torch.autograd.grad(valid, [self.alpha, *self.w])
        if self.second_order:
            e = 0.01 / (torch.cat([x.flatten() for x in v]).norm() + 1e-6)
            at = []
            for sign in (1, -1):
                self.put([w + sign * e * x for w, x in zip(before, v)])
                loss = self.loss(self.train, noise)
                at.append(torch.autograd.grad(loss, self.alpha)[0])
            gradient = gradient - lr * (at[0] - at[1]) / (2 * e)
            self.put(before)
        return gradient, valid.item()

    def step(self, noise, noise_of_step, lr, gate_lr):
        gradient, valid = self.alpha_gradient(noise, lr)
        self.alpha.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_([self.alpha], GATE_CLIP)
        self.alpha_optimizer.param_groups[0]["lr"] = gate_lr
        self.alpha_optimizer.step()
        loss = self.loss(self.train, noise_of_step)
        grads = torch.autograd.grad(loss, self.w)
        norm = torch.cat([x.flatten() for x in grads]).norm()
        scale = min(1.0, CLIP / (norm + 1e-6))
        values, self.velocity = self.moved([g * scale for g in grads], lr)
        self.put(values)
        return gradient, valid, loss.item()


folder = HERE / "bilevel_t5"
shutil.rmtree(folder, ignore_errors=True)
folder.mkdir()
rng = np.random.default_rng(4)
noise = rng.uniform(0.05, 0.95, (STEPS, 2, len(NUMBERED))).astype(np.float32)
tensors = {"noise": torch.from_numpy(noise)}
for order in ("second", "first"):
    search = Search(order == "second")
    for i in range(STEPS):
        gradient, valid, loss = search.step(
            *noise[i].astype(np.float64), LR[i], GATE_LR[i]
        )
        tensors[f"{order}.{i}.gradient"] = gradient.float()
        tensors[f"{order}.{i}.alpha"] = search.alpha.detach().float()
        tensors[f"{order}.{i}.losses"] = torch.tensor([loss, valid])
    for n, p in zip(search.names, search.w):
        tensors[f"{order}.value.{n}"] = p.detach().float()
for n, value in search.initial.items():
    tensors["value." + n] = value
write_golden(folder, tensors)
about = {
    "model": MODEL,
    "config": {**SPACE, "reduction_factor": FACTOR},
    "counts": search.counts.tolist(),
    "budget": search.budget,
    "lr": LR,
    "momentum": MOMENTUM,
    "clip": CLIP,
    "gate_lr": GATE_LR,
    "gate_clip": GATE_CLIP,
}
(folder / "search.json").write_text(json.dumps(about, indent=2) + "\n")
