"""Golden data of RoBERTa: classification. Positions count over the tokens that
are not padding, from behind the padding token's own."""

import torch
import transformers

from common import labelled, randomise, write_golden, write_model
from make_bert import MASK, SIZES

PADDING = 1


def make(name, seed):
    sizes = SIZES | dict(pad_token_id=PADDING, type_vocab_size=1)
    config = transformers.RobertaConfig(
        **sizes, num_labels=3, attn_implementation="eager", layer_norm_eps=1e-5
    )
    model = transformers.RobertaForSequenceClassification(config).eval()
    randomise(model, seed)
    # The head reads row 0 of the padded batch: no padding on the left.
    mask = MASK[torch.tensor([0, 2, 3])]
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 37, mask.shape, generator=g)
    ids = torch.where(mask == 1, ids, PADDING)
    labels = torch.tensor([2, 0, 1])
    batch = dict(input_ids=ids, attention_mask=mask)
    golden = labelled(model, batch, labels)
    write_golden(write_model(model, name), golden)


if __name__ == "__main__":
    make("roberta_classify", 4)
