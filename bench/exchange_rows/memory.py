"""Memory of two ranks on one host, T5-base LoRA: the largest sum of their PSS
(shared pages divided among those who map them) while steps run."""

import os
import subprocess
import threading
import time

from exchange_rows import setting as s

MODEL = "t5-base"
STEPS = 8


def pss(pid):
    try:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            for line in f:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


class Watch:
    """Samples the sum over processes until it is stopped."""

    def __init__(self, pids):
        self.pids, self.samples, self._stop = pids, [], threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._stop.wait(0.03):
            each = [pss(pid) for pid in self.pids]
            if all(each):
                self.samples.append(each)

    def peak(self):
        self._stop.set()
        self._thread.join()
        if not self.samples:
            raise SystemExit("no sample of the memory was taken")
        return max(map(sum, self.samples))


def model_folder(setting):
    """The model with random weights as an HF folder, made once by the peer's
    library, which both sides then load."""
    folder = os.path.join(s.common.ROOT, "build", "bench", MODEL)
    if not os.path.exists(os.path.join(folder, "model.safetensors")):
        config = os.path.join(setting.scratch, "hf", "config.json")
        s.common.write_t5_config(config, MODEL, 0.0)
        subprocess.run([setting.peer(), "-c", (
            "import sys, torch, transformers as t; torch.manual_seed(1); "
            "t.T5ForConditionalGeneration(t.T5Config.from_pretrained("
            "sys.argv[1])).save_pretrained(sys.argv[2])"),
            os.path.dirname(config), folder], check=True)
    return folder


def ours(setting, data, folder, dtype):
    path, run = s.config(setting, "memory", data=data, batch=4, steps=STEPS,
                         model_section=dict(path=folder, dtype=dtype))
    job = s.jobs.Job(
        ["mpirun", "-np", "2", "--bind-to", "none",
         *s.pinned([s.jobs.BINARY, "train", path])],
        env=dict(OMP_NUM_THREADS="1"))
    job.wait_until(lambda: len(s.jobs.metrics(run)) >= 1, 600)
    watch = Watch(list(job.ranks().values()))
    try:
        job.wait_until(lambda: len(s.jobs.metrics(run)) >= STEPS - 1, 600)
    finally:
        peak = watch.peak()
    result = job.wait()
    if result.status != 0:
        raise SystemExit(f"thinwire failed: {result.err[-2000:]}")
    return dict(peak=peak, samples=len(watch.samples))


def ddp(setting, folder, dtype):
    out = os.path.join(setting.scratch, "peer.json")
    gate = s.fresh_gate(setting)
    with s.peers(setting, "ddp_peft.py",
                 ["--model-folder", folder, "--dtype", dtype, "--warmup", 1,
                  "--steps", STEPS - 1, "--gate", gate, "--out",
                  out]) as running:
        go = s.open_gate(setting, running, gate)
        pids = []
        for r in range(2):
            with open(f"{gate}.ready.{r}") as f:
                pids.append(int(f.read()))
        watch = Watch(pids)
        try:
            go()
            record = s.finish_peers(running, out)
        finally:
            peak = watch.peak()
    return dict(peak=peak, samples=len(watch.samples), record=record)


def run(setting):
    data = s.shards(128, 32)
    folder = model_folder(setting)
    figures, raw = [], []
    for dtype in ("fp32", "bf16"):
        try:
            mine = ours(setting, data, folder, dtype)
        except AssertionError as error:  # the run ended before its first step
            line = str(error).strip().splitlines()[-1]
            figures.append(s.Figure(f"PSS of two ranks, {MODEL} LoRA {dtype}",
                                    "<= 0.65", "-", False, line))
            continue
        theirs = ddp(setting, folder, dtype)
        raw.append(dict(dtype=dtype, ours=mine, ddp=theirs))
        figures.append(s.at_most(
            f"PSS of two ranks, {MODEL} LoRA {dtype} / DDP + peft",
            mine["peak"] / theirs["peak"], 0.65,
            beside=f"{mine['peak'] / 1e6:.0f} of "
                   f"{theirs['peak'] / 1e6:.0f} MB"))
        time.sleep(1)
    return figures, raw
