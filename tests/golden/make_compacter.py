"""Golden data of hypercomplex adapters: torch.kron, in hooks on HF's models.

Karimi Mahabadi et al. 2021, eqs. 4 to 6: y = x W + b with W the sum of n
Kronecker products A_i (x) B_i. Compacter: B_i = s_i t_i, A one for the model.
PHM adapters: A and B_i of each map's own."""

import torch

from common_peft import contract, load, noise, run, run_lm, write
from make_houlsby import (
    TANH_GELU,
    bart_outputs,
    gpt2_sublayers,
    is_bart_norm,
    train,
)


class Maps:
    def __init__(self, g, trained, n, rank, shared):
        self.g, self.trained = g, trained
        self.n, self.rank, self.shared = n, rank, shared

    def tensor(self, key, *shape):
        if key not in self.trained:
            self.trained[key] = noise(shape, self.g, 0.5).requires_grad_(True)
        return self.trained[key]

    def map(self, stem, k, d):
        n, r = self.n, self.rank
        rule = "shared_parameters.thinwire.phm_rule"
        a = self.tensor(rule if self.shared else stem + "phm_rule", n, n, n)
        if r == 0:
            b = [self.tensor(stem + "W", n, k // n, d // n)[i] for i in range(n)]
        else:
            s = self.tensor(stem + "W_left", n, k // n, r)
            t = self.tensor(stem + "W_right", n, r, d // n)
            b = [s[i] @ t[i] for i in range(n)]
        w = sum(torch.kron(a[i], b[i]) for i in range(n))
        return lambda x: x @ w + self.tensor(stem + "b", d)

    def adapter(self, site, d, m):
        stem = site + ".adapters.thinwire."
        down = self.map(stem + "adapter_down.0.", d, m)
        up = self.map(stem + "adapter_up.", m, d)
        up(torch.zeros(1, m)), down(torch.zeros(1, d))  # make the biases
        return lambda u: u + up(TANH_GELU(down(u)))


def t5(name, method, config, n, rank, shared, ff_only):
    model, batch = load("t5_gated")
    trained = {}
    maps = Maps(torch.Generator().manual_seed(18), trained, n, rank, shared)
    for key, module in model.named_modules():
        parts = key.split(".")
        if parts[-1] != "dropout" or len(parts) != 6:
            continue  # STACK.block.N.layer.M.dropout
        last = "2" if parts[0] == "decoder" else "1"
        if parts[4] != last and (ff_only or parts[4] == "1"):
            continue
        f = maps.adapter(key.removesuffix(".dropout"), 20, 4)
        module.register_forward_hook(lambda mod, x, u, f=f: f(u))
    train(model, trained, lambda k: "layer_norm" in k)
    write(name, "t5_gated", method, config, run(model, batch), trained)


def bert(name, method, config, n, rank, shared):
    model, batch = load("bert_classify")
    trained = {}
    maps = Maps(torch.Generator().manual_seed(19), trained, n, rank, shared)
    for key, module in model.named_modules():
        if key.startswith("bert.encoder") and key.endswith("output.dropout"):
            f = maps.adapter(key.removesuffix(".dropout"), 24, 6)
            module.register_forward_hook(lambda mod, x, u, f=f: f(u))
    train(
        model, trained, lambda k: "LayerNorm" in k or k.startswith("classifier")
    )
    write(name, "bert_classify", method, config, run(model, batch), trained)


def gpt2(name, method, config, n, rank, shared):
    model, batch = load("gpt2_lm")
    trained = {}
    maps = Maps(torch.Generator().manual_seed(21), trained, n, rank, shared)
    for site, _, dropout in gpt2_sublayers(model):
        f = maps.adapter(site, 24, 6)
        dropout.register_forward_hook(lambda mod, x, u, f=f: f(u))
    train(model, trained, lambda k: ".ln_" in k)
    write(name, "gpt2_lm", method, config, run_lm(model, batch), trained)


def bart(name, method, config, n, rank, shared):
    model, batch = load("bart_text")
    trained = {}
    maps = Maps(torch.Generator().manual_seed(24), trained, n, rank, shared)
    for site, module in bart_outputs(model, cross=False):
        f = maps.adapter(site, 16, 4)
        module.register_forward_hook(lambda mod, x, u, f=f: f(u))
    train(model, trained, is_bart_norm)
    write(name, "bart_text", method, config, run(model, batch), trained)


bart("compacter_bart", "compacter", {"bottleneck": 4}, 4, 1, True)
bart("phm_adapter_bart", "phm_adapter", {"bottleneck": 4}, 4, 0, False)
t5("compacter_t5", "compacter", {"bottleneck": 4}, 4, 1, True, False)
t5(
    "compacter_t5_feed_forward",
    "compacter",
    {"bottleneck": 4, "phm_dim": 2, "phm_rank": 2, "self_attention": False},
    2,
    2,
    True,
    True,
)
bert("compacter_bert", "compacter", {"bottleneck": 6, "phm_dim": 3}, 3, 1, True)
bert("phm_adapter_bert", "phm_adapter", {"bottleneck": 6, "phm_dim": 2}, 2, 0, False)
t5("phm_adapter_t5", "phm_adapter", {"bottleneck": 4}, 4, 0, False, False)
gpt2("compacter_gpt2", "compacter", {"bottleneck": 6, "phm_dim": 3}, 3, 1, True)
gpt2("phm_adapter_gpt2", "phm_adapter", {"bottleneck": 6, "phm_dim": 2}, 2, 0, False)
contract("compacter_bert", {"bottleneck": 4}, start="near")
contract("phm_adapter_bert", {"bottleneck": 4}, start="near")
