"""Both sides of a row on this machine: two ranks, one thread each."""

import json
import os
import shutil
import subprocess
import time

import common
from common import shards  # noqa: rows use it by this name
from rows import Figure, at_most  # noqa: rows use them by this name

WARMUP = 2
METHODS = {
    "lora": "{method: lora, r: 8, alpha: 16, target_modules: [q, v]}",
    "fish": "{method: fish_mask, density: 0.005, samples: 8}",
    "full": "{method: full}",
}


def quiet(setting):
    return None if setting.verbose else subprocess.DEVNULL


def config_path(setting):
    """Where the last config that ran is."""
    return os.path.join(setting.scratch, "ours.yaml")


def train(setting, text, ranks=2):
    """Runs a config written without `output`; its figures."""
    run = os.path.join(setting.scratch, "run")
    shutil.rmtree(run, ignore_errors=True)
    path = config_path(setting)
    with open(path, "w") as f:
        f.write(text + f"output: {run}\n")
    begin = time.time()
    process = subprocess.Popen(
        ["mpirun", "-np", str(ranks), "--bind-to", "core", common.BINARY,
         "train", path], env=common.mpi_environment(), stdout=quiet(setting),
        stderr=quiet(setting))
    first = common.first_line_time(os.path.join(run, "metrics.jsonl"), "step",
                                   process)
    if process.wait() != 0 or first is None:
        raise SystemExit("thinwire failed; run with --verbose")
    lines = common.read_metrics(run)
    steps = [l for l in lines if l["event"] == "step"]
    summary = next(l for l in lines if l["event"] == "summary")
    return dict(first_step_seconds=first - begin, steps=steps[WARMUP:],
                summary=summary)


def ours(setting, method, *, model="t5-small", batch=4, source=128, target=32,
         dtype="fp32", dropout=0.0, steps=None, ranks=2, samples=512,
         more=""):
    """method: of METHODS, or one of the config's list `peft`; more: further
    lines of the config."""
    config = os.path.join(setting.scratch, model, "config.json")
    common.write_t5_config(config, model, dropout)
    section = dict(config=config, init="random", seed=1, dtype=dtype)
    return train(setting, f"""
model: {json.dumps(section)}
task: {{kind: text_to_text}}
data: {{train: {shards(source, target, samples)}, batch_size: {batch}, seed: 1}}
peft:
  - {METHODS.get(method, method)}
train: {{steps: {(steps or setting.steps) + WARMUP}, lr: 3e-4, log_every: 1,
         clip: 1.0, threads: 1}}
{more}""", ranks)


def peer(setting, method, *, model="t5-small", batch=4, source=128, target=32,
         dtype="fp32", dropout=0.0, steps=None, ranks=2):
    """DDP under torchrun."""
    out = os.path.join(setting.scratch, "peer.json")
    subprocess.run(
        [setting.peer(), "-m", "torch.distributed.run", "--nproc-per-node",
         str(ranks), "--master-port", "29517",
         os.path.join(common.ROOT, "bench", "peers", "ddp_peft.py"),
         "--method", method, "--model", model, "--batch", str(batch),
         "--input", str(source), "--target", str(target), "--dtype", dtype,
         "--dropout", str(dropout), "--steps", str(steps or setting.steps),
         "--warmup", str(WARMUP), "--out", out],
        env=dict(os.environ, THINWIRE_T0=repr(time.time()),
                 OMP_NUM_THREADS="1"),
        check=True, stdout=quiet(setting), stderr=quiet(setting))
    with open(out) as f:
        return json.load(f)


def seconds(run, *parts):
    """Median of the sum of these parts (default: the whole step)."""
    keys = [p + "_ms" for p in parts] or ["step_ms"]
    return common.median([sum(l[k] for k in keys) / 1e3
                          for l in run["steps"]])


def compare(name, pairs, mark, unit="s", digits=3):
    """pairs: (ours, other) of each round -> the figure of the median ratio."""
    ratios = [a / b for a, b in pairs]
    return at_most(
        name, common.median(ratios), mark,
        beside=f"{common.median([a for a, _ in pairs]):.{digits}f} of "
               f"{common.median([b for _, b in pairs]):.{digits}f} {unit}; "
               f"{min(ratios):.3f} to {max(ratios):.3f}")
