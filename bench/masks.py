"""The memory and the time of choosing a mask over all numbers of a model.

  .venv/bin/python bench/masks.py [--model t5-base] [--rounds 3]

T5-base shapes, random weights in a file, fp32, density 0.5 %. Each round runs `thinwire
mask` for every way of choosing, and for LoRA, which chooses nothing, in turns
on the same core. FISH and SNIP score by 8 examples, one at a time, whose passes
are in their figures. Time: the whole command less LoRA's. Memory: resident,
less what the process held before it had a model (`thinwire list`), over weights
and one vector of scores; the mark is a tenth more than those.
"""

import argparse
import os
import subprocess
import tempfile

from common import (BINARY, ROOT, T5_NUMBERS, VENV, machine, measured, median,
                    save, table, write_t5_config)

WAYS = {
    "lora": "{method: lora}",
    "random": "{method: random_mask}",
    "magnitude": "{method: magnitude_mask}",
    "magnitude, quota of a tensor": "{method: magnitude_mask, quota: tensor}",
    "smallest magnitude (PaFi)": "{method: pafi}",
    "FISH": "{method: fish_mask, samples: 8}",
    "SNIP": "{method: snip_mask, samples: 8}",
}


def config_text(model, data, method, output):
    return f"""
model: {model}
task: {{kind: text_to_text}}
data: {{train: {data}, batch_size: 4, seed: 1}}
peft: [{method}]
train: {{steps: 1, lr: 1e-3, threads: 1}}
output: {output}
"""


def written(path, text):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    return path


def model_folder(scratch, model, data):
    """With weights in a file, mapped as a real model's are: those that are drawn
    are rounded up by the allocator, tensor by tensor."""
    config = os.path.join(scratch, "config", "config.json")
    write_t5_config(config, model, 0.0)
    run, out = (os.path.join(scratch, name) for name in ("drawn", "model"))
    measured([BINARY, "train", written(
        os.path.join(scratch, "draw.yaml"),
        config_text(f"{{config: {config}, init: random, seed: 1}}", data,
                    WAYS["lora"], run))], 1)
    measured([BINARY, "merge", run, "--output", out], 1)
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--model", default="t5-base", choices=T5_NUMBERS)
    p.add_argument("--rounds", type=int, default=3)
    args = p.parse_args()
    data = os.path.join(ROOT, "build", "bench", "t2t-128-32-64")
    subprocess.run([VENV, os.path.join(ROOT, "bench", "synthetic.py"),
                    "--output", data, "--samples", "64"], check=True)
    rounds = []
    with tempfile.TemporaryDirectory() as scratch:
        model = model_folder(scratch, args.model, data)
        for _ in range(args.rounds):
            _, idle = measured([BINARY, "list"], 1)
            figures = {}
            for name, method in WAYS.items():
                config = written(
                    os.path.join(scratch, "mask.yaml"),
                    config_text(f"{{path: {model}}}", data, method,
                                os.path.join(scratch, "run")))
                seconds, peak = measured(
                    [BINARY, "mask", config, "--output",
                     os.path.join(scratch, "mask.safetensors")], 1)
                figures[name] = dict(seconds=seconds, peak_bytes=peak)
            rounds.append(dict(idle_bytes=idle, ways=figures))
    least = 8 * T5_NUMBERS[args.model]
    rows = [("way", "choosing, s", "peak less idle / (weights + scores)",
             "mark")]
    for name in list(WAYS)[1:]:
        seconds = [r["ways"][name]["seconds"] - r["ways"]["lora"]["seconds"]
                   for r in rounds]
        sizes = [(r["ways"][name]["peak_bytes"] - r["idle_bytes"]) / least
                 for r in rounds]
        rows.append((name, f"{median(seconds):.1f}", f"{median(sizes):.3f}",
                     "<= 1.10"))
    table(rows)
    save("masks.json", dict(machine=machine(), rounds=rounds,
                            arguments=vars(args)))


if __name__ == "__main__":
    main()
