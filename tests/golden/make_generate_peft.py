"""Golden text of HF peft's models (interop/, make_interop.py): prompts and
prefixes that stand before what is written."""

import json

import peft
import torch
import transformers

from common import HERE
from common_generate import inputs, load, write

torch.set_num_threads(1)
# With a prompt of 4 and 8 new tokens the longest takes 18 of 19 positions.
INPUTS = inputs((5, 1, 7, 3, 4, 2))


def case(name, eos, sharpen=1.0, **how):
    folder = HERE / "interop" / name
    about = json.loads((folder / "about.json").read_text())
    model = peft.PeftModel.from_pretrained(
        load(about["model"], sharpen), folder).eval()
    how = {"max_new_tokens": 8, **how}
    texts, scores = write(model, INPUTS, eos, how)
    print(name, eos, how, texts)
    return {"adapter": name, "eos": eos, "sharpen": sharpen, "config": how,
            "outputs": texts, "scores": scores}


def cases():
    for name, eos, sharpen in (("peft_prefix_gpt2", 36, 0.5),
                               ("peft_prompt_gpt2", 36, 0.5),
                               ("peft_prompt_t5", 15, 2.0)):
        for how in (
            {},
            {"no_repeat_ngram_size": 2, "min_new_tokens": 4},
            {"num_beams": 3},
            {"num_beams": 4, "no_repeat_ngram_size": 2,
             "length_penalty": 2.0},
        ):
            yield case(name, eos, sharpen, **how)


out = {"transformers": transformers.__version__, "peft": peft.__version__,
       "torch": torch.__version__, "inputs": INPUTS, "cases": list(cases())}
path = HERE / "generate_peft.json"
path.write_text(json.dumps(out) + "\n")
print(path.stat().st_size, "bytes")
