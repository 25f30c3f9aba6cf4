"""What the golden makers of methods share: the tiny models of make_bert.py,
make_gpt2.py and make_t5.py, and one forward and backward pass over their
batches.

A maker writes NAME/golden.safetensors with `value.` and `grad.` + the entry's
name for everything that trains, and the logits; NAME/adapter.json tells the
model's folder and the method's config, and NAME/contract.json (of one folder a
method) what the tests over the registry should know. The loss is a sum over
examples (BERT) or target tokens (GPT-2, T5), as Thinwire's.
"""

import json
import shutil

import torch
import transformers
from safetensors.torch import load_file

from common import HERE, write_golden

torch.set_num_threads(1)  # the same bits whenever it is re-made


KINDS = {
    "bart": transformers.BartForConditionalGeneration,
    "bert": transformers.BertForSequenceClassification,
    "gpt2": transformers.GPT2LMHeadModel,
    "roberta": transformers.RobertaForSequenceClassification,
    "t5": transformers.T5ForConditionalGeneration,
}


def load(name):
    """The model of a folder in evaluation mode, and its batch."""
    kind = next(KINDS[word] for word in name.split("_") if word in KINDS)
    model = kind.from_pretrained(HERE / name, attn_implementation="eager")
    golden = load_file(HERE / name / "golden.safetensors")
    inputs = ("input_ids", "attention_mask", "token_type_ids", "labels")
    batch = {k: golden[k] for k in inputs if k in golden}
    for p in model.parameters():
        p.requires_grad_(False)
    return model.eval(), batch


def summed_loss(logits, labels):
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, -2),
        labels.flatten(),
        ignore_index=-100,
        reduction="sum",
    )


def noise(shape, generator, scale=0.2):
    return scale * torch.randn(shape, generator=generator)


def peft_trained(adapted, draw):
    """What trains of a peft model, by its name on disk, and of heads by the bare
    model's; all but heads get the values draw(name, p)."""
    trained = {}
    with torch.no_grad():
        for key, p in adapted.named_parameters():
            if not p.requires_grad:
                continue
            disk = key.replace(".default", "")
            if "modules_to_save" in disk:
                disk = disk.replace(".modules_to_save", "")
                disk = disk.removeprefix("base_model.model.")
            else:
                p.copy_(draw(disk, p))
            trained[disk] = p
    return trained


def write(
    name, model_name, method, config, logits, trained, more=None, **also
):
    """trained: entry name -> tensor with its gradient; also: of adapter.json."""
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    about = {"model": model_name, "method": method, "config": config, **also}
    (folder / "adapter.json").write_text(json.dumps(about, indent=2) + "\n")
    tensors = {"logits": logits, **(more or {})}
    for key, p in trained.items():
        tensors["value." + key] = p.detach().clone()
        tensors["grad." + key] = p.grad.detach().clone()
    write_golden(folder, tensors)


def contract(name, config=None, start="equal", counts=(), architectures=None):
    """Into golden folder NAME: how the tests over the registry take its method,
    with which config on tiny models (widths multiples of 4), whether at step 0
    it is `equal` to the bare backbone, `near` it, or `another` model; counts:
    (public model, config, published count of what trains); architectures: those
    that it runs on, where it refuses others."""
    only = {"architectures": architectures} if architectures else {}
    about = {
        **only,
        "config": config or {},
        "start": start,
        "counts": [
            {"shape": shape, "config": c, "trainable": n}
            for shape, c, n in counts
        ],
    }
    path = HERE / name / "contract.json"
    path.write_text(json.dumps(about, indent=2) + "\n")


def with_prompt(words, prompt, batch, behind):
    """The batch with the prompt [l, d], or one per row [B, l, d], put into each
    row before its first token, or behind it."""
    at = batch["attention_mask"].argmax(1) + behind
    length = prompt.shape[-2]

    def insert(x, what):
        each = what if what.dim() == x.dim() else [what] * len(x)
        rows = [torch.cat([r[:i], w, r[i:]]) for r, i, w in zip(x, at, each)]
        return torch.stack(rows)

    zeros = torch.zeros(length, dtype=torch.long)
    out = dict(
        inputs_embeds=insert(words, prompt),
        attention_mask=insert(batch["attention_mask"], zeros + 1),
        labels=batch["labels"],
    )
    if "token_type_ids" in batch:
        out["token_type_ids"] = insert(batch["token_type_ids"], zeros)
    return out


def tasks_of(batch):
    """As the tests number them: 0 and 1 in turn."""
    return [b % 2 for b in range(len(batch["labels"]))]


def run(model, batch):
    """Logits of a pass whose summed loss has gone backward."""
    labels = batch["labels"]
    logits = model(**batch).logits
    summed_loss(logits, labels).backward()
    return logits


def run_lm(model, batch, text=lambda logits: logits):
    """The same of a GPT-2; text: takes what belongs to the text out of the
    logits. Cells that are hidden have none."""
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    seen = load_file(HERE / "gpt2_lm" / "golden.safetensors")["attention_mask"]
    logits = text(model(**inputs).logits) * seen.unsqueeze(-1)
    # A cell's row is asked for the next cell's token.
    summed_loss(logits[:, :-1], batch["labels"][:, 1:]).backward()
    return logits
