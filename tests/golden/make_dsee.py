"""Golden data of DSEE: s (U V + S2) as a matrix in hooks on HF's models, and
weights of these that are pruned in place.

Chen et al. 2023, sec. 3. S2's places are found by the robust split in NumPy, as
the reference code has it but for where its rounds end (peft/robust_split.h), or
are the largest weights. What trains is `start.NAME` when the boundary comes;
then S1 is drawn by whole sorts, or whole heads and channels go. `found.NAME` are
the constants that must come out: places, and bits of what is removed.

Counts and shares are taken near the ones asked for, where the last number that
is in and the first that is not are furthest apart, so that rounding cannot swap
them."""

import re

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from common import HERE, write_golden
from common_peft import contract, load, noise, run, run_lm, write
from common_random import normal

GAP = 1e-4  # relative


ROUNDS = 1  # what grows a rank is unsteady where hardly a number is small


def beside_low_rank(w, numbers, noise=0, rounds=ROUNDS):
    """|W - u v| of the last round in which S has as many numbers. noise:
    relative, of what it begins at."""
    v = normal(w.shape[1], 1, "dsee.split")[None]
    v = v * (1 + noise * np.cos(np.arange(v.size)))
    found = None
    for _ in range(rounds):
        s = np.zeros_like(w)
        for _ in range(2):
            u = np.linalg.qr((w - s) @ v.T)[0]
            v = u.T @ (w - s)
            beside = w - u @ v
            s = np.where(np.abs(beside) >= 0.01, beside, 0)
        if found is not None and np.count_nonzero(s) < numbers:
            return found
        found = np.abs(beside)
        if len(v) + 5 >= min(w.shape):
            return found
        v = np.concatenate([v, np.linalg.qr(beside - s)[1][:5]])
    return found


def cut(scores, k):
    """Whether each score is among the k smallest of all, and the gap there."""
    flat = np.concatenate([s.ravel() for s in scores])
    order = np.argsort(flat, kind="stable")
    low, high = flat[order[k - 1]], flat[order[k]]
    gone = np.zeros(flat.size, bool)
    gone[order[:k]] = True
    parts = np.split(gone, np.cumsum([s.size for s in scores])[:-1])
    return [g.reshape(s.shape) for g, s in zip(parts, scores)], abs(
        high - low
    ) / max(abs(high), abs(low))


