"""Golden data of BERT: classification, regression, a bare encoder."""

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

SIZES = dict(
    vocab_size=37,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=19,
    type_vocab_size=3,
    pad_token_id=0,
)

# Right padding, left padding, a hole in the middle, none.
MASK = torch.tensor(
    [
        [1, 1, 1, 1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 1, 1, 1, 1],
        [1, 1, 0, 1, 0, 0, 1, 1, 0],
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
)


def inputs(seed):
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 37, MASK.shape, generator=g)
    types = torch.randint(0, 3, MASK.shape, generator=g)
    return dict(
        input_ids=ids * MASK, attention_mask=MASK, token_type_ids=types
    )


def config(**more):
    return transformers.BertConfig(
        **SIZES, attn_implementation="eager", **more
    )


def sequence_model(name, seed, labels, **more):
    model = transformers.BertForSequenceClassification(config(**more)).eval()
    randomise(model, seed)
    batch = inputs(seed)
    # The pooler reads row 0 of the padded batch; left padding would make that
    # a token nobody may see, so that sequence is left out here.
    keep = torch.tensor([0, 2, 3])
    batch = {k: v[keep] for k, v in batch.items()}
    golden = labelled(model, batch, labels)
    write_golden(write_model(model, name), golden)


def bare_model(name, seed):
    """A base model: no `bert.` before its names, old LayerNorm names, the
    buffer that old releases saved. Loss: a random projection of both outputs
    (rows that a mask hides do not count)."""
    model = transformers.BertModel(
        config(hidden_act="gelu_new", layer_norm_eps=1e-5)
    ).eval()
    randomise(model, seed)
    batch = inputs(seed)
    out = model(**batch)
    g = torch.Generator().manual_seed(seed + 1)
    seen = batch["attention_mask"].unsqueeze(-1)
    to_hidden = torch.randn(out.last_hidden_state.shape, generator=g) * seen
    to_pooled = torch.randn(out.pooler_output.shape, generator=g)
    to_pooled[1] = 0  # left padding: row 0 is hidden
    loss = (out.last_hidden_state * to_hidden).sum()
    loss = loss + (out.pooler_output * to_pooled).sum()
    loss.backward()

    def old_names(weights):
        old = {"embeddings.position_ids": torch.arange(19)[None]}
        for key, value in weights.items():
            key = key.replace("LayerNorm.weight", "LayerNorm.gamma")
            key = key.replace("LayerNorm.bias", "LayerNorm.beta")
            old[key] = value
        return old

    folder = write_model(model, name)
    change_weights(folder, old_names)
    drop_dtype(folder)
    write_golden(
        folder,
        dict(
            **batch,
            to_hidden=to_hidden,
            to_pooled=to_pooled,
            last_hidden_state=out.last_hidden_state * seen,
            pooler_output=out.pooler_output,
            loss=loss,
            **grads(model, lambda name: "bert." + name),
        ),
    )


if __name__ == "__main__":
    sequence_model("bert_classify", 1, torch.tensor([2, 0, 1]), num_labels=3)
    sequence_model(
        "bert_regress", 2, torch.tensor([0.5, -1.25, 2.0]), num_labels=1
    )
    bare_model("bert_bare", 3)
