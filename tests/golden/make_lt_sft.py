"""Golden data of LT-SFT (Ansell et al. 2022, sec. 3.2): SGD with momentum in
PyTorch on all that competes for FULL steps, the k numbers that moved farthest,
everything back to where it began, an optimizer and a schedule of their own for
the mask alone. Every step sees all samples, so that the order of data does not
matter. SGD, because Adam's first steps move all numbers alike; the k-th and the
next movement differ by `gap`.

`value.`, `grad.` and `logits` are of the first phase's beginning, `losses`,
`norms`, `index.` and `final.` of the run."""

import torch
import transformers

from common import HERE, write_golden
from common_masks import Masked
from common_peft import contract, summed_loss, write
from safetensors.torch import load_file

NAME, MODEL = "lt_sft_bert", "train_bert"
DENSITY, EXCLUDE = 0.04, ["embeddings", "layer.0."]
FULL, STEPS, WARMUP, LR, MOMENTUM, CLIP = 3, 7, 1, 0.2, 0.9, 0.5

m = Masked(MODEL, EXCLUDE)
trained = {n: m.params[n] for n in m.body + m.head}
for n, p in m.params.items():
    p.requires_grad_(n in trained)
start = {n: p.detach().clone() for n, p in trained.items()}
losses, norms = [], []


def phase(steps, mask):
    """mask: name -> which numbers of a tensor move; none: all."""
    optimizer = torch.optim.SGD(trained.values(), lr=LR, momentum=MOMENTUM)
    schedule = transformers.get_linear_schedule_with_warmup(
        optimizer, WARMUP, steps
    )
    for _ in range(steps):
        loss = m.model(**m.batch).loss
        optimizer.zero_grad()
        loss.backward()
        for n, which in mask.items():
            trained[n].grad *= which
        norms.append(torch.nn.utils.clip_grad_norm_(trained.values(), CLIP))
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())


logits = m.model(**m.batch).logits
summed_loss(logits, m.batch["labels"]).backward()
config = {"density": DENSITY, "full_steps": FULL, "exclude": EXCLUDE}
write(NAME, MODEL, "lt_sft", config, logits, trained)

phase(FULL, {})
moved = {
    n: (trained[n].detach() - start[n]).abs().flatten().numpy()
    for n in m.body
}
k = m.budget(DENSITY)
chosen = m.choose(moved, k)
ranked = torch.cat([torch.from_numpy(moved[n]) for n in m.body])
ranked = ranked.sort(descending=True).values
gap = 1 - ranked[k] / ranked[k - 1]
assert gap > 2e-4, float(gap)

mask = {}
with torch.no_grad():
    for n, p in trained.items():
        p.copy_(start[n])
for n, index in chosen.items():
    mask[n] = torch.zeros(trained[n].shape)
    mask[n].view(-1)[torch.from_numpy(index)] = 1
phase(STEPS - FULL, mask)
assert min(norms) > CLIP, norms

more = {"losses": torch.stack(losses), "norms": torch.stack(norms), "gap": gap}
for n, index in chosen.items():
    if index.size == 0:
        continue
    at = torch.from_numpy(index)
    more["index.lt_sft." + n] = at.to(torch.int32)
    more["final.lt_sft." + n] = trained[n].flatten()[at]
for n in m.head:
    more["final." + n] = trained[n]
folder = HERE / NAME
write_golden(folder, {**load_file(folder / "golden.safetensors"), **more})
contract(NAME, {"density": 0.1, "full_steps": 2})
