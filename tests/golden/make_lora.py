"""Golden data of LoRA: HF peft on tiny BART, BERT, GPT-2 and T5 models, all
factors random.

The factors are small enough that attention does not saturate: fp32 gradients
are then well within the tests' tolerance (gradients in fp64 tell)."""

import peft
import torch

from common_peft import load, noise, peft_trained, run, run_lm, write


def make(name, model_name, config, **lora):
    model, batch = load(model_name)
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(lora_dropout=0.0, **lora)
    ).eval()
    g = torch.Generator().manual_seed(len(name))
    trained = peft_trained(adapted, lambda _, p: noise(p.shape, g, 0.08))
    logits = (run_lm if "gpt2" in model_name else run)(adapted, batch)
    write(name, model_name, "lora", config, logits, trained)


make(
    "lora_bert",
    "bert_classify",
    {"r": 3, "alpha": 5},
    r=3,
    lora_alpha=5,
    task_type="SEQ_CLS",
)
make(
    "lora_bert_all",
    "bert_classify",
    {
        "r": 4,
        "alpha": 6,
        "target_modules": ["all-linear"],
        "use_rslora": True,
        "rank_pattern": ["layer.1.attention.self.key=2"],
        "alpha_pattern": ["intermediate.dense=9"],
    },
    r=4,
    lora_alpha=6,
    target_modules="all-linear",
    use_rslora=True,
    rank_pattern={"layer.1.attention.self.key": 2},
    alpha_pattern={"intermediate.dense": 9},
    task_type="SEQ_CLS",
)
make(
    "lora_bart",
    "bart_text",
    {"r": 3, "alpha": 5},
    r=3,
    lora_alpha=5,
    task_type="SEQ_2_SEQ_LM",
)
make(
    "lora_t5",
    "t5_tied",
    {"r": 5, "alpha": 7},
    r=5,
    lora_alpha=7,
    task_type="SEQ_2_SEQ_LM",
)
make(
    "lora_t5_gated",
    "t5_gated",
    {"r": 2, "alpha": 3, "target_modules": ["o", "wi_0", "wo", "k"]},
    r=2,
    lora_alpha=3,
    target_modules=["o", "wi_0", "wo", "k"],
    task_type="SEQ_2_SEQ_LM",
)
make(
    "lora_gpt2",
    "gpt2_lm",
    {"r": 3, "alpha": 5},
    r=3,
    lora_alpha=5,
    fan_in_fan_out=True,
    task_type="CAUSAL_LM",
)
make(
    "lora_gpt2_all",
    "gpt2_lm",
    {"r": 2, "alpha": 3, "target_modules": ["all-linear"], "use_rslora": True},
    r=2,
    lora_alpha=3,
    target_modules="all-linear",
    use_rslora=True,
    fan_in_fan_out=True,
    task_type="CAUSAL_LM",
)
