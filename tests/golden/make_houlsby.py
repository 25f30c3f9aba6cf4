"""Golden data of Houlsby adapters: the formula in hooks on HF's models.

Houlsby et al. 2019, sec. 2.1: u + W_up act(W_down u + b_down) + b_up on the
output of every sublayer, before the residual sum."""

import torch

from common_peft import contract, load, noise, run, run_lm, write

GELU = torch.nn.functional.gelu
TANH_GELU = lambda x: torch.nn.functional.gelu(x, approximate="tanh")


def tensors(site, d, m, g, trained):
    stem = site + ".adapters.thinwire."
    made = {
        "adapter_down.0.weight": noise((m, d), g),
        "adapter_down.0.bias": noise((m,), g),
        "adapter_up.weight": noise((d, m), g),
        "adapter_up.bias": noise((d,), g),
    }
    for key, value in made.items():
        trained[stem + key] = value.requires_grad_(True)
    return made.values()


def adapter(z, t, act):
    down, down_bias, up, up_bias = t
    return act(z @ down.T + down_bias) @ up.T + up_bias


def train(model, trained, chosen):
    for key, p in model.named_parameters():
        if chosen(key):
            trained[key] = p.requires_grad_(True)


def bert(name, m):
    model, batch = load("bert_classify")
    g = torch.Generator().manual_seed(5)
    trained = {}
    for key, module in model.named_modules():
        # Dropout of an output block is the identity here: what it returns is u.
        if key.startswith("bert.encoder") and key.endswith("output.dropout"):
            site = key.removesuffix(".dropout")
            t = list(tensors(site, 24, m, g, trained))
            module.register_forward_hook(
                lambda mod, x, u, t=t: u + adapter(u, t, GELU)
            )
    train(
        model, trained, lambda k: "LayerNorm" in k or k.startswith("classifier")
    )
    logits = run(model, batch)
    write(name, "bert_classify", "houlsby", {"bottleneck": m}, logits, trained)


def bart_outputs(model, cross):
    """(site, module): u is what the module returns, the last matrix of a
    sublayer; dropout is the identity here."""
    places = {
        "self_attn.out_proj": "attention_adapters",
        "fc2": "output_adapters",
    }
    if cross:
        places["encoder_attn.out_proj"] = "cross_attention_adapters"
    for key, module in model.named_modules():
        for end, site in places.items():
            if key.endswith(end):
                yield key.removesuffix(end) + site, module


def is_bart_norm(key):
    return "layer_norm" in key or "layernorm_embedding" in key


def bart(name):
    model, batch = load("bart_text")
    g = torch.Generator().manual_seed(21)
    trained = {}
    for site, module in bart_outputs(model, cross=True):
        t = list(tensors(site, 16, 3, g, trained))
        module.register_forward_hook(
            lambda mod, x, u, t=t: u + adapter(u, t, GELU)
        )
    train(model, trained, is_bart_norm)
    config = {"bottleneck": 3, "cross_adapter": True}
    write(name, "bart_text", "houlsby", config, run(model, batch), trained)


def t5(name, cross):
    model, batch = load("t5_gated")
    g = torch.Generator().manual_seed(6)
    trained = {}
    for key, module in model.named_modules():
        parts = key.split(".")
        if parts[-1] != "dropout" or len(parts) != 6:
            continue  # STACK.block.N.layer.M.dropout
        site = key.removesuffix(".dropout")
        if site.startswith("decoder") and parts[4] == "1" and not cross:
            continue
        t = list(tensors(site, 20, 3, g, trained))
        module.register_forward_hook(
            lambda mod, x, u, t=t: u + adapter(u, t, TANH_GELU)
        )
    train(model, trained, lambda k: "layer_norm" in k)
    config = {
        "bottleneck": 3,
        "non_linearity": "gelu_new",
        "cross_adapter": cross,
    }
    write(name, "t5_gated", "houlsby", config, run(model, batch), trained)


def gpt2_sublayers(model):
    """(site, its norm, the dropout whose output is u)"""
    for n, block in enumerate(model.transformer.h):
        stem = f"transformer.h.{n}."
        yield stem + "attn", block.ln_1, block.attn.resid_dropout
        yield stem + "mlp", block.ln_2, block.mlp.dropout


def gpt2(name, m):
    model, batch = load("gpt2_lm")
    g = torch.Generator().manual_seed(9)
    trained = {}
    for site, _, dropout in gpt2_sublayers(model):
        t = list(tensors(site, 24, m, g, trained))
        dropout.register_forward_hook(
            lambda mod, x, u, t=t: u + adapter(u, t, GELU)
        )
    train(model, trained, lambda k: ".ln_" in k)
    logits = run_lm(model, batch)
    write(name, "gpt2_lm", "houlsby", {"bottleneck": m}, logits, trained)


if __name__ == "__main__":
    bart("houlsby_bart")
    bert("houlsby_bert", 5)
    gpt2("houlsby_gpt2", 5)
    t5("houlsby_t5", cross=False)
    t5("houlsby_t5_cross", cross=True)
    contract("houlsby_bert", {"bottleneck": 5, "init_std": 1e-3}, start="near")
