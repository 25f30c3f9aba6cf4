"""Running whole jobs from tests: mpirun in a session of its own, so that a test
can kill a rank, the launcher or all of them, and see that nothing is left."""

import atexit
import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
PRESET = os.environ.get("THINWIRE_PRESET", "release")
BINARY = os.environ.get("THINWIRE_BINARY",
                        os.path.join(ROOT, "build", PRESET, "thinwire"))
PYTHON = os.path.join(ROOT, ".venv", "bin", "python")
# Seconds after which a job counts as hung; far above what any needs.
TIMEOUT = 240


@dataclasses.dataclass
class Result:
    status: int
    out: str
    err: str

    @property
    def errors(self):
        """The lines of Thinwire's own on stderr that report an error."""
        return [line for line in self.err.splitlines()
                if line.startswith("error: ")
                or (line.startswith("[rank ") and "error: " in line)]


@functools.cache
def _cache():
    """Prepared weights of the tests' models, away from the user's."""
    path = tempfile.mkdtemp(prefix="thinwire-cache-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def _environment(extra):
    env = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1",
               OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
               XDG_CACHE_HOME=_cache())
    env.pop("OMP_NUM_THREADS", None)
    env.update({k: str(v) for k, v in (extra or {}).items()})
    return env


def command(arguments, ranks=None, mpi=()):
    """The command line of `thinwire ARGUMENTS`, under mpirun with `ranks`."""
    own = [BINARY, *map(str, arguments)]
    if ranks is None:
        return own
    return ["mpirun", "-np", str(ranks), "--oversubscribe", "--bind-to",
            "none", "--mca", "mpi_yield_when_idle", "1", *mpi, *own]


class Job:
    """A command in a session of its own, its output in files."""

    def __init__(self, argv, env=None, cwd=ROOT):
        self._out = tempfile.TemporaryFile("w+", errors="replace")
        self._err = tempfile.TemporaryFile("w+", errors="replace")
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=self._out, stderr=self._err,
            env=_environment(env), cwd=cwd, start_new_session=True)
        self.session = self.process.pid

    def members(self):
        """Process ids of the session that still live (zombies do not)."""
        alive = []
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8") as f:
                    text = f.read()
            except OSError:
                continue
            state, _, _, session = text[text.rindex(")") + 2:].split()[:4]
            if int(session) == self.session and state not in "ZX":
                alive.append(int(name))
        return alive

    def ranks(self):
        """{rank: process id} of the thinwire processes that live."""
        out = {}
        for pid in self.members():
            try:
                with open(f"/proc/{pid}/environ", "rb") as f:
                    env = f.read().split(b"\0")
                exe = os.readlink(f"/proc/{pid}/exe")
            except OSError:
                continue
            if os.path.basename(exe) != "thinwire":
                continue
            for item in env:
                if item.startswith(b"OMPI_COMM_WORLD_RANK="):
                    out[int(item.split(b"=")[1])] = pid
        return out

    def wait_until(self, what, timeout=TIMEOUT):
        """Polls what(); raises when the job ends or time runs out before."""
        end = time.monotonic() + timeout
        while not what():
            if self.process.poll() is not None and not what():
                result = self.wait()
                raise AssertionError(f"ended with {result.status} first:\n"
                                     f"{result.err[-2000:]}")
            if time.monotonic() > end:
                self.kill_all()
                raise AssertionError("waited in vain")
            time.sleep(0.005)

    def kill_all(self):
        for pid in self.members():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def wait(self, timeout=TIMEOUT):
        """The Result, after nothing of the session is left."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill_all()
            self.process.wait()
            self._err.seek(0)
            raise AssertionError(f"hung for {timeout} s:\n"
                                 f"{self._err.read()[-2000:]}") from None
        end = time.monotonic() + 10
        while self.members() and time.monotonic() < end:
            time.sleep(0.02)
        left = self.members()
        self.kill_all()
        self._out.seek(0)
        self._err.seek(0)
        out, err = self._out.read(), self._err.read()
        self._out.close()
        self._err.close()
        if left:
            raise AssertionError(f"left processes behind: {left}\n"
                                 f"{err[-2000:]}")
        return Result(self.process.returncode, out, err)


def run(arguments, ranks=None, mpi=(), env=None, timeout=TIMEOUT):
    return Job(command(arguments, ranks, mpi), env).wait(timeout)


def metrics(folder, event="step"):
    """The lines of metrics.jsonl with this event; a torn last one left out."""
    try:
        with open(os.path.join(folder, "metrics.jsonl"),
                  encoding="utf-8") as f:
            # At once: a run that writes would complete, for the next read, the
            # line whose first part the last one gave.
            text = f.read()
    except FileNotFoundError:
        return []
    whole = text[:text.rfind("\n") + 1]
    records = [json.loads(line) for line in whole.splitlines()]
    return [r for r in records if r.get("event") == event]


def summary(folder):
    with open(os.path.join(folder, "summary.json"), encoding="utf-8") as f:
        return json.load(f)


def curve(folder):
    """What must be the same, bit for bit, however often a run was broken."""
    steps = [(s["step"], s["loss"], s["lr"], s["grad_norm"], s["samples"])
             for s in metrics(folder)]
    evals = [(e["step"], e["split"], tuple(sorted(e["metrics"].items())))
             for e in metrics(folder, "eval")]
    return steps, evals
