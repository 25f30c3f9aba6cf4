"""What the golden makers of structures share: low-rank paths, low-rank adapters,
biases and gains that hooks add to a model, each behind a gate where a search
asks for them."""

import torch
from torch.nn.functional import gelu

from common_peft import noise

ALPHA, FACTOR = 16, 4  # of lora, of adapters


def first(output, change):
    """What a module gives, its first tensor replaced."""
    if isinstance(output, tuple):
        return (change(output[0]),) + output[1:]
    return change(output)


class Adder:
    """gates: one number for each (kind, site), read in every pass; then what the
    model has a tensor for is added to it, not in its place."""

    def __init__(self, model, generator, gates=None):
        self.modules = dict(model.named_modules())
        self.width = model.config.hidden_size
        self.generator = generator
        self.gates = gates
        self.trained = {}

    def gate(self, kind, name):
        return self.gates[kind, name] if self.gates else 1

    def leaf(self, name, shape, start=0, scale=0.2):
        value = (start + noise(shape, self.generator, scale)).detach()
        self.trained[name] = value.requires_grad_(True)
        return value

    def hook(self, module, change):
        self.modules[module].register_forward_hook(
            lambda _, x, y: first(y, lambda h: change(x[0], h))
        )

    def lora(self, name):
        linear = self.modules[name]
        stem = f"base_model.model.{name}.lora_"
        a = self.leaf(stem + "A.weight", (1, linear.in_features))
        b = self.leaf(stem + "B.weight", (linear.out_features, 1), scale=0.02)
        self.hook(
            name,
            lambda x, y: y
            + self.gate("lora", name) * (x @ a.T @ b.T * ALPHA),
        )

    def bias(self, name):
        module = self.modules[name]
        own = getattr(module, "bias", None)
        if own is None or self.gates:
            width = module.weight.shape[0]
            b = self.leaf(name + ".added_bias", (width,))
            self.hook(name, lambda x, y: y + self.gate("bias", name) * b)
        else:
            b = self.leaf(name + ".bias", own.shape, own)
            self.hook(name, lambda x, y: y + (b - own))

    def gain(self, name):
        """A parallel branch with the norm of its own."""
        module = self.modules[name]
        own = module.weight
        if self.gates:
            g, start = self.leaf(name + ".added_gain", own.shape), 0
        else:
            g, start = self.leaf(name + ".weight", own.shape, own), own

        def normed(x):
            if hasattr(module, "bias"):
                x = x - x.mean(-1, keepdim=True)
                eps = module.eps
            else:
                eps = module.variance_epsilon
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)

        self.hook(
            name,
            lambda x, y: y
            + self.gate("gain", name) * (g - start) * normed(x),
        )

    def adapter(self, name, module, width):
        inner = width // FACTOR
        maps = {}
        for part, (m, n) in {
            "adapter_down.0.": (width, inner),
            "adapter_up.": (inner, width),
        }.items():
            stem = f"{name}.adapters.thinwire.{part}"
            left = self.leaf(stem + "W_left", (m, 1))
            right = self.leaf(stem + "W_right", (1, n))
            b = self.leaf(stem + "b", (n,))
            maps[part] = (left, right, b)

        def apply(part, x):
            left, right, b = maps[part]
            return x @ (left @ right) + b

        self.hook(
            module,
            lambda x, u: u
            + self.gate("adapter", name)
            * apply(
                "adapter_up.",
                gelu(apply("adapter_down.0.", u), approximate="tanh"),
            ),
        )

    def add(self, config, ends):
        """config: kind -> sites; ends: sublayer -> the module whose output it
        is. Adapters see what the others make of it."""
        for kind in ("lora", "bias", "gain"):
            for site in config[kind]:
                getattr(self, kind)(site)
        for site in config["adapter"]:
            self.adapter(site, ends[site], self.width)


