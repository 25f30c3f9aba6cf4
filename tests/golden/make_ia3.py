"""Golden data of (IA)^3: HF peft on tiny BERT and T5 models, all vectors random.

On BERT peft's own defaults catch more than the paper's layers; regular
expressions name those."""

import peft
import torch

from common_peft import load, noise, run, write


def make(name, model_name, config, **ia3):
    model, batch = load(model_name)
    adapted = peft.get_peft_model(model, peft.IA3Config(**ia3)).eval()
    g = torch.Generator().manual_seed(len(name))
    trained = {}
    with torch.no_grad():
        for key, p in adapted.named_parameters():
            if not p.requires_grad:
                continue
            disk = key.replace(".default", "")
            if "modules_to_save" in disk:
                disk = disk.replace(".modules_to_save", "")
                disk = disk.removeprefix("base_model.model.")
            else:
                p.copy_(1 + noise(p.shape, g))
            trained[disk] = p
    write(name, model_name, "ia3", config, run(adapted, batch), trained)


make(
    "ia3_bert",
    "bert_classify",
    {},
    target_modules=r".*\.(key|value|layer\.\d+\.output\.dense)",
    feedforward_modules=r".*layer\.\d+\.output\.dense",
    task_type="SEQ_CLS",
)
make("ia3_t5", "t5_tied", {}, task_type="SEQ_2_SEQ_LM")
make(
    "ia3_t5_gated",
    "t5_gated",
    {"target_modules": ["k", "wi_1"], "feedforward_modules": ["wi_1"]},
    target_modules=["k", "wi_1"],
    feedforward_modules=["wi_1"],
    task_type="SEQ_2_SEQ_LM",
)
