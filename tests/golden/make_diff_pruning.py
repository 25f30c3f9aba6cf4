"""Golden data of diff pruning (Guo, Rush & Kim 2021, sec. 3): gates and
differences by the paper's formula around HF's models, the head as it is.

diff_pruning_bert, diff_pruning_t5: `value.` of tensors theta_0 + w and of gates,
logits and `grad.` without noise, as in evaluation, `noisy_logits` and
`noisy_grad.` with that of one seed and step.
diff_pruning_train: a run on all samples at once, SGD with momentum in two
parts: CUT steps of gates and differences with the penalty, gates of a rate and
a clipping of their own; then the k numbers of the largest |z w|, alone, from
where the cut left them. The k-th and the next differ by `gap`."""

import numpy
import torch
import transformers

from common import HERE, write_golden
from common_masks import Masked, in_slot_order
from common_peft import contract, load, summed_loss, write
from common_random import MASK, make_key, mix64, uniform
from safetensors.torch import load_file

LOW, HIGH = -1.5, 1.5


def noise(shape, which, seed, step, tensor):
    n = torch.Size(shape).numel()
    assert n <= 16384  # of one piece
    u = uniform(n, mix64(tensor << 32) ^ make_key(seed, MASK, step), which)
    return torch.from_numpy(u).float().reshape(shape).clamp(1e-4, 1 - 1e-4)


def gate(a, u=None):
    logit = a if u is None else u.log() - (1 - u).log() + a
    return (logit.sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1)


class Gated:
    """A model whose tensors, but heads and excluded ones, are gated."""

    def __init__(self, model, exclude, start):
        self.model = model
        params = in_slot_order(dict(model.named_parameters()))
        self.number = {n: i for i, n in enumerate(params)}
        self.head = {n: p for n, p in params.items() if "classifier" in n}
        self.rest = {
            n: p.detach().clone()
            for n, p in params.items()
            if n not in self.head and not any(e in n for e in exclude)
        }
        self.values = {n: start(p) for n, p in self.rest.items()}
        self.gates, self.shared = {}, {}
        self.trained = {}

    def add_gates(self, start, structured):
        for n, p in self.rest.items():
            self.gates[n] = start(p.shape).requires_grad_(True)
            if structured:
                self.shared[n] = start((1,)).requires_grad_(True)
        for p in [*self.values.values(), *self.head.values()]:
            p.requires_grad_(True)
        for n in self.rest:
            self.trained[n] = self.values[n]
            self.trained["diff_pruning.gate." + n] = self.gates[n]
            if structured:
                self.trained["diff_pruning.tensor_gate." + n] = self.shared[n]
        self.trained.update(self.head)

    def weights(self, noisy=None):
        """noisy: (seed, step)."""
        out = {}
        for n, rest in self.rest.items():
            u = v = None
            if noisy:
                at = (*noisy, self.number[n])
                u = noise(rest.shape, "gate.numbers", *at)
                v = noise((1,), "gate.tensor", *at)
            z = gate(self.gates[n], u)
            if self.shared:
                z = z * gate(self.shared[n], v)
            out[n] = rest + z * (self.values[n] - rest)
        return out

    def run(self, batch, weights):
        return torch.func.functional_call(
            self.model, weights, args=(), kwargs=batch
        )


def make(name, model_name, exclude, structured, seed, step):
    model, batch = load(model_name)
    g = torch.Generator().manual_seed(len(name))
    draw = lambda shape, scale: scale * torch.randn(shape, generator=g)
    m = Gated(model, exclude, lambda p: p + draw(p.shape, 0.1))
    # Some gates are closed, some open and most in between; tensors' are not
    # closed.
    m.add_gates(
        lambda shape: draw(shape, 0.1) + 0.7
        if shape == (1,)
        else draw(shape, 0.8) + 0.4,
        structured,
    )
    config = {"structured": structured, "exclude": exclude}
    more = {}
    for noisy in ((seed, step), None):
        for p in m.trained.values():
            p.grad = None
        weights = m.weights(noisy)
        for w in weights.values():
            w.retain_grad()
        logits = m.run(batch, weights).logits
        summed_loss(logits, batch["labels"]).backward()
        if noisy:
            more["noisy_logits"] = logits
            for n, p in m.trained.items():
                more["noisy_grad." + n] = p.grad.clone()
    # Every number of a tensor has a part in its gate's gradient, and parts of
    # either sign may leave little; the rounding error is theirs.
    for n, a in m.shared.items():
        (slope,) = torch.autograd.grad(gate(a), a)
        parts = weights[n].grad * (m.values[n] - m.rest[n]) * gate(m.gates[n])
        more["scale.diff_pruning.tensor_gate." + n] = (parts * slope).norm()
    write(
        name,
        model_name,
        "diff_pruning",
        config,
        logits,
        m.trained,
        more,
        noise={"seed": seed, "step": step},
    )


