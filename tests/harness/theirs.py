"""What Hugging Face's own code makes of folders; run in a Python that has it
(tests/harness/oracle.py).

    theirs.py CASES.json

CASES: a list of objects, worked off in order:
  model    an HF folder
  library  peft | adapterhub | none: what reads `adapter`
  adapter  a folder of that library
  inputs   a safetensors file with the model's inputs
  logits   where to write what comes out, a safetensors file
  saved    optional: where the library writes what it has read
"""

import json
import sys
import warnings

import torch
from safetensors.torch import load_file, save_file


def bare(path):
    with open(path + "/config.json", encoding="utf-8") as f:
        (kind,) = json.load(f)["architectures"]
    import transformers

    return getattr(transformers, kind).from_pretrained(
        path, attn_implementation="eager")


def with_peft(path, adapter):
    import peft

    with warnings.catch_warnings():
        # Of missing keys peft only warns.
        warnings.filterwarnings("error", message=".*missing adapter keys")
        return peft.PeftModel.from_pretrained(bare(path), adapter)


def with_adapterhub(path, adapter):
    import adapters

    model = bare(path)
    adapters.init(model)
    about = {}
    model.load_adapter(adapter, set_active=True, use_safetensors=True,
                       loading_info=about)
    for key in ("missing_keys", "unexpected_keys"):
        assert not about.get(key), (key, about[key])
    return model


def save(model, library, folder):
    if library == "adapterhub":
        name = next(iter(model.adapters_config.adapters))
        model.save_adapter(folder, name, with_head=True, use_safetensors=True)
    else:
        model.save_pretrained(folder)


def main():
    torch.set_num_threads(1)
    with open(sys.argv[1], encoding="utf-8") as f:
        cases = json.load(f)
    for case in cases:
        readers = {"none": lambda path, adapter: bare(path),
                   "peft": with_peft, "adapterhub": with_adapterhub}
        model = readers[case["library"]](case["model"],
                                         case.get("adapter")).eval()
        with torch.no_grad():
            logits = model(**load_file(case["inputs"])).logits
        save_file({"logits": logits.contiguous()}, case["logits"])
        if "saved" in case:
            save(model, case["library"], case["saved"])


if __name__ == "__main__":
    main()
