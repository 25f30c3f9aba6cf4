"""Golden data of BART: one that is odd in every way (unequal depths, heads and
feed-forward widths, scaled embeddings, a bias of the logits), and a base model
as old releases saved it: no `model.` before its names, the shared table under
another name, no bias."""

import torch
import transformers

from common import (
    change_weights,
    labelled,
    randomise,
    write_golden,
    write_model,
)
from make_t5 import MASK

PADDING = 1
SIZES = dict(
    vocab_size=41,
    d_model=16,
    encoder_layers=2,
    decoder_layers=3,
    encoder_attention_heads=2,
    decoder_attention_heads=4,
    encoder_ffn_dim=20,
    decoder_ffn_dim=28,
    max_position_embeddings=20,
    bos_token_id=0,
    pad_token_id=PADDING,
    eos_token_id=2,
    decoder_start_token_id=2,
    forced_eos_token_id=None,
)


def run(seed, **more):
    """The model after a pass backward, and its tensors."""
    config = transformers.BartConfig(**SIZES, **more)
    config._attn_implementation = "eager"
    model = transformers.BartForConditionalGeneration(config).eval()
    randomise(model, seed, 0.3)
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 41, MASK.shape, generator=g)
    labels = torch.randint(3, 41, (4, 9), generator=g)
    labels[0, 4:] = -100
    labels[1, 1:] = -100
    labels[3, 2] = -100
    batch = dict(
        input_ids=torch.where(MASK == 1, ids, PADDING),
        attention_mask=MASK,
    )
    if config.scale_embedding:
        noise = torch.randn(model.final_logits_bias.shape, generator=g)
        model.final_logits_bias.copy_(noise)
    return model, labelled(model, batch, labels)


def text(name, seed):
    model, golden = run(
        seed, scale_embedding=True, activation_dropout=0.1
    )
    write_golden(write_model(model, name), golden)


def bare(name, seed):
    model, golden = run(seed, activation_function="gelu_new")

    def old_names(weights):
        old = {}
        for key, value in weights.items():
            key = key.removeprefix("model.")
            if key == "shared.weight":
                key = "decoder.embed_tokens.weight"
            if key != "final_logits_bias":
                old[key] = value
        return old

    folder = write_model(model, name)
    change_weights(folder, old_names)
    write_golden(folder, golden)


if __name__ == "__main__":
    text("bart_text", 1)
    bare("bart_bare", 2)
