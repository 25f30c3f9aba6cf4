"""Golden data of mix-and-match adapters: prefixes and parallel adapters, the
formulas of make_prefix_tuning.py and make_parallel_adapter.py at once.

He et al. 2022, sec. 4.6."""

import torch

import make_parallel_adapter as parallel
import make_prefix_tuning as prefix
from common_peft import contract, load, run, write
from make_houlsby import train


def make(name, model_name, attach, d, width, config, seed, bottleneck=None):
    model, batch = load(model_name)
    g = torch.Generator().manual_seed(seed)
    trained = {}
    prefix.attach(model, d, width, g, trained, bottleneck)
    attach(model, config["bottleneck"], config.get("scaling", 4), g, trained)
    train(model, trained, lambda k: k.startswith("classifier"))
    write(name, model_name, "mam", config, run(model, batch), trained)


SIZES = {"length": prefix.LENGTH, "bottleneck": 5}

if __name__ == "__main__":
    make(
        "mam_bart",
        "bart_text",
        parallel.attach_to_bart,
        16,
        16,
        {**SIZES, "prefix_bottleneck": 6},
        26,
        6,
    )
    make(
        "mam_roberta",
        "roberta_classify",
        parallel.attach_to_bert,
        24,
        24,
        {**SIZES, "scaling": 2, "reparametrise": False},
        28,
    )
    make(
        "mam_t5",
        "t5_gated",
        parallel.attach_to_t5,
        20,
        21,
        {**SIZES, "scaling": 2, "reparametrise": False},
        27,
    )
    stored = {"reparametrise": False}
    contract(
        "mam_bart",
        {**SIZES, "prefix_bottleneck": 6},
        start="another",
        counts=[
            ("bart-large", stored, 27414528),
            # While the perceptron of the prefixes trains.
            ("bart-large", {}, 61608288 + 25202688),
            (
                "roberta-base",
                {
                    **stored,
                    "length": 16,
                    "bottleneck": 16,
                    "train_head": False,
                },
                599232,
            ),
            ("t5-base", stored, 20563968),
        ],
    )
