"""Golden data of LoRA on a backbone with bf16 or int8 matrices: HF peft on the
tiny models, where every frozen matrix is rounded to bf16, every frozen linear
layer multiplies numbers rounded to bf16 with sums and results in fp32, and
everything else is fp32. int8: a linear layer's matrix is whole numbers of at
most 127 times one scale per output channel, the output matrix excepted; the
scales are applied outside the product, forward and backward."""

import peft
import torch

from common_peft import load, noise, run, write


class Product(torch.autograd.Function):
    """Both factors in bf16, sums and results in fp32, forward and backward."""

    noise = None  # a generator: what is rounded moves by fp32's own rounding

    @staticmethod
    def rounded(x):
        if Product.noise is not None:
            x = x * (1 + 2**-23 * torch.randn(x.shape, generator=Product.noise))
        return x.bfloat16().float()

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(weight)
        return Product.rounded(x) @ weight.T

    @staticmethod
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        return Product.rounded(grad) @ weight, None


def spread(model, batch, logits, trained):
    """By name, how far logits and gradients move, relative to their norms, when
    what is rounded to bf16 moves in the last place of fp32, as sums in another
    order move it: some numbers then fall to the other side of a rounding."""
    names = ["logits", *trained]
    want = [logits.detach()] + [p.grad.clone() for p in trained.values()]
    largest = dict.fromkeys(names, 0.0)
    for seed in range(32):
        Product.noise = torch.Generator().manual_seed(seed)
        for p in trained.values():
            p.grad = None
        got = [run(model, batch).detach()]
        got += [p.grad for p in trained.values()]
        for name, a, b in zip(names, got, want):
            moved = float((a - b).norm() / b.norm())
            largest[name] = max(largest[name], round(moved, 6))
    Product.noise = None
    for p, grad in zip(trained.values(), want[1:]):
        p.grad = grad
    return largest


def in_bf16(layer):
    weight = layer.weight.detach().bfloat16().float()

    def forward(x):
        y = Product.apply(x, weight)
        return y if layer.bias is None else y + layer.bias

    return forward


def in_int8(layer):
    weight = layer.weight.detach().clone()
    scale = weight.abs().amax(1) / 127
    whole = (weight / scale[:, None]).round()

    def forward(x):
        y = Product.apply(x, whole) * scale
        return y if layer.bias is None else y + layer.bias

    return forward


def make(name, model_name, config, dtype, **lora):
    model, batch = load(model_name)
    for key, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and key != "classifier":
            narrow = dtype == "int8" and key != "lm_head"
            module.forward = (in_int8 if narrow else in_bf16)(module)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.dim() == 2 and not key.startswith("classifier"):
                p.copy_(p.bfloat16())
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(lora_dropout=0.0, **lora)
    ).eval()
    g = torch.Generator().manual_seed(len(name))
    trained = {}
    with torch.no_grad():
        for key, p in adapted.named_parameters():
            if not p.requires_grad or "modules_to_save" in key:
                continue
            p.copy_(noise(p.shape, g, 0.08))
            trained[key.replace(".default", "")] = p
    logits = run(adapted, batch)
    moved = spread(adapted, batch, logits, trained)
    print(f"{name}: rounding moves it by up to {max(moved.values()):.2g}")
    write(name, model_name, "lora", config, logits, trained, dtype=dtype,
          spread=moved)


for dtype in ("bf16", "int8"):
    make(
        f"lora_bert_{dtype}",
        "bert_classify",
        {"r": 3, "alpha": 5, "train_head": False},
        dtype,
        r=3,
        lora_alpha=5,
        task_type="SEQ_CLS",
    )
    make(
        f"lora_t5_{dtype}",
        "t5_tied",
        {"r": 5, "alpha": 7},
        dtype,
        r=5,
        lora_alpha=7,
        task_type="SEQ_2_SEQ_LM",
    )
