"""Adapter folders as HF peft and AdapterHub write them, each with the logits
and gradients of the library's own model: interop/NAME/adapter_config.json, the
tensors, golden.safetensors (logits and `grad.` + the tensor's name on disk) and
about.json (the model's folder, and which rows of its batch, [first, how many]).

    make_interop.py peft         in a Python with peft 0.21
    make_interop.py adapterhub   in one with adapters 1.3, transformers 4.57
"""

import json
import shutil
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file

from common import HERE
from common_peft import load, noise, summed_loss

FF_OUT = r".*layer\.\d+\.output\.dense"


def rows_of(batch, rows):
    return {k: v.narrow(0, *rows) for k, v in batch.items()}


def write_about(folder, model_name, rows, versions, tensors):
    about = {"model": model_name, "rows": rows}
    (folder / "about.json").write_text(json.dumps(about) + "\n")
    save_file(
        {k: v.detach().contiguous().clone() for k, v in tensors.items()},
        folder / "golden.safetensors",
        metadata={"made_by": versions},
    )
    size = sum(f.stat().st_size for f in folder.iterdir())
    assert size < 100_000, size
    print(folder.name, size, "bytes")


def fresh(name):
    folder = HERE / "interop" / name
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def randomise(named, g):
    """Far from initial values, which a reader could have made up; factors so
    small that attention does not saturate."""
    with torch.no_grad():
        for key, p in sorted(named):
            base = 1 if "ia3_l" in key else 0
            p.copy_(base + noise(p.shape, g, 0.08 if "lora_" in key else 0.2))


def logits_of(model, batch):
    """Of GPT-2 those of the text's cells, 0 where they are hidden."""
    if model.config.model_type != "gpt2":
        return model(**batch).logits
    seen = batch["attention_mask"]
    inputs = {"input_ids": batch["input_ids"], "attention_mask": seen}
    logits = model(**inputs).logits[:, -seen.shape[1] :]
    return logits * seen.unsqueeze(-1)


def passed(model, batch):
    logits, labels = logits_of(model, batch), batch["labels"]
    if model.config.model_type == "gpt2":
        # A cell's row is asked for the next cell's token.
        summed_loss(logits[:, :-1], labels[:, 1:]).backward()
    else:
        summed_loss(logits, labels).backward()
    return logits


def relative_path(folder, file, key):
    """The model's path as the maker had it says nothing to a reader; sets come
    in any order."""
    config = json.loads((folder / file).read_text())
    config[key] = "MODEL"
    for modules in ("target_modules", "feedforward_modules"):
        if isinstance(config.get(modules), list):
            config[modules].sort()
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / file).write_text(text + "\n" * (key == "model_name"))


def of_peft(name, model_name, config, rows=None):
    import peft

    model, batch = load(model_name)
    rows = rows or [0, len(batch["labels"])]
    batch = rows_of(batch, rows)
    adapted = peft.get_peft_model(model, config).eval()
    g = torch.Generator().manual_seed(len(name))
    randomise(
        [(k, p) for k, p in adapted.named_parameters() if p.requires_grad], g
    )
    logits = passed(adapted, batch)
    folder = fresh(name)
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink()
    relative_path(folder, "adapter_config.json", "base_model_name_or_path")
    # peft's own reader, in a model of its own, before anything is believed.
    again = peft.PeftModel.from_pretrained(load(model_name)[0], folder).eval()
    torch.testing.assert_close(logits_of(again, batch), logits)
    stored = load_file(folder / "adapter_model.safetensors")
    tensors = {"logits": logits}
    trained = [p for p in adapted.parameters() if p.requires_grad]
    for key, value in stored.items():
        # Random numbers tell which parameter a tensor is. Of what peft folds
        # into one tensor (prefix_projection) it has no gradient.
        found = [p for p in trained if torch.equal(p, value)]
        if found or not getattr(config, "prefix_projection", False):
            (p,) = found
            tensors["grad." + key] = p.grad
    versions = (
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"peft {peft.__version__}"
    )
    write_about(folder, model_name, rows, versions, tensors)


