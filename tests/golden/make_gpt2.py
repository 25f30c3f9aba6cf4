"""Golden data of GPT-2: language modelling, classification by the last token,
and a bare model as the hub has the oldest one."""

import torch
import transformers

from common import (
    change_weights,
    drop_dtype,
    grads,
    labelled,
    randomise,
    write_golden,
    write_model,
)
from make_t5 import MASK

SIZES = dict(
    vocab_size=41,
    n_embd=24,
    n_head=3,
    n_layer=2,
    n_inner=40,
    n_positions=19,
    bos_token_id=1,
    eos_token_id=1,
)


def config(**more):
    return transformers.GPT2Config(
        **SIZES | more, attn_implementation="eager"
    )


def inputs(seed):
    """Positions are columns, whatever a mask hides."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 41, MASK.shape, generator=g) * MASK
    return dict(input_ids=ids, attention_mask=MASK)


def targets(batch):
    """The text itself. HF would also learn what follows a hidden token, from a
    row that sees nothing but hidden ones."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    seen = mask.clone()
    seen[:, 1:] *= mask[:, :-1]
    labels = ids.masked_fill(seen == 0, -100)
    labels[3, 5] = -100
    return labels


def language_model(name, seed):
    model = transformers.GPT2LMHeadModel(config()).eval()
    randomise(model, seed, 0.25)
    batch = inputs(seed)
    golden = labelled(model, batch, targets(batch))
    golden["logits"] = golden["logits"] * MASK.unsqueeze(-1)
    write_golden(write_model(model, name), golden)


def classifier(name, seed):
    model = transformers.GPT2ForSequenceClassification(
        config(num_labels=3, pad_token_id=0)
    ).eval()
    randomise(model, seed, 0.25)
    golden = labelled(model, inputs(seed), torch.tensor([2, 0, 1, 2]))
    write_golden(write_model(model, name), golden)


def bare_model(name, seed):
    """No `transformer.` before its names, and the buffers that old releases
    saved. Loss: a random projection of the hidden states that count."""
    model = transformers.GPT2Model(config(n_layer=1)).eval()
    randomise(model, seed, 0.25)
    batch = inputs(seed)
    out = model(**batch)
    seen = MASK.unsqueeze(-1)
    g = torch.Generator().manual_seed(seed + 1)
    to_hidden = torch.randn(out.last_hidden_state.shape, generator=g) * seen
    loss = (out.last_hidden_state * to_hidden).sum()
    loss.backward()

    def with_buffers(weights):
        assert "wte.weight" in weights
        sees = torch.ones(19, 19).tril().view(1, 1, 19, 19)
        weights["h.0.attn.bias"] = sees.to(torch.uint8)
        weights["h.0.attn.masked_bias"] = torch.tensor(-1e4)
        return weights

    folder = write_model(model, name)
    change_weights(folder, with_buffers)
    drop_dtype(folder)
    write_golden(
        folder,
        dict(
            **batch,
            to_hidden=to_hidden,
            last_hidden_state=out.last_hidden_state * seen,
            loss=loss,
            **grads(model, lambda name: "transformer." + name),
        ),
    )


if __name__ == "__main__":
    language_model("gpt2_lm", 1)
    classifier("gpt2_classify", 2)
    bare_model("gpt2_bare", 3)
