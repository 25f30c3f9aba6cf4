"""Golden data of SNIP masks: |w g| of every number, g the gradient of the summed
loss in double precision, global top-k, ties to the lower flat position, tensors
in the order of the backbone's slots, and the gradients of one batch at the mask.

The densities are chosen so that the k-th and the next score differ by more
than fp32 gradients can (stated in the file as `gap`)."""

import numpy
import torch

from common_masks import Masked
from common_peft import contract, run, run_lm


def sensitivities(m):
    """Name -> |w g|, flat; the model is as before."""
    exact = m.model.double()
    for p in exact.parameters():
        p.grad = None
    (run_lm if m.model_name == "gpt2_lm" else run)(exact, m.batch)
    out = {n: (m.params[n] * m.params[n].grad).detach().abs() for n in m.body}
    m.model.float()
    return {n: s.flatten().numpy() for n, s in out.items()}


def make(name, model_name, density):
    m = Masked(model_name)
    k = m.budget(density)
    scores = sensitivities(m)
    ordered = -numpy.sort(-numpy.concatenate([scores[n] for n in m.body]))
    gap = 1 - ordered[k] / ordered[k - 1]
    assert gap > 2e-4, (name, gap)
    config = {"density": density, "samples": m.batch["labels"].shape[0]}
    m.write(name, "snip_mask", "snip", config, m.choose(scores, k),
            {"gap": torch.tensor(gap)})


make("snip_bart", "bart_text", 0.02)
make("snip_bert", "bert_classify", 0.06)
make("snip_gpt2", "gpt2_lm", 0.03)
make("snip_t5", "t5_tied", 0.02)

# Of all numbers the share, rounded down; BERT's head of 1,538 is in it.
contract(
    "snip_bert",
    {"density": 0.1, "samples": 3},
    counts=[
        ("t5-base", {"density": 0.005}, 222_903_552 * 5 // 1_000),
        ("bert-base", {"density": 0.005}, 109_483_778 * 5 // 1_000),
    ],
)
