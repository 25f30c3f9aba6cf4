"""Masked gradients against the dense products that they spare, one thread.

  .venv/bin/python bench/masked_gradient.py --train TRAIN.tsv --eval DEV.tsv

T5-base and BERT-base shapes and MiniLM, at uniform densities and on real masks:
`thinwire mask` scores --samples examples for a FISH mask of 0.5 % (MiniLM its
own weights on the given data; T5-base random weights on random tokens;
BERT-base random weights on the data). Masks are kept in --work. Every figure
comes from `thinwire bench kernels`, which takes both sides in turns and checks
each answer.
"""

import argparse
import json
import os
import shutil
import subprocess

from common import (BINARY, ROOT, VENV, machine, save, table, write_t5_config)
from sst2_grid import minilm, prepare

BERT_BASE = dict(model_type="bert", hidden_size=768, num_hidden_layers=12,
                 num_attention_heads=12, intermediate_size=3072,
                 hidden_act="gelu", max_position_embeddings=512,
                 type_vocab_size=2, vocab_size=30522, layer_norm_eps=1e-12,
                 hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
                 initializer_range=0.02, pad_token_id=0)
MODELS = ["t5-base", "bert-base", "minilm"]


def model_section(args, model):
    if model == "minilm":
        return f"{{path: {minilm()}}}"
    path = os.path.join(args.work, model, "config.json")
    if model == "t5-base":
        write_t5_config(path, model, 0.0)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            json.dump(BERT_BASE, f, indent=1)
    return f"{{config: {path}, init: random, seed: 1}}"


def data_folders(args, model):
    if model == "t5-base":
        folder = os.path.join(args.work, "t2t")
        subprocess.run([VENV, os.path.join(ROOT, "bench", "synthetic.py"),
                        "--output", folder], check=True)
        return folder, folder, "{kind: text_to_text}"
    prepare(args, minilm())
    return (os.path.join(args.work, "train"), os.path.join(args.work, "eval"),
            "{kind: classify, labels: 2, head_seed: 1}")


def make_mask(args, model):
    path = os.path.join(args.work, f"{model}-{args.samples}.safetensors")
    if os.path.exists(path):
        return path
    os.makedirs(args.work, exist_ok=True)
    train, held_out, task = data_folders(args, model)
    run = os.path.join(args.work, "run")
    shutil.rmtree(run, ignore_errors=True)
    config = os.path.join(args.work, f"{model}.yaml")
    with open(config, "w") as f:
        f.write(f"""
model: {model_section(args, model)}
task: {task}
data: {{train: {train}, eval: {held_out}, batch_size: 8, seed: 1}}
peft: [{{method: fish_mask, density: {args.density}, samples: {args.samples}}}]
train: {{steps: 1, lr: 0.001, seed: 1}}
output: {run}
""")
    subprocess.run([BINARY, "mask", config, "--output", path + ".part"],
                   check=True)
    os.rename(path + ".part", path)
    return path


def measure(args, model, options):
    out = os.path.join(args.work, "kernels.json")
    subprocess.run(["taskset", "-c", str(args.core), BINARY, "bench", "kernels",
                    "--model", model, "--rounds", str(args.rounds),
                    "--json", out, *options],
                   env=dict(os.environ, OMP_NUM_THREADS="1"), check=True)
    with open(out) as f:
        return json.load(f)


def rows_of(model, target, result):
    """Lines of the table: a mask, its sum and its worst tensor."""
    for r in result["results"]:
        s = r["sums"]["linear"]
        yield (model, target, os.path.basename(r["mask"]), s["positions"],
               f"{1e3 * s['seconds']:.1f}", f"{1e3 * s['dense_seconds']:.1f}",
               f"{s['ratio']:.4f}", f"{s['worst']:.3f}", s["worst_name"])


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--train", help="TSV of sentences and labels")
    p.add_argument("--eval")
    p.add_argument("--columns", default="sentence,label")
    p.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    p.add_argument("--work", default=os.path.join(ROOT, "build", "bench",
                                                  "masks"))
    p.add_argument("--samples", type=int, default=256)
    p.add_argument("--density", type=float, default=0.005)
    p.add_argument("--densities", default="0.0005,0.005,0.02,0.1,0.5")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--core", type=int, default=0)
    args = p.parse_args()

    header = ("model", "decoder rows", "mask", "positions", "ms", "dense ms",
              "sum ratio", "worst ratio", "worst tensor")
    rows, results = [header], []
    for model in args.models:
        mask = make_mask(args, model)
        for target in ([32, 16] if model == "t5-base" else [32]):
            options = ["--target", str(target)]
            for more in (["--mask", mask], ["--densities", args.densities]):
                result = measure(args, model, options + more)
                results.append(dict(target=target, **result))
                rows += rows_of(model, 8 * target if model == "t5-base" else
                                "", result)
    table(rows)
    save("masked_gradient.json", dict(machine=machine(), arguments=vars(args),
                                      results=results))


if __name__ == "__main__":
    main()