def train():
    density, exclude = 0.04, ["embeddings", "layer.0.", "key.bias"]
    cut, steps, warmup, momentum, clip, seed = 5, 9, 1, 0.9, 0.5, 1
    lr, diff_factor, gate_factor, penalty, start = 0.2, 0.5, 20.0, 0.05, 0.6
    masked = Masked("train_bert", exclude)
    batch = masked.batch
    m = Gated(masked.model, exclude, lambda p: p.clone())
    m.add_gates(lambda shape: torch.full(shape, start), True)
    losses, norms, penalties = [], [], []

    def phase(first, last, groups, forward, mask):
        """groups: (tensors, factor of the rate), each clipped by itself."""
        optimizer = torch.optim.SGD(
            [{"params": p, "lr": lr * f} for p, f in groups],
            lr=lr,
            momentum=momentum,
        )
        schedule = transformers.get_linear_schedule_with_warmup(
            optimizer, warmup, last - first
        )
        for step in range(first, last):
            loss, open_gates = forward(step)
            optimizer.zero_grad()
            (loss + penalty * open_gates).backward()
            for p, which in mask:
                p.grad *= which
            norms.append(
                sum(
                    torch.nn.utils.clip_grad_norm_(p, clip) ** 2
                    for p, _ in groups
                )
                ** 0.5
            )
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
            penalties.append(penalty * torch.as_tensor(open_gates).detach())

    gates = [*m.gates.values(), *m.shared.values()]
    rest = [*m.values.values(), *m.head.values()]

    def gated(step):
        loss = m.run(batch, m.weights((seed, step))).loss
        return loss, sum(a.sigmoid().sum() for a in gates)

    phase(0, cut, [(rest, diff_factor), (gates, gate_factor)], gated, [])

    weights = {n: w.detach() for n, w in m.weights().items()}
    moved = {
        n: (w - m.rest[n]).abs().flatten().numpy() for n, w in weights.items()
    }
    # The head is outside of the share.
    k = masked.budget(density) + sum(p.numel() for p in m.head.values())
    chosen = masked.choose(moved, k)
    ranked = numpy.sort(numpy.concatenate(list(moved.values())))[::-1]
    gap = 1 - ranked[k] / ranked[k - 1]
    assert gap > 2e-4 and ranked[k] > 0, gap

    mask = []
    for n, index in chosen.items():
        which = torch.zeros(m.rest[n].shape)
        which.view(-1)[torch.from_numpy(index)] = 1
        kept = torch.where(which > 0, weights[n], m.rest[n])
        m.values[n] = kept.requires_grad_(True)
        mask.append((m.values[n], which))
    refit = lambda step: (m.run(batch, m.values).loss, 0)
    rest = [*m.values.values(), *m.head.values()]
    phase(cut, steps, [(rest, 1)], refit, mask)

    final = {"final." + n: p for n, p in m.head.items()}
    for n, index in chosen.items():
        if index.size == 0:
            continue
        at = torch.from_numpy(index)
        final["index.diff_pruning." + n] = at.to(torch.int32)
        final["start.diff_pruning." + n] = weights[n].flatten()[at]
        final["final.diff_pruning." + n] = m.values[n].flatten()[at]
    folder = HERE / "diff_pruning_train"
    folder.mkdir(exist_ok=True)
    write_golden(
        folder,
        dict(
            **final,
            losses=torch.stack(losses),
            norms=torch.stack(norms),
            penalties=torch.stack(penalties),
            gap=torch.tensor(gap),
        ),
    )
    print(gap, [round(float(x), 4) for x in losses + norms + penalties])


BERT = ["layer.0.", "intermediate", "word_embeddings", "output.dense.weight"]
make("diff_pruning_bert", "bert_classify", [*BERT, "key.bias"], True, 5, 9)
T5 = ["decoder.block.", "encoder.block.1.", "encoder.block.2.", "DenseRelu"]
make("diff_pruning_t5", "t5_tied", T5, False, 1 << 40, 0)
contract(
    "diff_pruning_bert",
    {"density": 0.1, "gate_steps": 2, "gate_lr_factor": 5},
)
train()
