"""Golden data of KAdaptation: torch.kron, in hooks on HF's models.

He et al. 2023, sec. 4: y = x W + b + b_l + s x H with H the sum of t Kronecker
products A_i (x) B_i, A_i = a_i a'_i of a kind of target, B_i = u_i v_i of a
matrix; kinds are what follows a name's last number.

The count is the released code's, on blocks as wide and as many as ViT-B's."""

import re

import torch
from transformers.pytorch_utils import Conv1D

from common_peft import contract, load, noise, run, run_lm, write


def make(name, model_name, targets, t, s, bias=True, **config):
    model, batch = load(model_name)
    # Of a few seeds that whose gradients cancel least: where they do, fp32 loses
    # them here as it does there.
    g = torch.Generator().manual_seed(len(name) + 4)
    trained = {}

    def tensor(key, *shape):
        if key not in trained:
            trained[key] = noise(shape, g).requires_grad_(True)
        return trained[key]

    def change(key, d_in, d_out):
        kind = re.split(r"\.\d+\.", key)[-1]
        a = tensor(f"kadaptation.{kind}.rule_left", t, t)
        a_right = tensor(f"kadaptation.{kind}.rule_right", t, t)
        u = tensor(key + ".kadaptation_left", t, d_in // t)
        v = tensor(key + ".kadaptation_right", t, d_out // t)
        b = 0
        if bias:
            layer = key.rpartition(".")[0]
            b = tensor(f"{layer}.kadaptation_bias.{d_out}", d_out)

        def hook(module, x, y):
            h = sum(
                torch.kron(torch.outer(a[i], a_right[i]), torch.outer(u[i], v[i]))
                for i in range(t)
            )
            return y + s * x[0] @ h + b

        return hook

    for key, module in model.named_modules():
        if any(("." + key).endswith("." + target) for target in targets):
            d_in, d_out = module.weight.shape
            if not isinstance(module, Conv1D):
                d_in, d_out = d_out, d_in
            module.register_forward_hook(change(key, d_in, d_out))
    for key, p in model.named_parameters():
        if key.startswith("classifier"):
            trained[key] = p.requires_grad_(True)
    logits = (run_lm if "gpt2" in model_name else run)(model, batch)
    config = {"t": t, "scaling": s, "bias": bias, **config}
    write(name, model_name, "kadaptation", config, logits, trained)


def make_targets(name, model_name, targets, *args):
    make(name, model_name, targets, *args, target_modules=targets)


make("kadaptation_bart", "bart_text", ["q_proj", "v_proj"], 4, 2)
make("kadaptation_bert", "bert_classify", ["query", "value"], 4, 2)
make_targets(
    "kadaptation_bert_feed_forward",
    "bert_classify",
    ["intermediate.dense", "output.dense"],
    8,
    1.5,
)
make("kadaptation_gpt2", "gpt2_lm", ["c_attn"], 3, 2)
make_targets(
    "kadaptation_roberta",
    "roberta_classify",
    ["query", "key", "output.dense"],
    2,
    3,
    False,
)
make("kadaptation_t5", "t5_tied", ["q", "v"], 1, 3)
make_targets(
    "kadaptation_t5_feed_forward", "t5_gated", ["wi_0", "wi_1", "wo"], 4, 2, False
)
no_head = {"train_head": False}
contract(
    "kadaptation_bert",
    {
        "t": 4,
        "bias": False,  # T5 has no tensors to merge it into
        # T5's inner width has no divisor.
        "target_modules": r".*\.(query|value|q_proj|v_proj|c_attn|wi.*|wo)",
    },
    counts=[
        ("bert-base", no_head, 50_176),
        ("roberta-base", no_head, 50_176),
    ],
)
