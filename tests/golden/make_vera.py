"""Golden data of VeRA: HF peft on tiny BERT, GPT-2 and T5 models, vectors
random.

The counts are those of the paper's table 1 (without heads)."""

import peft
import torch

from common_peft import (
    contract,
    load,
    noise,
    peft_trained,
    run,
    run_lm,
    write,
)


def make(name, model_name, config, **vera):
    model, batch = load(model_name)
    adapted = peft.get_peft_model(model, peft.VeraConfig(**vera)).eval()
    g = torch.Generator().manual_seed(len(name))
    trained = peft_trained(adapted, lambda _, p: noise(p.shape, g, 0.5))
    shared = {
        f"constant.base_model.{key}": getattr(adapted.base_model, key)["default"]
        for key in ("vera_A", "vera_B")
    }
    logits = (run_lm if "gpt2" in model_name else run)(adapted, batch)
    write(name, model_name, "vera", config, logits, trained, shared)


make("vera_bert", "bert_classify", {"r": 5}, r=5, task_type="SEQ_CLS")
make(
    "vera_gpt2",
    "gpt2_lm",
    {"r": 4},
    r=4,
    fan_in_fan_out=True,
    task_type="CAUSAL_LM",
)
make(
    "vera_t5",
    "t5_tied",
    {"r": 6, "target_modules": ["q", "wi", "wo"]},
    r=6,
    target_modules=["q", "wi", "wo"],
    task_type="SEQ_2_SEQ_LM",
)
no_head = {"train_head": False}
contract(
    "vera_bert",
    {"r": 6},
    counts=[
        ("roberta-base", {"r": 1024, **no_head}, 43_008),
        ("roberta-large", {"r": 256, **no_head}, 61_440),
    ],
)
