"""What the makers of golden text share: HF's generate() of one input at a time.

Random models repeat one token and seldom end, so each case lets some of the
model's favourite tokens end a text, and sharpens the distributions by a factor
on the output matrix (`sharpen`; a tied model's embeddings are untied for it).
"""

import torch

from common import HERE
from common_peft import KINDS


def load(name, sharpen, folder=None):
    """folder: in place of that of the model's name."""
    kind = KINDS[name.split("_")[0]]
    model = kind.from_pretrained(
        folder or HERE / name, attn_implementation="eager").eval()
    with torch.no_grad():
        # A parameter of its own: the embeddings stay as they are.
        model.lm_head.weight = torch.nn.Parameter(
            model.lm_head.weight.detach() * sharpen)
    return model


def inputs(lengths):
    g = torch.Generator().manual_seed(3)
    return [torch.randint(2, 41, (n,), generator=g).tolist() for n in lengths]


def write(model, inputs, eos, how):
    """(new tokens without the end, scores of beams) of each input."""
    texts, scores = [], []
    for ids in inputs:
        made = model.generate(
            input_ids=torch.tensor([ids]), do_sample=False, eos_token_id=eos,
            return_dict_in_generate=True, output_scores=True, **how)
        if how.get("num_beams", 1) > 1:
            scores.append(made.sequences_scores.item())
        # Without the start token, or a decoder's prompt.
        read = 1 if model.config.is_encoder_decoder else len(ids)
        text = made.sequences[0, read:].tolist()
        texts.append(text[:text.index(eos)] if eos in text else text)
    return texts, scores