def all_of_peft():
    import peft

    bert = dict(task_type="SEQ_CLS")
    t5 = dict(task_type="SEQ_2_SEQ_LM")
    of_peft(
        "peft_lora_bert",
        "bert_classify",
        peft.LoraConfig(r=3, lora_alpha=5, lora_dropout=0.1, **bert),
    )
    of_peft(
        "peft_lora_t5",
        "t5_tied",
        peft.LoraConfig(
            r=2,
            lora_alpha=7.5,
            use_rslora=True,
            target_modules=r".*(SelfAttention\.(k|o)|decoder.*\.wo)",
            rank_pattern={r"encoder.*\.o": 3},
            alpha_pattern={"wo": 4},
            **t5,
        ),
    )
    of_peft(
        "peft_ia3_bert",
        "bert_classify",
        peft.IA3Config(
            target_modules=r".*\.(key|value|layer\.\d+\.output\.dense)",
            feedforward_modules=FF_OUT,
            **bert,
        ),
    )
    of_peft("peft_ia3_t5", "t5_tied", peft.IA3Config(**t5))
    of_peft(
        "peft_prompt_bert",
        "bert_classify",
        peft.PromptTuningConfig(num_virtual_tokens=4, **bert),
    )
    # Rows without padding on the left: peft's prompt stands before that.
    of_peft(
        "peft_prompt_t5",
        "t5_tied",
        peft.PromptTuningConfig(num_virtual_tokens=3, **t5),
        rows=[2, 2],
    )
    of_peft(
        "peft_prefix_bert",
        "bert_classify",
        peft.PrefixTuningConfig(num_virtual_tokens=3, **bert),
    )
    gpt2 = dict(task_type="CAUSAL_LM")
    of_peft(
        "peft_lora_gpt2",
        "gpt2_lm",
        peft.LoraConfig(r=3, target_modules=["c_attn", "c_fc"], **gpt2),
    )
    of_peft("peft_ia3_gpt2", "gpt2_lm", peft.IA3Config(**gpt2))
    of_peft(
        "peft_prompt_gpt2",
        "gpt2_lm",
        peft.PromptTuningConfig(num_virtual_tokens=4, **gpt2),
        rows=[2, 2],
    )
    of_peft(
        "peft_prefix_gpt2",
        "gpt2_lm",
        peft.PrefixTuningConfig(num_virtual_tokens=3, **gpt2),
    )
    of_peft(
        "peft_prefix_projected_bert",
        "bert_classify",
        peft.PrefixTuningConfig(
            num_virtual_tokens=2,
            encoder_hidden_size=7,
            prefix_projection=True,
            **bert,
        ),
    )


def of_adapterhub(name, model_name, preset, flexible=False, **changes):
    """flexible: saved from the class of AdapterHub's own, which has all of T5
    under `transformer.`; T5's usual class does not save a shared rule."""
    import adapters

    model, batch = load(model_name)
    adapters.init(model)
    saver = (
        adapters.T5AdapterModel(
            transformers.T5Config.from_pretrained(HERE / model_name)
        )
        if flexible
        else model
    )
    config = adapters.AdapterConfig.load(preset, **changes)
    saver.add_adapter("mine", config=config)
    g = torch.Generator().manual_seed(len(name))
    randomise(trained_by_hub(saver).items(), g)
    folder = fresh(name)
    head = model_name.startswith("bert")  # T5's is the backbone's own
    saver.save_adapter(folder, "mine", with_head=head, use_safetensors=True)
    relative_path(folder, "adapter_config.json", "model_name")
    if head:
        relative_path(folder, "head_config.json", "model_name")

    again, _ = load(model_name)
    adapters.init(again)
    again.load_adapter(str(folder), set_active=True, use_safetensors=True)
    again.eval()
    trained = trained_by_hub(again)
    for p in trained.values():
        p.requires_grad_(True)
    tensors = {"logits": passed(again, batch)}
    for file in folder.glob("*.safetensors"):
        for key, value in load_file(file).items():
            p = trained.pop(key.removeprefix("transformer."))
            assert torch.equal(p, value), key
            tensors["grad." + key] = p.grad
    assert not trained, trained.keys()
    versions = (
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"adapters {adapters.__version__}"
    )
    rows = [0, len(batch["labels"])]
    write_about(folder, model_name, rows, versions, tensors)


def trained_by_hub(model):
    return {
        k: p
        for k, p in model.named_parameters()
        if ".mine." in k or k.startswith("classifier")
    }


def all_of_adapterhub():
    # Of t5_gated transformers 4 misreads the config that 5 writes: it would tie
    # and scale.
    bert, t5 = "bert_classify", "t5_tied"
    of_adapterhub("hub_houlsby_bert", bert, "double_seq_bn",
                  reduction_factor=4.8)
    of_adapterhub("hub_houlsby_t5", t5, "double_seq_bn", reduction_factor=4,
                  cross_adapter=True, leave_out=[0, 3])
    of_adapterhub("hub_pfeiffer_bert", bert, "seq_bn", reduction_factor=6)
    of_adapterhub("hub_pfeiffer_t5", t5, "seq_bn", reduction_factor=5,
                  non_linearity="gelu_new")
    of_adapterhub("hub_parallel_bert", bert, "par_bn", reduction_factor=8)
    of_adapterhub("hub_parallel_t5", t5, "scaled_par_bn", reduction_factor=5)
    of_adapterhub("hub_compacter_bert", bert, "compacter", reduction_factor=4,
                  phm_dim=3)
    of_adapterhub("hub_compacter_t5", t5, "compacter", reduction_factor=5,
                  flexible=True, phm_dim=2, phm_rank=2)
    of_adapterhub("hub_compacter_plus_bert", bert, "compacter++",
                  reduction_factor=4, phm_dim=2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"peft": all_of_peft, "adapterhub": all_of_adapterhub}[sys.argv[1]]()
