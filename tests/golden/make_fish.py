"""Golden data of FISH masks: per-example squared gradients in PyTorch, global
top-k, ties to the lower flat position, tensors in the order of the backbone's
slots (the order in which HF registers them), and the gradients of one batch at
the mask.

The densities are chosen so that the k-th and the next score differ by more
than fp32 gradients can (stated in the file as `gap`)."""

import torch

from common_masks import Masked
from common_peft import contract, summed_loss


def examples(batch):
    for b in range(batch["labels"].shape[0]):
        yield {k: v[b : b + 1] for k, v in batch.items()}


def scores(model, batch, names, true_fisher):
    params = dict(model.named_parameters())
    out = {n: torch.zeros_like(params[n], dtype=torch.float64) for n in names}

    def add(loss, weight):
        for p in params.values():
            p.grad = None
        loss.backward(retain_graph=true_fisher)
        for n in names:
            if params[n].grad is not None:
                out[n] += weight * params[n].grad.double() ** 2

    for one in examples(batch):
        logits = model(**one).logits
        if model.config.model_type == "gpt2":
            add(summed_loss(logits[:, :-1], one["labels"][:, 1:]), 1.0)
            continue
        if not true_fisher:
            add(summed_loss(logits, one["labels"]), 1.0)
            continue
        p = logits.softmax(-1)[0].detach()
        for c in range(p.numel()):
            label = torch.tensor([c])
            add(summed_loss(logits, label), p[c].double().item())
    return out


def make(name, model_name, density, true_fisher=False, exclude=()):
    m = Masked(model_name, exclude)
    k = m.budget(density)
    s = scores(m.model, m.batch, m.body, true_fisher)
    flat = torch.cat([s[n].flatten() for n in m.body])
    order = torch.sort(flat, descending=True, stable=True).indices
    gap = 1 - flat[order[k]] / flat[order[k - 1]]
    assert gap > 2e-4, (name, float(gap))
    chosen = m.choose({n: s[n].flatten().numpy() for n in m.body}, k)
    config = {
        "density": density,
        "samples": m.batch["labels"].shape[0],
        "fisher": "true" if true_fisher else "empirical",
        "exclude": list(exclude),
    }
    m.write(name, "fish_mask", "fish", config, chosen, {"gap": gap})


make("fish_bart", "bart_text", 0.02)
make("fish_bert", "bert_classify", 0.05)
make("fish_bert_true", "bert_classify", 0.05, true_fisher=True)
make("fish_bert_exclude", "bert_classify", 0.03, exclude=["pooler", "LayerNorm"])
make("fish_t5", "t5_tied", 0.02)
make("fish_gpt2", "gpt2_lm", 0.02)
contract("fish_bert", {"density": 0.1, "samples": 3})
