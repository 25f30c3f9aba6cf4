"""What the benchmarks share: launching ours and the peer, tables, raw files."""

import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BINARY = os.environ.get("THINWIRE_BINARY", os.path.join(
    ROOT, "build", "release", "thinwire"))
VENV = os.path.join(ROOT, ".venv", "bin", "python")
T5_SHAPES = {
    "t5-small": dict(d_model=512, d_kv=64, d_ff=2048, num_layers=6,
                     num_decoder_layers=6, num_heads=8),
    "t5-base": dict(d_model=768, d_kv=64, d_ff=3072, num_layers=12,
                    num_decoder_layers=12, num_heads=12),
    "t5-large": dict(d_model=1024, d_kv=64, d_ff=4096, num_layers=24,
                     num_decoder_layers=24, num_heads=16),
    "t5-3b": dict(d_model=1024, d_kv=128, d_ff=16384, num_layers=24,
                  num_decoder_layers=24, num_heads=32),
}
T5_NUMBERS = {"t5-small": 60_506_624, "t5-base": 222_903_552,
              "t5-large": 737_668_096, "t5-3b": 2_851_598_336}


def write_t5_config(path, model, dropout):
    config = dict(model_type="t5", vocab_size=32128, dropout_rate=dropout,
                  feed_forward_proj="relu", tie_word_embeddings=True,
                  relative_attention_num_buckets=32,
                  relative_attention_max_distance=128,
                  layer_norm_epsilon=1e-6, initializer_factor=1.0,
                  pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
                  **T5_SHAPES[model])
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        json.dump(config, f, indent=1)


def shards(source, target, samples=512):
    """Text-to-text shards of fixed length, made once; their folder."""
    folder = os.path.join(ROOT, "build", "bench", f"t2t-{source}-{target}" +
                          (f"-{samples}" if samples != 512 else ""))
    subprocess.run([VENV, os.path.join(ROOT, "bench", "synthetic.py"),
                    "--input", str(source), "--target", str(target),
                    "--samples", str(samples), "--output", folder],
                   check=True)
    return folder


def mpi_environment():
    return dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1",
                OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_NUM_THREADS="1")


def pinned(threads, command):
    return ["taskset", "-c", ",".join(str(i) for i in range(threads))] + command


def measured(command, threads):
    """(seconds, highest resident bytes) of a process."""
    begin = time.time()
    pid = os.posix_spawn(
        "/usr/bin/taskset", pinned(threads, command),
        dict(mpi_environment(), OMP_NUM_THREADS=str(threads)),
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                      (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)])
    _, status, usage = os.wait4(pid, 0)
    if status != 0:
        raise SystemExit("failed: " + " ".join(command))
    return time.time() - begin, usage.ru_maxrss * 1024


def first_line_time(path, event, process, limit=300):
    """When the first line with this event is in a metrics file."""
    end = time.time() + limit
    while time.time() < end and process.poll() is None:
        if os.path.exists(path):
            with open(path) as f:
                for line in f:
                    if f'"{event}"' in line:
                        return time.time()
        time.sleep(0.002)
    return None


def read_metrics(folder):
    with open(os.path.join(folder, "metrics.jsonl")) as f:
        return [json.loads(line) for line in f]


def mpirun(arguments, log):
    """The program on two ranks, from the root, with what it prints in a file."""
    with open(log, "w", encoding="utf-8") as f:
        subprocess.run(["mpirun", "-np", "2", "--bind-to", "none", "--mca",
                        "mpi_yield_when_idle", "1", BINARY, *arguments],
                       env=mpi_environment(), cwd=ROOT, check=True,
                       stdout=f, stderr=subprocess.STDOUT)


def train(config, folder, *changes):
    """Trains a config on two ranks into a folder, emptied, with what they print
    in FOLDER.log; the metrics' lines."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    mpirun(["train", config, "train.threads=1", *changes, f"output={folder}"],
           folder + ".log")
    return read_metrics(folder)


def markdown(rows):
    """Lines of a table whose first row is its head."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def write_between(page, name, text):
    """Replaces what stands between the marks of this name in a page."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    with open(page, encoding="utf-8") as f:
        before, rest = f.read().split(begin)
    after = rest.split(end)[1]
    with open(page, "w", encoding="utf-8") as f:
        f.write(f"{before}{begin}\n{text}\n{end}{after}")


def machine():
    with open("/proc/cpuinfo") as f:
        cpu = next(l.split(":")[1].strip() for l in f if "model name" in l)
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always",
                             "--dirty"], capture_output=True, text=True)
    return dict(cpu=cpu, cores=os.cpu_count(), system=platform.platform(),
                commit=commit.stdout.strip(), load=os.getloadavg()[0],
                date=datetime.datetime.now(datetime.timezone.utc)
                .isoformat(timespec="seconds"),
                command=" ".join(sys.argv))


def without_folders(value):
    """Absolute paths by their last part: results name no machine's folders."""
    if isinstance(value, dict):
        return {k: without_folders(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_folders(v) for v in value]
    if isinstance(value, str):
        return " ".join(os.path.basename(w) or w if os.path.isabs(w) else w
                        for w in value.split(" "))
    return value


def save(name, record):
    path = os.path.join(ROOT, "bench", "results", name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        json.dump(without_folders(record), f, indent=1)
        f.write("\n")
    print("raw figures:", os.path.relpath(path, ROOT))


def median(values):
    s = sorted(values)
    n = len(s)
    return s[n // 2] if n % 2 else (s[n // 2 - 1] + s[n // 2]) / 2


def table(rows):
    widths = [max(len(str(r[i])) for r in rows) for i in range(len(rows[0]))]
    for i, row in enumerate(rows):
        print("  ".join(str(c).ljust(w) for c, w in zip(row, widths)).rstrip())
        if i == 0:
            print("  ".join("-" * w for w in widths))
