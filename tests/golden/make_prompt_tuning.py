"""Golden data of prompt tuning, by the formula on HF's embeddings.

On BART, GPT-2 and T5 the vectors stand before each sequence's first token, on
BERT behind it,
since the pooler reads it. HF peft puts them in front of the padding: the same
where there is none on the left, which is checked here."""

import peft
import torch

from common_peft import contract, load, noise, run, run_lm, write

LENGTH = 4


def longer(words, prompt, batch, behind):
    """The batch with the prompt put into each row before its first token, or
    behind it."""
    at = batch["attention_mask"].argmax(1) + behind

    def insert(x, what):
        rows = [torch.cat([r[:i], what, r[i:]]) for r, i in zip(x, at)]
        return torch.stack(rows)

    zeros = torch.zeros(LENGTH, dtype=torch.long)
    out = dict(
        inputs_embeds=insert(words, prompt),
        attention_mask=insert(batch["attention_mask"], zeros + 1),
        labels=batch["labels"],
    )
    if "token_type_ids" in batch:
        out["token_type_ids"] = insert(batch["token_type_ids"], zeros)
    return out


def check_with_peft(model, batch, prompt, logits, task_type):
    adapted = peft.get_peft_model(
        model,
        peft.PromptTuningConfig(
            task_type=task_type,
            num_virtual_tokens=LENGTH,
            num_transformer_submodules=1,
        ),
    ).eval()
    with torch.no_grad():
        adapted.prompt_encoder.default.embedding.weight.copy_(prompt)
        if task_type == "CAUSAL_LM":
            batch = {k: v for k, v in batch.items() if k != "labels"}
        theirs = adapted(**batch).logits[:, -logits.shape[1] :]
        if task_type == "CAUSAL_LM":
            theirs = theirs * batch["attention_mask"].unsqueeze(-1)
    rows = batch["attention_mask"][:, 0] == 1
    torch.testing.assert_close(logits[rows], theirs[rows])


def encoder_decoder(name, model_name):
    model, batch = load(model_name)
    shape = (LENGTH, model.config.d_model)
    prompt = noise(shape, torch.Generator().manual_seed(11), 0.5)
    prompt.requires_grad_(True)
    words = model.get_input_embeddings()(batch["input_ids"])
    logits = run(model, longer(words, prompt, batch, 0))
    trained = {"prompt_embeddings": prompt}
    config = {"length": LENGTH}
    write(name, model_name, "prompt_tuning", config, logits, trained)
    check_with_peft(model, batch, prompt.detach(), logits, "SEQ_2_SEQ_LM")


def gpt2(name):
    model, batch = load("gpt2_lm")
    prompt = noise((LENGTH, 24), torch.Generator().manual_seed(13), 0.5)
    prompt.requires_grad_(True)
    words = model.transformer.wte(batch["input_ids"])
    at = batch["attention_mask"].argmax(1)

    def text(x):
        rows = [torch.cat([r[:i], r[i + LENGTH :]]) for r, i in zip(x, at)]
        return torch.stack(rows)

    logits = run_lm(model, longer(words, prompt, batch, 0), text)
    trained = {"prompt_embeddings": prompt}
    config = {"length": LENGTH}
    write(name, "gpt2_lm", "prompt_tuning", config, logits, trained)
    check_with_peft(model, batch, prompt.detach(), logits, "CAUSAL_LM")


def bert(name):
    model, batch = load("bert_classify")
    prompt = noise((LENGTH, 24), torch.Generator().manual_seed(12), 0.5)
    prompt.requires_grad_(True)
    trained = {"prompt_embeddings": prompt}
    for key, p in model.named_parameters():
        if key.startswith("classifier"):
            trained[key] = p.requires_grad_(True)
    words = model.bert.embeddings.word_embeddings(batch["input_ids"])
    logits = run(model, longer(words, prompt, batch, 1))
    config = {"length": LENGTH}
    write(name, "bert_classify", "prompt_tuning", config, logits, trained)


encoder_decoder("prompt_tuning_bart", "bart_text")
encoder_decoder("prompt_tuning_t5", "t5_tied")
bert("prompt_tuning_bert")
gpt2("prompt_tuning_gpt2")
contract("prompt_tuning_bert", {"length": 3}, start="another")
