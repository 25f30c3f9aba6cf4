"""Golden data of BitFit: by name on BART, BERT and GPT-2; on T5, vectors that a
hook adds to
the output of every linear layer but the head."""

import torch

from common_peft import contract, load, noise, run, run_lm, write


def by_name(name, model_name, config, chosen):
    model, batch = load(model_name)
    trained = {}
    for key, p in model.named_parameters():
        head = key.startswith("classifier")
        if head or (key.endswith(".bias") and chosen(key)):
            trained[key] = p.requires_grad_(True)
    write(name, model_name, "bitfit", config, run(model, batch), trained)


def gpt2(name):
    model, batch = load("gpt2_lm")
    trained = {}
    for key, p in model.named_parameters():
        if key.endswith(".bias"):
            trained[key] = p.requires_grad_(True)
    write(name, "gpt2_lm", "bitfit", {}, run_lm(model, batch), trained)


def t5(name):
    model, batch = load("t5_tied")
    g = torch.Generator().manual_seed(4)
    trained = {}
    for key, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and key != "lm_head":
            bias = noise((module.out_features,), g).requires_grad_(True)
            module.register_forward_hook(lambda m, x, y, b=bias: y + b)
            trained[key + ".bias"] = bias
    config = {"add_missing": True}
    write(name, "t5_tied", "bitfit", config, run(model, batch), trained)


by_name("bitfit_bart", "bart_text", {}, lambda key: True)
by_name("bitfit_bert", "bert_classify", {}, lambda key: True)
by_name(
    "bitfit_bert_terms",
    "bert_classify",
    {"terms": ["query", "intermediate"]},
    lambda key: any(
        part in key for part in ("self.query", "intermediate", "pooler")
    ),
)
t5("bitfit_t5")
gpt2("bitfit_gpt2")
contract("bitfit_bert", {"add_missing": True})
