"""What the golden makers of masks over a backbone's own weights share: budgets,
quotas and ties as the papers and peft/masked_method.h have them, in a few lines
of NumPy over whole sorts, and the gradients of one batch at the mask."""

import numpy
import torch

from common_peft import load, run_lm, summed_loss, write


class Masked:
    """A tiny model with everything asking for gradients, and what competes."""

    def __init__(self, model_name, exclude=()):
        self.model_name = model_name
        self.model, self.batch = load(model_name)
        for p in self.model.parameters():
            p.requires_grad_(True)
        self.params = in_slot_order(dict(self.model.named_parameters()))
        self.head = [n for n in self.params if n.startswith("classifier")]
        self.body = [
            n
            for n in self.params
            if n not in self.head and not any(part in n for part in exclude)
        ]

    def budget(self, density):
        total = sum(p.numel() for p in self.params.values())
        # Whole thousandths, so that no product is rounded.
        k = round(density * 1000) * total // 1000
        return k - sum(self.params[n].numel() for n in self.head)

    def choose(self, scores, k, quota="global"):
        """Name -> sorted positions of the k largest of {name: flat scores},
        ties to the lower position."""
        if quota == "tensor":
            quotas = shares([scores[n].size for n in self.body], k)
            return {
                n: first(scores[n], q) for n, q in zip(self.body, quotas)
            }
        chosen = first(numpy.concatenate([scores[n] for n in self.body]), k)
        out, begin = {}, 0
        for n in self.body:
            end = begin + scores[n].size
            out[n] = chosen[(chosen >= begin) & (chosen < end)] - begin
            begin = end
        return out

    def write(self, name, method, prefix, config, chosen, more=None,
              scaled=False):
        """Logits and gradients of the batch at the mask, into folder NAME.
        scaled: and of each gradient the norm that as many of its tensor's have
        on average. A mask that no gradient has chosen may hold one that happens
        to be small, and whose rounding error is that of the others."""
        for p in self.params.values():
            p.grad = None
        if self.model_name == "gpt2_lm":
            logits = run_lm(self.model, self.batch)
        else:
            logits = self.model(**self.batch).logits
            summed_loss(logits, self.batch["labels"]).backward()
        trained, more = {}, dict(more or {})
        for n, index in chosen.items():
            if index.size == 0:
                continue
            at = torch.from_numpy(index)
            p = self.params[n]
            values = p.detach().flatten()[at].clone()
            values.grad = p.grad.flatten()[at].clone()
            trained[f"{prefix}.{n}"] = values
            more[f"index.{prefix}.{n}"] = at.to(torch.int32)
            if scaled:
                more[f"scale.{prefix}.{n}"] = self.scale(n, index.size)
        for n in self.head:
            trained[n] = self.params[n]
        write(name, self.model_name, method, config, logits, trained, more)

    def scale(self, name, k):
        # Softmax does not see a key's bias: its gradient is rounding alone, on
        # the scale of the query's.
        for key, query in ((".key.bias", ".query.bias"),
                           (".k_proj.bias", ".q_proj.bias")):
            if name.endswith(key):
                name = name.removesuffix(key) + query
        grad = self.params[name].grad
        return grad.norm() * (k / grad.numel()) ** 0.5


def in_slot_order(params):
    """HF's order is that of the backbone's slots, but for the norms of T5's
    sublayers: they come first there."""
    names = []
    for n in params:
        place = len(names)
        if n.endswith(".layer_norm.weight"):
            sublayer = n.removesuffix("layer_norm.weight")
            while names[place - 1].startswith(sublayer):
                place -= 1
        names.insert(place, n)
    return {n: params[n] for n in names}


def first(scores, k):
    """The positions of the k largest, ascending; equal ones by position."""
    return numpy.sort(numpy.argsort(-scores, kind="stable")[:k])


def shares(sizes, k):
    """k split by size: floors, then one more for the largest remainders."""
    total = sum(sizes)
    out = [k * n // total for n in sizes]
    rest = numpy.array([k * n % total for n in sizes])
    for t in numpy.argsort(-rest, kind="stable")[: k - sum(out)]:
        out[t] += 1
    return out
