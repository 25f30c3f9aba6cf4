"""Golden data of T5 1.0 (relu, tied) and 1.1 (gated, untied)."""

import torch
import transformers

from common import labelled, randomise, write_golden, write_model

# heads * d_kv = 21 != d_model, and unequal depths.
SIZES = dict(
    vocab_size=41,
    d_model=20,
    d_kv=7,
    num_heads=3,
    d_ff=36,
    num_layers=3,
    num_decoder_layers=2,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=11,
    pad_token_id=0,
    eos_token_id=1,
    decoder_start_token_id=0,
)

MASK = torch.tensor(
    [
        [1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        [1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 1, 1, 0],
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
)


def make(name, seed, untied, scale, **more):
    config = transformers.T5Config(**SIZES, **more)
    config._attn_implementation = "eager"
    model = transformers.T5ForConditionalGeneration(config).eval()
    if untied:
        model.lm_head.weight = torch.nn.Parameter(
            torch.empty_like(model.shared.weight)
        )
    randomise(model, seed, scale)
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 41, MASK.shape, generator=g) * MASK
    labels = torch.randint(1, 41, (4, 9), generator=g)
    labels[0, 4:] = -100
    labels[1, 1:] = -100
    labels[3, 2] = -100
    batch = dict(input_ids=ids, attention_mask=MASK)
    golden = labelled(model, batch, labels)
    write_golden(write_model(model, name), golden)


if __name__ == "__main__":
    make("t5_tied", 1, untied=False, scale=0.3)
    make(
        "t5_gated",
        2,
        untied=True,
        scale=0.2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
