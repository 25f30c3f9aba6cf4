"""Golden data of masks inside what a method adds: SparseAdapter and FISH-Tuning
on Houlsby adapters and LoRA, the formulas in hooks on HF's models.

All numbers of the method train until a boundary, where they are `start.NAME`;
then a mask is drawn in its matrices by a score (double precision, double
backward for GraSP) and kept: SparseAdapter rests the others at 0, FISH-Tuning
where they are. He et al. 2022, sec. 3; Wang, Zhang & Grosse 2020, sec. 4 (in the
sign of SparseAdapter's code: the largest v * Hg are kept); Xue et al. 2025.

Of densities near the one asked for, that is taken at which the k-th and the next
score are furthest apart (`gap`, relative; GraSP's, which are of either sign, to
the mean of their magnitudes), so that rounding cannot swap them."""

import torch

from common_peft import contract, load, noise, run_lm, summed_loss, write
from make_houlsby import GELU, TANH_GELU, adapter, gpt2_sublayers, train

PARTS = ["down.0.weight", "down.0.bias", "up.weight", "up.bias"]


def add_adapters(places, d, m, act, g):
    """Hooks that read their numbers by name when they run: start is replaced by
    masked tensors later. places: (site, module whose output is u)."""
    own = {}
    for site, module in places:
        names = [f"{site}.adapters.thinwire.adapter_{p}" for p in PARTS]
        for name, shape in zip(names, [(m, d), (m,), (d, m), (d,)]):
            own[name] = noise(shape, g)
        module.register_forward_hook(
            lambda mod, x, u, names=names: u
            + adapter(u, [own[n] for n in names], act)
        )
    return own


def add_lora(model, ends, r, scale, g):
    own = {}
    for key, module in list(model.named_modules()):
        if not key.endswith(ends):
            continue
        a, b = (f"base_model.model.{key}.lora_{f}.weight" for f in "AB")
        own[a] = noise((r, module.in_features), g)
        own[b] = noise((module.out_features, r), g)
        module.register_forward_hook(
            lambda mod, x, y, a=a, b=b: y + scale * (x[0] @ own[a].T) @ own[b].T
        )
    return own


def bert_places(model):
    for key, module in model.named_modules():
        if key.startswith("bert.encoder") and key.endswith("output.dropout"):
            yield key.removesuffix(".dropout"), module


def t5_places(model):
    for key, module in model.named_modules():
        parts = key.split(".")
        if parts[-1] != "dropout" or len(parts) != 6:
            continue
        if parts[0] == "decoder" and parts[4] == "1":
            continue  # cross-attention
        yield key.removesuffix(".dropout"), module


def gpt2_places(model):
    for site, _, dropout in gpt2_sublayers(model):
        yield site, dropout


def logits_of(model, batch):
    if model.config.model_type != "gpt2":
        return model(**batch).logits
    return run_lm_logits(model, batch)


def run_lm_logits(model, batch):
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    return model(**inputs).logits


def loss_of(model, batch):
    logits = logits_of(model, batch)
    if model.config.model_type == "gpt2":
        return summed_loss(logits[:, :-1], batch["labels"][:, 1:])
    return summed_loss(logits, batch["labels"])


def snip(model, batch, matrices):
    g = torch.autograd.grad(loss_of(model, batch), matrices)
    return [(v * d).abs() for v, d in zip(matrices, g)]


def grasp(model, batch, matrices):
    g = torch.autograd.grad(
        loss_of(model, batch), matrices, create_graph=True
    )
    along = sum((d * d.detach()).sum() for d in g)
    return [v * h for v, h in zip(matrices, torch.autograd.grad(along, matrices))]


def magnitude(model, batch, matrices):
    return [v.abs() for v in matrices]


def fisher(model, batch, matrices, true=False):
    out = [torch.zeros_like(v) for v in matrices]

    def add(loss, weight):
        for s, d in zip(out, torch.autograd.grad(loss, matrices)):
            s += weight * d**2

    for b in range(len(batch["labels"])):
        one = {k: v[b : b + 1] for k, v in batch.items()}
        if not true:
            add(loss_of(model, one), 1.0)
            continue
        p = logits_of(model, one).softmax(-1)[0].detach()
        for c in range(p.numel()):
            add(summed_loss(logits_of(model, one), torch.tensor([c])), p[c])
    return out


def true_fisher(model, batch, matrices):
    return fisher(model, batch, matrices, true=True)


def kept(scores, k):
    """Sorted flat positions of the k largest in each; the relative gap behind
    them."""
    flat = torch.cat([s.flatten() for s in scores])
    order = torch.sort(flat, descending=True, stable=True).indices
    last, after = flat[order[k - 1]], flat[order[k]]
    chosen, at, out = torch.sort(order[:k]).values, 0, []
    for s in scores:
        inside = (chosen >= at) & (chosen < at + s.numel())
        out.append(chosen[inside] - at)
        at += s.numel()
    scale = flat.abs().mean() if flat.min() < 0 else last
    return out, ((last - after) / scale).item()


