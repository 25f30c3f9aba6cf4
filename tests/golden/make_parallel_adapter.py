"""Golden data of parallel adapters: the formula in place of HF's modules.

He et al. 2022, table 1: h + s relu(x W_down) W_up beside the feed-forward
sublayer; x is the residual stream (post-norm models' feed-forward reads the
same)."""

import torch

from common_peft import contract, load, run, run_lm, write
from make_houlsby import adapter, gpt2_sublayers, tensors, train

RELU = torch.nn.functional.relu


def scaling(site, trained):
    p = torch.tensor([1.7], requires_grad=True)
    trained[site + ".adapters.thinwire.scaling"] = p
    return p


def attach_to_bert(model, m, scale, g, trained):
    """scale None: one trains at every layer."""
    for key, module in model.named_modules():
        parts = key.split(".")
        if len(parts) != 5 or parts[-1] != "output":
            continue  # bert.encoder.layer.N.output
        t = list(tensors(key, 24, m, g, trained))
        s = scaling(key, trained) if scale is None else scale

        def forward(hidden, x, mod=module, t=t, s=s):
            u = mod.dense(hidden) + s * adapter(x, t, RELU)
            return mod.LayerNorm(x + u)

        module.forward = forward


def bert(name):
    model, batch = load("bert_classify")
    trained = {}
    attach_to_bert(model, 4, None, torch.Generator().manual_seed(20), trained)
    train(model, trained, lambda k: k.startswith("classifier"))
    config = {"bottleneck": 4, "learn_scaling": True}
    logits = run(model, batch)
    write(name, "bert_classify", "parallel_adapter", config, logits, trained)


def attach_to_bart(model, m, scale, g, trained):
    for key, layer in model.named_modules():
        parts = key.split(".")
        if len(parts) != 4 or parts[2] != "layers":
            continue  # model.STACK.layers.N
        t = list(tensors(key + ".output_adapters", 16, m, g, trained))
        read = {}

        def before(mod, args, read=read):
            read["x"] = args[0]

        def after(mod, args, u, read=read, t=t):
            return u + scale * adapter(read["x"], t, RELU)

        layer.fc1.register_forward_pre_hook(before)
        layer.fc2.register_forward_hook(after)


def attach_to_t5(model, m, scale, g, trained):
    for stack, last in (("encoder", 1), ("decoder", 2)):
        for n, block in enumerate(getattr(model, stack).block):
            site = f"{stack}.block.{n}.layer.{last}"
            t = list(tensors(site, 20, m, g, trained))

            def forward(x, mod=block.layer[last], t=t):
                u = mod.DenseReluDense(mod.layer_norm(x))
                return x + u + scale * adapter(x, t, RELU)

            block.layer[last].forward = forward


def bart(name):
    model, batch = load("bart_text")
    trained = {}
    attach_to_bart(model, 5, 2, torch.Generator().manual_seed(23), trained)
    config = {"bottleneck": 5, "scaling": 2}
    logits = run(model, batch)
    write(name, "bart_text", "parallel_adapter", config, logits, trained)


def t5(name):
    model, batch = load("t5_gated")
    trained = {}
    attach_to_t5(model, 6, 4, torch.Generator().manual_seed(17), trained)
    config = {"bottleneck": 6, "scaling": 4}
    logits = run(model, batch)
    write(name, "t5_gated", "parallel_adapter", config, logits, trained)


def gpt2(name):
    model, batch = load("gpt2_lm")
    g = torch.Generator().manual_seed(11)
    trained = {}
    for site, norm, dropout in gpt2_sublayers(model):
        if not site.endswith("mlp"):
            continue
        t = list(tensors(site, 24, 4, g, trained))
        s = scaling(site, trained)
        residual = []
        norm.register_forward_pre_hook(
            lambda mod, x, residual=residual: residual.extend(x)
        )

        def forward(mod, _, u, residual=residual, t=t, s=s):
            x = residual.pop()
            return u + s * adapter(x, t, RELU)

        dropout.register_forward_hook(forward)
    logits = run_lm(model, batch)
    config = {"bottleneck": 4, "learn_scaling": True}
    write(name, "gpt2_lm", "parallel_adapter", config, logits, trained)


if __name__ == "__main__":
    bart("parallel_adapter_bart")
    bert("parallel_adapter_bert")
    t5("parallel_adapter_t5")
    gpt2("parallel_adapter_gpt2")
    contract("parallel_adapter_bert", {"bottleneck": 5})
