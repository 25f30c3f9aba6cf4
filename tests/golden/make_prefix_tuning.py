"""Golden data of prefix tuning: the paper's formula in place of HF's attention
(common_prefix.py).

Li & Liang 2021. Reparametrised: P = W2 tanh(W1 e + b1) + b2, one W2 per layer.

HF peft's prefixes are keys and values in the cache, behind which GPT-2 counts
the text's positions: with these counted from 0 it gives the same, which is
checked here."""

import peft
import torch
import transformers.models.gpt2.modeling_gpt2 as hf_gpt2

from common_peft import contract, load, noise, run, run_lm, write
from common_prefix import attend, attentions, plain

LENGTH = 3


def check_with_peft(model, batch, trained, logits):
    adapted = peft.get_peft_model(
        model,
        peft.PrefixTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=LENGTH
        ),
    ).eval()
    layers = sorted(trained.items(), key=lambda item: item[0])
    with torch.no_grad():
        # Keys and values of layer 0, of layer 1 …, a row per virtual token.
        flat = torch.cat([value for _, value in layers], 1)
        adapted.prompt_encoder.default.embedding.weight.copy_(flat)
        positions = model.transformer.wpe.weight
        back = positions.roll(LENGTH, 0)
        positions.copy_(back)
        hf_gpt2.eager_attention_forward = plain
        inputs = {k: v for k, v in batch.items() if k != "labels"}
        theirs = adapted(**inputs).logits
        hf_gpt2.eager_attention_forward = attend
    seen = batch["attention_mask"].unsqueeze(-1)
    torch.testing.assert_close(logits, theirs * seen)


def attach(model, d, width, g, trained, bottleneck=None):
    def tensor(key, *shape):
        if key not in trained:
            trained[key] = noise(shape, g, 0.4).requires_grad_(True)
        return trained[key]

    for module, group, layer in attentions(model):
        stem = f"prefix_tuning.prefix_tunings.thinwire.{group}_prefix."
        if bottleneck is None:
            k = tensor(f"{stem}{layer}.keys", LENGTH, width)
            v = tensor(f"{stem}{layer}.values", LENGTH, width)
            module.prefix = lambda k=k, v=v: (k, v)
            continue
        e = tensor(stem + "wte.weight", LENGTH, d)
        w1 = tensor(stem + "control_trans.0.weight", bottleneck, d)
        b1 = tensor(stem + "control_trans.0.bias", bottleneck)
        outer = f"{stem}{layer}.control_trans.2."
        w2 = tensor(outer + "weight", 2 * width, bottleneck)
        b2 = tensor(outer + "bias", 2 * width)

        def prefix(e=e, w1=w1, b1=b1, w2=w2, b2=b2):
            return ((e @ w1.T + b1).tanh() @ w2.T + b2).chunk(2, 1)

        module.prefix = prefix


def make(name, model_name, d, width, config, seed, bottleneck=None):
    model, batch = load(model_name)
    g = torch.Generator().manual_seed(seed)
    trained = {}
    attach(model, d, width, g, trained, bottleneck)
    for key, p in model.named_parameters():
        if key.startswith("classifier"):
            trained[key] = p.requires_grad_(True)
    if model_name == "gpt2_lm":
        logits = run_lm(model, batch)
        check_with_peft(model, batch, trained, logits)
    else:
        logits = run(model, batch)
    write(name, model_name, "prefix_tuning", config, logits, trained)


DIRECT = {"length": LENGTH, "reparametrise": False}

if __name__ == "__main__":
    make("prefix_tuning_bart", "bart_text", 16, 16, DIRECT, 25)
    make("prefix_tuning_t5", "t5_tied", 20, 21, DIRECT, 13)
    make("prefix_tuning_bert", "bert_classify", 24, 24, DIRECT, 14)
    make(
        "prefix_tuning_t5_computed",
        "t5_gated",
        20,
        21,
        {"length": LENGTH, "bottleneck": 5},
        15,
        5,
    )
    make("prefix_tuning_gpt2", "gpt2_lm", 24, 24, DIRECT, 16)
    contract(
        "prefix_tuning_bert", {"length": 3, "bottleneck": 6}, start="another"
    )
