"""What the golden makers share: every tensor of one forward and backward pass.

A maker builds a tiny model of HF transformers from a config with odd sizes and
writes NAME/config.json, NAME/model.safetensors and NAME/golden.safetensors
(inputs, outputs, and `grad.` + HF's on-disk name of every parameter).
"""

import json
import pathlib
import shutil

import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent


def randomise(model, seed, scale=0.3):
    """Numbers far from an initialisation's, so that no term is negligible; a
    scale at which fp32 itself is well within the tests' tolerance (a gradient
    in fp64 tells)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=generator)
            if p.dim() == 1 and "bias" not in name:
                p.copy_(1 + 0.3 * noise)
            else:
                p.copy_(scale * noise)


def grads(model, rename=lambda name: name):
    return {
        "grad." + rename(name): p.grad.detach().clone().contiguous()
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def labelled(model, batch, labels):
    """The tensors of a pass whose loss has gone backward."""
    out = model(**batch, labels=labels)
    out.loss.backward()
    return dict(
        **batch,
        labels=labels,
        logits=out.logits,
        loss=out.loss,
        **grads(model),
    )


def write_model(model, name):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    for extra in folder.iterdir():
        if extra.name not in ("config.json", "model.safetensors"):
            extra.unlink()
    return folder


def change_weights(folder, change):
    """change(weights) are saved in their place."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path)


def drop_dtype(folder):
    """As releases did that named no dtype."""
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    raw.pop("dtype", None)
    path.write_text(json.dumps(raw, indent=2) + "\n")


def write_golden(folder, tensors):
    path = folder / "golden.safetensors"
    save_file(
        {k: v.detach().contiguous() for k, v in tensors.items()},
        path,
        # One key: the writer puts several in any order.
        metadata={
            "made_by": f"torch {torch.__version__}, "
            f"transformers {transformers.__version__}"
        },
    )
    size = sum(f.stat().st_size for f in folder.iterdir())
    assert size < 400_000 and path.stat().st_size < 200_000, size
    print(folder.name, len(load_file(path)), "tensors,", size, "bytes")
