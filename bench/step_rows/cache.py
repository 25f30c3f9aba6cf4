"""A step of ladder side-tuning from a cache of features over our own full
fine-tuning's, T5-base, batch 16 x (256, 32), dropout 0.1, fp32, beside 9 of 12
layers; and reading a sample's features from the disk over making them, both as
`inspect` times them."""

import json
import os
import shutil
import subprocess

import common
from step_rows import setting as s
from step_rows.side import METHODS

STEPS = 2
SAMPLES = 32  # read twice
SHAPE = dict(model="t5-base", batch=16, source=256, dropout=0.1, steps=STEPS,
             ranks=1)


def inspected(setting):
    done = subprocess.run(
        [common.BINARY, "inspect", s.config_path(setting), "--json"],
        check=True, capture_output=True, text=True,
        env=common.mpi_environment())
    return json.loads(done.stdout)["features"]


def run(setting):
    cache = os.path.join(setting.scratch, "features")
    raw = []
    full = s.ours(setting, "full", **SHAPE)
    lst = s.ours(setting, METHODS["lst"], **SHAPE)
    for _ in range(setting.rounds):
        shutil.rmtree(cache, ignore_errors=True)
        cached = s.ours(setting, METHODS["lst"], samples=SAMPLES,
                        more=f"cache: {{path: {cache}}}\n", **SHAPE)
        raw.append(dict(full=full, lst=lst, cached=cached,
                        features=inspected(setting)))
    steps = [(s.seconds(r["cached"]), s.seconds(r["full"])) for r in raw]
    beside = [(s.seconds(r["cached"]), s.seconds(r["lst"])) for r in raw]
    times = [(1e3 * r["features"]["read_seconds"],
              1e3 * r["features"]["make_seconds"]) for r in raw]
    return [
        s.compare("step from the cache / full", steps, 0.10),
        s.compare("step from the cache / without", beside, 1),
        s.compare("reading a sample / making it", times, 0.1, "ms", 1),
    ], raw
