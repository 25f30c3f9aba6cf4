"""Golden greedy decoding: HF's generate() on the models of make_t5.py."""

import json
import pathlib

import torch
import transformers
from safetensors.torch import load_file

HERE = pathlib.Path(__file__).resolve().parent
NEW_TOKENS = 14

out = {"transformers": transformers.__version__, "torch": torch.__version__,
       "max_new_tokens": NEW_TOKENS, "cases": []}
# Random models seldom end a text, so some of their favourite tokens do.
for name, eos in (("t5_tied", 15), ("t5_gated", 1), ("t5_gated", 19),
                  ("t5_gated", 31)):
    model = transformers.T5ForConditionalGeneration.from_pretrained(
        HERE / name, attn_implementation="eager").eval()
    g = torch.Generator().manual_seed(3)
    inputs = [torch.randint(2, 41, (n,), generator=g).tolist()
              for n in (5, 1, 9, 3, 12, 7, 2, 4)]
    texts = []
    for ids in inputs:
        made = model.generate(torch.tensor([ids]), do_sample=False,
                              num_beams=1, max_new_tokens=NEW_TOKENS,
                              eos_token_id=eos)
        made = made[0, 1:].tolist()  # without the start token
        texts.append(made[:made.index(eos)] if eos in made else made)
    out["cases"].append(
        {"model": name, "eos": eos, "inputs": inputs, "outputs": texts})
    print(name, eos, [len(text) for text in texts])
(HERE / "decode.json").write_text(json.dumps(out) + "\n")
