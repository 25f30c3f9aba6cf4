"""Golden data of masks that no data is asked for: random ones, by Philox4x32-10
in NumPy (Salmon et al. 2011), the largest and smallest magnitudes, and PaFi's,
over all tensors at once or with a quota for each."""

import numpy

from common_masks import Masked
from common_peft import contract
from common_random import MASK, make_key, philox

BERT_NORMS = ["LayerNorm"]
T5_NORMS = ["layer_norm"]
T5_TABLES = ["shared", "relative_attention_bias"]


def random_scores(m, seed):
    """Of every number outside the head, excluded or not."""
    sizes = {n: p.numel() for n, p in m.params.items() if n not in m.head}
    total = sum(sizes.values())
    bits = philox(total, make_key(seed, MASK))
    # As integers of 31 bits, in whose order the scores are.
    flat = (bits * numpy.uint64(0x7F800000) >> numpy.uint64(32)).astype(
        numpy.int64
    )
    out, begin = {}, 0
    for n, size in sizes.items():
        out[n] = flat[begin : begin + size]
        begin += size
    return out


def magnitudes(m, sign):
    return {
        n: sign * numpy.abs(m.params[n].detach().numpy().ravel())
        for n in m.body
    }


def make_random(name, model_name, density, seed, quota="global", exclude=()):
    m = Masked(model_name, exclude)
    chosen = m.choose(random_scores(m, seed), m.budget(density), quota)
    config = {
        "density": density,
        "seed": seed,
        "quota": quota,
        "exclude": list(exclude),
    }
    m.write(name, "random_mask", "random", config, chosen, scaled=True)


def make_magnitude(name, model_name, density, keep, quota="global"):
    m = Masked(model_name)
    sign = 1 if keep == "largest" else -1
    chosen = m.choose(magnitudes(m, sign), m.budget(density), quota)
    config = {"density": density, "keep": keep, "quota": quota}
    m.write(name, "magnitude_mask", "magnitude", config, chosen, scaled=True)


def make_pafi(name, model_name, density, tables=(), norms=()):
    """tables, norms: parts of names that do not compete."""
    m = Masked(model_name, [*tables, *norms])
    chosen = m.choose(magnitudes(m, -1), m.budget(density))
    config = {
        "density": density,
        "embeddings": not tables,
        "norms": not norms,
    }
    m.write(name, "pafi", "pafi", config, chosen, scaled=True)


make_random("random_bert", "bert_classify", 0.05, 7)
make_random("random_t5", "t5_tied", 0.02, 8, exclude=["shared"])
make_random("random_gpt2", "gpt2_lm", 0.02, 9, quota="tensor")
make_magnitude("magnitude_bert", "bert_classify", 0.05, "largest")
make_magnitude("magnitude_t5", "t5_tied", 0.02, "smallest", quota="tensor")
make_magnitude("magnitude_bart", "bart_text", 0.02, "largest", quota="tensor")
make_pafi("pafi_bert", "bert_classify", 0.05, norms=BERT_NORMS)
make_pafi("pafi_bert_all", "bert_classify", 0.05)
make_pafi("pafi_t5", "t5_tied", 0.02, tables=T5_TABLES, norms=T5_NORMS)
make_pafi("pafi_gpt2", "gpt2_lm", 0.02)

# Of all numbers the share, rounded down; BERT's head of 1,538 is in it.
T5, BERT = 222_903_552, 109_483_778


def counts(**more):
    return [
        ("t5-base", {"density": 0.0008, **more}, T5 * 8 // 10_000),
        ("t5-base", {"density": 0.005, **more}, T5 * 5 // 1_000),
        ("bert-base", {"density": 0.005, **more}, BERT * 5 // 1_000),
    ]


contract("random_bert", {"density": 0.1, "seed": 3}, counts=counts())
contract("magnitude_bert", {"density": 0.1}, counts=counts(quota="tensor"))
contract(
    "pafi_bert",
    {"density": 0.1},
    counts=counts() + counts(embeddings=False, norms=False),
)
