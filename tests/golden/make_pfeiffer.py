"""Golden data of Pfeiffer adapters: the formula in hooks on HF's models.

AdapterHub's `seq_bn`: after the feed-forward sublayer, u + f(LN(x + u)) on
post-norm models (their own layer norm, used again for the residual sum), and
u + f(x + u) on GPT-2 and T5."""

import torch

from common_peft import contract, load, run, run_lm, write
from make_houlsby import adapter, gpt2_sublayers, tensors

RELU = torch.nn.functional.relu
SWISH = torch.nn.functional.silu


def bert(name):
    model, batch = load("bert_classify")
    g = torch.Generator().manual_seed(7)
    trained = {}
    for key, module in model.named_modules():
        parts = key.split(".")
        if len(parts) != 5 or parts[-1] != "output":
            continue  # bert.encoder.layer.N.output
        t = list(tensors(key, 24, 4, g, trained))

        def forward(hidden, x, mod=module, t=t):
            u = mod.dense(hidden)
            z = mod.LayerNorm(x + u)
            return mod.LayerNorm(x + u + adapter(z, t, RELU))

        module.forward = forward
    for key, p in model.named_parameters():
        if key.startswith("classifier"):
            trained[key] = p.requires_grad_(True)
    logits = run(model, batch)
    config = {"bottleneck": 4}
    write(name, "bert_classify", "pfeiffer", config, logits, trained)


def bart(name):
    model, batch = load("bart_text")
    g = torch.Generator().manual_seed(22)
    trained = {}
    for key, norm in model.named_modules():
        if not key.endswith("final_layer_norm"):
            continue
        site = key.removesuffix("final_layer_norm") + "output_adapters"
        t = list(tensors(site, 16, 4, g, trained))
        own = norm.forward  # of x + u

        def forward(total, own=own, t=t):
            return own(total + adapter(own(total), t, RELU))

        norm.forward = forward
    config = {"bottleneck": 4}
    logits = run(model, batch)
    write(name, "bart_text", "pfeiffer", config, logits, trained)


def t5(name):
    model, batch = load("t5_tied")
    g = torch.Generator().manual_seed(8)
    trained = {}
    for stack, last in (("encoder", 1), ("decoder", 2)):
        for n, block in enumerate(getattr(model, stack).block):
            site = f"{stack}.block.{n}.layer.{last}"
            t = list(tensors(site, 20, 6, g, trained))

            def forward(x, mod=block.layer[last], t=t):
                u = mod.DenseReluDense(mod.layer_norm(x))
                return x + u + adapter(x + u, t, SWISH)

            block.layer[last].forward = forward
    config = {"bottleneck": 6, "non_linearity": "swish"}
    write(name, "t5_tied", "pfeiffer", config, run(model, batch), trained)


def gpt2(name):
    model, batch = load("gpt2_lm")
    g = torch.Generator().manual_seed(10)
    trained = {}
    for site, norm, dropout in gpt2_sublayers(model):
        if not site.endswith("mlp"):
            continue
        t = list(tensors(site, 24, 4, g, trained))
        residual = []
        norm.register_forward_pre_hook(
            lambda mod, x, residual=residual: residual.extend(x)
        )

        def forward(mod, _, u, residual=residual, t=t):
            x = residual.pop()
            return u + adapter(x + u, t, RELU)

        dropout.register_forward_hook(forward)
    logits = run_lm(model, batch)
    config = {"bottleneck": 4}
    write(name, "gpt2_lm", "pfeiffer", config, logits, trained)


bart("pfeiffer_bart")
bert("pfeiffer_bert")
t5("pfeiffer_t5")
gpt2("pfeiffer_gpt2")
contract("pfeiffer_bert", {"bottleneck": 5, "init_std": 1e-3}, start="near")