def cut_share(scores, share):
    """The same of a share in thousandths near `share`, which comes first."""
    n = sum(s.size for s in scores)
    at = round(1000 * share)
    found = max(
        ((t / 1000, *cut(scores, t * n // 1000)) for t in range(at, at + 30)),
        key=lambda f: f[2],
    )
    assert found[2] > GAP, found[2]
    return found[:2]


class Changed:
    """A tiny model with a change beside each target."""

    def __init__(self, model_name, targets, r, scale, seed):
        self.model_name = model_name
        self.model, self.batch = load(model_name)
        self.scale, self.g = scale, torch.Generator().manual_seed(seed)
        self.masks = {}  # bool [out, in], of changes that are masked
        self.trained, self.found, self.places = {}, {}, {}
        inside = r"\.(layer|block|h|layers)\.\d+\."
        self.linear = {
            key: module
            for key, module in self.model.named_modules()
            if isinstance(module, (torch.nn.Linear, Conv1D))
            and re.search(inside, key)
        }
        self.targets = [
            key
            for key in self.linear
            if any(("." + key).endswith("." + t) for t in targets)
        ]
        for key in self.targets:
            out, in_ = self.weight(key).shape
            u, v = noise((out, r), self.g), noise((r, in_), self.g)
            self.trained[key + ".dsee_U"] = u
            self.trained[key + ".dsee_V"] = v

    def weight(self, key):  # [out, in]
        w = self.linear[key].weight.detach()
        return w.T if isinstance(self.linear[key], Conv1D) else w

    def place(self, support, numbers):
        """N_s near `numbers`; returns it."""

        weights = [self.weight(t).double().numpy() for t in self.targets]

        def of(k, noise=0):
            scores = weights
            if support == "split":
                scores = [beside_low_rank(w, k, noise) for w in weights]
            cuts = [cut([-np.abs(s)], k) for s in scores]
            return k, [c[0][0] for c in cuts], min(c[1] for c in cuts)

        k, kept, gap = max(
            (of(k) for k in range(numbers, numbers + 6)), key=lambda f: f[2]
        )
        assert gap > GAP, gap
        # The counter's normal numbers are exact to 3e-7.
        assert all(map(np.array_equal, kept, of(k, 1e-5)[1]))
        for key, at in zip(self.targets, kept):
            index = torch.from_numpy(np.flatnonzero(at))
            self.places[key] = index
            self.found[f"{key}.dsee_S.index"] = index.to(torch.int32)
            self.trained[key + ".dsee_S"] = noise((k,), self.g)
        return k

    def change(self, key, sparse=True):
        u, v, s = (self.trained[f"{key}.dsee_{p}"] for p in "UVS")
        out = u @ v
        if sparse:
            out = out.flatten().index_add(0, self.places[key], s).view_as(out)
        out = self.scale * out
        return out * ~self.masks[key] if key in self.masks else out

    def remove(self, key, mask):  # bool [out, in]
        module = self.linear[key]
        self.note(key + ".weight", mask.T if isinstance(module, Conv1D) else mask)
        with torch.no_grad():
            self.weight(key)[torch.from_numpy(mask)] = 0

    def remove_rows(self, key, rows):
        out, in_ = self.weight(key).shape
        self.remove(key, np.repeat(rows[:, None], in_, 1))
        bias = self.linear[key].bias
        if bias is not None:
            self.note(key + ".bias", rows)
            with torch.no_grad():
                bias[torch.from_numpy(rows)] = 0

    def remove_columns(self, key, columns):
        self.remove(key, np.repeat(columns[None], self.weight(key).shape[0], 0))

    def note(self, name, mask):
        bits = np.packbits(mask.ravel(), bitorder="little")
        self.found["pruned." + name] = torch.from_numpy(bits)

    def score(self, key, what):
        change = self.change(key, not what.endswith("low_rank")).numpy()
        if what.startswith("sum"):
            change = self.weight(key).numpy() + change
        sign = -1 if what.startswith("inverse") else 1
        return sign * np.abs(change)

    def prune(self, what, sparsity, other_sparsity, mask_update=False):
        """Returns the shares that were taken."""
        others = [k for k in self.linear if k not in self.targets]

        def lies(key, score):
            conv = isinstance(self.linear[key], Conv1D)
            return score.T if conv else score

        groups = [
            (self.targets, lambda k: self.score(k, what), sparsity),
            (others, lambda k: self.weight(k).abs().numpy(), other_sparsity),
        ]
        shares = []
        for keys, score, share in groups:
            scores = [lies(k, score(k)) for k in keys]
            share, gone = cut_share(scores, share)
            shares.append(share)
            for key, mask in zip(keys, gone):
                if mask.any():
                    self.remove(key, lies(key, mask))
        if mask_update:
            for key in self.targets:
                w = self.weight(key)
                self.masks[key] = w == 0
        return shares

    def remove_units(self, heads, channels):
        """The last matrix of each attention and feed-forward reads the others'
        rows."""
        c = self.model.config
        count = c.num_heads if c.model_type == "t5" else c.num_attention_heads
        modules = {}
        for key in self.linear:
            modules.setdefault(module_of(key), []).append(key)
        attention = {
            m: keys for m, keys in modules.items() if "att" in m.lower()
        }
        together = {}
        for m in attention:
            t5_self = ".SelfAttention" in m and c.model_type == "t5"
            name = re.sub(r"\.block\.\d+", "", m) if t5_self else m
            together.setdefault(name, []).append(m)
        for group in together.values():
            scores = 0
            for m in group:
                for key in attention[m][:-1]:
                    if key not in self.targets:
                        continue
                    rows = self.change(key).abs().double().sum(1)
                    rows = rows.view(-1, count, rows.numel() // self.parts(key) // count)
                    scores = scores + rows.sum((0, 2)).numpy()
            [gone], gap = cut([scores], heads)
            assert gap > GAP, gap
            for m in group:
                for key in attention[m][:-1]:
                    rows = self.weight(key).shape[0]
                    width = rows // self.parts(key) // count
                    self.remove_rows(
                        key, np.tile(np.repeat(gone, width), self.parts(key))
                    )
                last = attention[m][-1]
                width = self.weight(last).shape[1] // count
                self.remove_columns(last, np.repeat(gone, width))
        for m, keys in modules.items():
            if m in attention:
                continue
            scores = sum(
                self.weight(k).abs().double().sum(1).numpy() for k in keys[:-1]
            )
            [gone], gap = cut([scores], int(channels * scores.size))
            assert gap > GAP, gap
            for key in keys[:-1]:
                self.remove_rows(key, gone)
            self.remove_columns(keys[-1], gone)

    @staticmethod
    def parts(key):
        return 3 if key.endswith("c_attn") else 1

    def write(self, name, config):
        for key in self.trained:
            self.trained[key].requires_grad_(True)
        start = {"start." + k: v.detach().clone() for k, v in self.trained.items()}
        for key in self.targets:
            self.linear[key].register_forward_hook(
                lambda module, x, y, key=key: y + x[0] @ self.change(key).T
            )
        for key, p in self.model.named_parameters():
            if key.startswith("classifier"):
                self.trained[key] = p.requires_grad_(True)
        lm = self.model_name.startswith("gpt2")
        logits = (run_lm if lm else run)(self.model, self.batch)
        found = {"found." + k: v for k, v in self.found.items()}
        write(
            name, self.model_name, "dsee", config, logits, self.trained,
            {**start, **found}, boundary=1,
        )


def module_of(key):
    """The attention or feed-forward that a linear layer belongs to."""
    for end in (".self", ".output.dense"):
        key = key.replace(".attention" + end, ".attention")
    head, _, last = key.rpartition(".")
    if last == "dense" and "attention" not in key:  # BERT's feed-forward
        return head.rpartition(".")[0] + ".ffn"
    return head if last != "attention" else key


def make(name, model_name, targets, support="split", numbers=6, r=3, alpha=6.0,
         prune=None, units=None, given=False):
    m = Changed(model_name, targets, r, alpha / r, len(name))
    numbers = m.place(support, numbers)
    config = {"r": r, "alpha": alpha, "sparse": numbers, "support": support}
    if support == "split":
        config["split_rounds"] = ROUNDS
    if given:
        config["target_modules"] = targets
    if prune:
        score, mask_update, *shares = prune
        shares = m.prune(score, *shares, mask_update)
        config.update(
            prune_after=1, score=score, sparsity=shares[0],
            other_sparsity=shares[1], mask_update=mask_update,
        )
    if units:
        m.remove_units(*units)
        config.update(
            prune_after=1, prune_heads=units[0], prune_channels=units[1]
        )
    m.write(name, config)


def make_split(rounds, seed):
    """Of a matrix with small numbers enough, and its transpose."""
    g = torch.Generator().manual_seed(seed)
    w = 0.02 * torch.randn(40, 30, generator=g)
    out = {"w": w}
    for name, m in (("tall", w), ("wide", w.T)):
        m = m.double().numpy()
        beside = beside_low_rank(m, 6, rounds=rounds)
        off = beside_low_rank(m, 6, 1e-6, rounds) - beside
        assert np.abs(off).max() < 1e-4 * beside.max(), np.abs(off).max()
        out[name] = torch.from_numpy(beside).float()
    folder = HERE / "dsee_split"
    folder.mkdir(exist_ok=True)
    write_golden(folder, out)


make_split(3, 5)
BERT = ("bert_classify", ["query", "value"])
T5 = ("t5_tied", ["q", "v"])
GPT2 = ("gpt2_lm", ["c_attn"])
make("dsee_bart", "bart_text", ["q_proj", "v_proj"], "magnitude")
make("dsee_bert", *BERT)
make("dsee_bert_pruned", *BERT, prune=("update", False, 0.3, 0.2))
make("dsee_bert_units", *BERT, units=(1, 0.25))
make("dsee_gpt2_pruned", *GPT2, prune=("low_rank", False, 0.3, 0.2))
make("dsee_gpt2_units", *GPT2, units=(2, 0.5))
make(
    "dsee_roberta_pruned", "roberta_classify",
    ["query", "key", "intermediate.dense"], "magnitude",
    prune=("inverse_low_rank", False, 0.2, 0.4), given=True,
)
make("dsee_t5_pruned", *T5, "magnitude", alpha=3.0, prune=("sum", True, 0.3, 0.2))
make("dsee_t5_units", "t5_gated", ["q", "v"], "magnitude", units=(1, 0.25))
contract(
    "dsee_bert",
    {"r": 4, "sparse": 5, "support": "magnitude"},
    # 24 matrices of 16 (768 + 768) + 16.
    counts=[
        ("bert-base", {"train_head": False}, 590_208),
        ("roberta-base", {"train_head": False}, 590_208),
    ],
)
