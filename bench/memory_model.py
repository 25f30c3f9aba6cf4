#!/usr/bin/env python3
"""Training memory of T5 as `inspect` foretells it, beside a model of it.

  .venv/bin/python bench/memory_model.py [--models t5-base,t5-large,t5-3b]

Full fine-tuning, ladder side-tuning (beside 9 of 12 layers of T5-base, every
other of T5-large, the last of T5-3B, as Sung et al. 2022 drop them), LoRA and
adapters; fp32, AdamW, dropout 0.1, batch 16 x (256, 32), one rank. Nothing is
trained. Beside each figure that of `model_bytes`: what plain PyTorch operations
keep for backward in eager mode, tensor by tensor, with the weights, gradients
and moments. Also with `ops.reference`, where the kernels of ours give way to
those operations, at dropout 0, so that a mask's bytes (one on a GPU, four on a
CPU) do not count. Full fine-tuning of T5-3B asks inspect for more memory than
the machine has; in its place stand the weights, gradients and moments alone,
which make the savings look smaller than they are. What the result file has
already is not repeated.
"""

import argparse
import json
import os
import subprocess
import tempfile

from common import (BINARY, T5_NUMBERS, T5_SHAPES, mpi_environment, shards,
                    table, write_t5_config)
from kept_runs import KeptRuns

KEPT = {"t5-base": [1, 2, 3, 5, 6, 7, 9, 10, 11],
        "t5-large": list(range(1, 24, 2)), "t5-3b": [23]}
BATCH, SOURCE, TARGET, VOCABULARY, FACTOR = 16, 256, 32, 32128, 8
MARKS = {"lst": 0.31, "lora": 0.74, "houlsby": 0.74}


def methods(model):
    full = {} if model == "t5-3b" else {"full": "{method: full}"}
    return {
        **full,
        "lst": f"{{method: lst, reduction_factor: {FACTOR}, init: magnitude, "
               f"encoder_layers: {KEPT[model]}, decoder_layers: {KEPT[model]}}}",
        "lora": "{method: lora, r: 32, alpha: 32, target_modules: [q, v]}",
        "houlsby": "{method: houlsby, reduction_factor: 16}",
    }


def encoder_block(n, d, a, f, heads, dropout, passes=False):
    """Bytes kept of n = BATCH x SOURCE rows; a: heads x their width. passes: the
    block is frozen, and gradients go through it."""
    scores = BATCH * heads * SOURCE * SOURCE
    kept = ((2 * n * d + 3 * n * a + n * f) if passes else
            (6 * n * d + 4 * n * a + 2 * n * f))
    masks = 2 * n * d + n * f + scores if dropout else 0
    return 4 * (kept + (2 if dropout else 1) * scores + 2 * n) + masks


def decoder_block(n, u, d, a, f, heads, dropout, passes=False):
    """u = BATCH x TARGET rows beside the encoder's n."""
    scores = BATCH * heads * TARGET * (TARGET + SOURCE)
    kept = ((3 * u * d + 4 * u * a + 2 * n * a + u * f) if passes else
            (9 * u * d + 6 * u * a + 2 * n * a + 2 * u * f))
    masks = 3 * u * d + u * f + scores if dropout else 0
    return 4 * (kept + (2 if dropout else 1) * scores + 3 * u) + masks


def model_bytes(model, method, trainable, total, dropout):
    """After Sung et al. 2022's own code: weights, gradients, two moments, and what
    autograd saves of eager attention; a frozen linear layer keeps nothing, LoRA
    keeps its input and the inner numbers, an adapter what it reads and its inner
    numbers, a norm that trains beside it its normalised input."""
    s = T5_SHAPES[model]
    d, f, heads = s["d_model"], s["d_ff"], s["num_heads"]
    a, layers = heads * s["d_kv"], s["num_layers"]
    n, u = BATCH * SOURCE, BATCH * TARGET
    static = 4 * total + 12 * trainable
    words = 4 * u * VOCABULARY
    tables = 8 * (SOURCE ** 2 + TARGET ** 2)
    if method == "lst":
        side = [x // FACTOR for x in (d, a, f)]
        return static + len(KEPT[model]) * (
            encoder_block(n, *side, heads, dropout) +
            decoder_block(n, u, *side, heads, dropout) +
            4 * (n + u) * (d + 2 * side[0])
        ) + words + 4 * (n + u) * d + 13 * (n + u) * side[0] + tables
    passes = method != "full"
    block = (encoder_block(n, d, a, f, heads, dropout, passes) +
             decoder_block(n, u, d, a, f, heads, dropout, passes))
    if method == "lora":
        block += 4 * ((n + 2 * u) * d + 32 * (2 * n + 3 * u + n))
    elif method == "houlsby":
        block += 4 * (2 * n + 3 * u) * (d + d // 16 + d)
    ends = (6 if passes else 14) * (n + u) * d
    return static + layers * block + words + ends + (0 if passes else tables)


def inspected(folder, model, method, dropout, more):
    path = os.path.join(folder, "config.json")
    write_t5_config(path, model, dropout)
    config = os.path.join(folder, "run.yaml")
    with open(config, "w", encoding="utf-8") as f:
        f.write(f"""
model: {{config: {path}, init: random}}
task: {{kind: text_to_text}}
data: {{train: {shards(SOURCE, TARGET)}, batch_size: {BATCH}}}
peft: [{methods(model)[method]}]
train: {{steps: 1, lr: 1e-3, threads: 1}}
output: {folder}/run
{more}""")
    done = subprocess.run([BINARY, "inspect", config, "--json"], check=True,
                          capture_output=True, text=True,
                          env=mpi_environment())
    return json.loads(done.stdout)


def held(run):
    """What the model counts: weights, gradients, moments, the graph."""
    return sum(run[k] for k in ("weights_shared_bytes", "weights_private_bytes",
                                "states_bytes", "activations_bytes"))


def both(model, method):
    with tempfile.TemporaryDirectory() as folder:
        ours, plain = (
            inspected(folder, model, method, dropout, more)
            for dropout, more in ((0.1, ""),
                                  (0.0, "ops: {reference: true}\n")))
    print(f"{model}, {method}: inspected", flush=True)
    return dict(ours=ours, plain=plain)


def lines_of(model, runs):
    """One per method: what is foretold over the same of full fine-tuning, and
    both ways of computing over the model of it."""
    full = (runs["full"]["ours"]["peak_process_bytes"] if "full" in runs
            else 16 * T5_NUMBERS[model])
    for method, run in runs.items():
        ours, plain = run["ours"], run["plain"]
        total = T5_NUMBERS[model] + (
            ours["trainable_parameters"] if method != "full" else 0)

        def beside(run, dropout):
            of = model_bytes(model, method, run["trainable_parameters"], total,
                             dropout)
            return f"{held(run) / of:.3f} of {of / 1e6:,.0f} MB"

        peak = ours["peak_process_bytes"]
        yield (model, method, f"{peak / 1e6:,.0f}", f"{peak / full:.3f}",
               f"<= {MARKS[method]}" if method in MARKS else "",
               beside(ours, 0.1), beside(plain, 0.0))


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--models", default=",".join(KEPT), help="by commas")
    args = p.parse_args()
    kept = KeptRuns("memory_model.json", arguments=vars(args))
    rows = [("model", "method", "process, MB", "over full", "mark",
             "held, over the model", "by plain operations (0.95 to 1.05)")]
    for model in args.models.split(","):
        rows += lines_of(model, {
            method: kept.get(dict(model=model, method=method),
                             lambda m=method: both(model, m))
            for method in methods(model)})
    table(rows)


if __name__ == "__main__":
    main()