def choose(scores, density, by_tensor, floor):
    """(density, positions, gap): the widest gap among densities nearby."""
    n = sum(s.numel() for s in scores)
    best = None
    for thousandths in range(round(1000 * density), round(1000 * density) + 40):
        if by_tensor:
            parts = [kept([s], thousandths * s.numel() // 1000) for s in scores]
            if sum(len(p[0][0]) for p in parts) != thousandths * n // 1000:
                continue
            found = [p[0][0] for p in parts], min(p[1] for p in parts)
        else:
            found = kept(scores, thousandths * n // 1000)
        if best is None or found[1] > best[2]:
            best = thousandths / 1000, *found
    assert best[2] > floor, best[2]
    return best


def make(name, model_name, method, config, own, model, batch, score, density):
    start = {n: v.clone() for n, v in own.items()}
    matrices = [n for n, v in start.items() if v.dim() > 1]
    for n, v in start.items():
        own[n] = v.double().requires_grad_(n in matrices)
    scores = score(model.double(), batch, [own[n] for n in matrices])
    scores = [s.detach() for s in scores]
    by_tensor = config.get("quota") == "tensor"
    density, at, gap = choose(
        scores, density, by_tensor, 5e-3 if score is grasp else 2e-4
    )
    model.float()

    trained, more = {}, {"gap": torch.tensor(gap)}
    for n, v in start.items():
        more["start." + n] = v
        if n not in matrices:
            own[n] = trained[n] = v.clone().requires_grad_(True)
            continue
        index = at[matrices.index(n)]
        trained[n] = v.flatten()[index].clone().requires_grad_(True)
        rest = v if method == "fish_tuning" else torch.zeros_like(v)
        own[n] = rest.flatten().index_put((index,), trained[n]).view_as(v)
        more["index." + n] = index.to(torch.int32)
    if config["adapter"]["method"] == "houlsby":
        train(
            model,
            trained,
            lambda k: "LayerNorm" in k or "layer_norm" in k or ".ln_" in k,
        )
    train(model, trained, lambda k: k.startswith("classifier"))
    if model.config.model_type == "gpt2":
        logits = run_lm(model, batch)
    else:
        logits = logits_of(model, batch)
        summed_loss(logits, batch["labels"]).backward()
    config = {
        **config,
        "density": density,
        "samples": len(batch["labels"]),
        "warmup_steps": 1,
    }
    write(
        name, model_name, method, config, logits, trained, more, boundary=1
    )


def houlsby(name, model_name, places, d, act, config, score, density, seed):
    model, batch = load(model_name)
    g = torch.Generator().manual_seed(seed)
    own = add_adapters(places(model), d, 4, act, g)
    act_name = "gelu" if act is GELU else "gelu_new"
    inner = {"method": "houlsby", "bottleneck": 4, "non_linearity": act_name}
    config = {"adapter": inner, **config}
    make(
        name, model_name, "sparse_adapter", config, own, model, batch, score,
        density,
    )


def lora(name, model_name, ends, score, config, density, seed):
    model, batch = load(model_name)
    g = torch.Generator().manual_seed(seed)
    own = add_lora(model, ends, 3, 2.0, g)
    config = {"adapter": {"method": "lora", "r": 3, "alpha": 6}, **config}
    make(
        name, model_name, "fish_tuning", config, own, model, batch, score,
        density,
    )


BERT = ("bert_classify", bert_places, 24, GELU)
houlsby("sparse_adapter_bert", *BERT, {"score": "snip"}, snip, 0.2, 31)
houlsby("sparse_adapter_bert_grasp", *BERT, {"score": "grasp"}, grasp, 0.2, 32)
houlsby(
    "sparse_adapter_t5", "t5_gated", t5_places, 20, TANH_GELU,
    {"score": "snip"}, snip, 0.3, 33,
)
houlsby(
    "sparse_adapter_gpt2", "gpt2_lm", gpt2_places, 24, GELU,
    {"score": "magnitude", "quota": "tensor"}, magnitude, 0.25, 34,
)
lora("fish_tuning_bert", "bert_classify", ("query", "value"), fisher, {}, 0.3, 35)
lora(
    "fish_tuning_bert_true", "bert_classify", ("query", "value"), true_fisher,
    {"fisher": "true"}, 0.3, 36,
)
lora("fish_tuning_t5", "t5_tied", (".q", ".v"), fisher, {}, 0.3, 37)

HOULSBY = {"method": "houlsby", "layer_norms": False, "train_head": False}
contract(
    "sparse_adapter_bert",
    {
        "adapter": {"method": "houlsby", "bottleneck": 5, "init_std": 1e-3},
        "density": 0.4,
        "samples": 3,
    },
    start="near",
    # Two sites a layer; 2 359 296 weights and 19 968 biases at a bottleneck of
    # 64, as many weights at 320 and 80 % less.
    counts=[
        ("bert-base", {"adapter": HOULSBY, "density": 0.2}, 471_859 + 19_968),
        ("bert-base", {"adapter": HOULSBY, "sparsity": 0.8}, 471_859 + 19_968),
        (
            "bert-base",
            {"adapter": HOULSBY, "density": 1, "score": "er"},
            2_379_264,
        ),
        (
            "bert-base",
            {"adapter": {**HOULSBY, "bottleneck": 320}, "sparsity": 0.8},
            2_359_296 + 24 * (320 + 768),
        ),
    ],
)
contract(
    "fish_tuning_bert",
    {"adapter": {"method": "lora", "r": 4}, "density": 0.5, "samples": 3},
)
