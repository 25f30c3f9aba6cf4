"""Where a row runs: hosts joined by limited links, ours and the peer on the same
pinned cores, and what came out."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time

import common
from common import shards  # noqa: rows use it by this name
from rows import Figure, at_most  # noqa: rows use them by this name
from tests.harness import jobs, netns

PORT = 29617
ETHERNET_IP_TCP = 14 + 20 + 32  # header of a packet, with TCP's time stamps
# Rank r on core r, whichever way it was started.
PIN = 'exec taskset -c $((${OMPI_COMM_WORLD_RANK:-$RANK} % $(nproc --all))) "$@"'
METHODS = {
    "lora": "{method: lora, r: 8, alpha: 16, target_modules: [q, v]}",
    "fish": "{method: fish_mask, density: 0.005, samples: 8}",
}


def rate_hosts(count, rate=None):
    """Hosts whose links hold their rate from the first kilobytes on: a burst of
    1 ms, as far as the token bucket can do it."""
    megabit = {None: 0, "10mbit": 10, "100mbit": 100, "1gbit": 1000}[rate]
    burst = max(16384, int(megabit * 1e6 / 8 / 1000))
    return netns.Hosts(count, rate, burst=str(burst), latency="200ms")


def interfaces(hosts):
    """Per host: bytes and packets so far, headers included."""
    out = []
    for name in hosts.names:
        text = subprocess.run(["ip", "-n", name, "-s", "-j", "link", "show",
                               "eth0"], check=True, capture_output=True,
                              text=True).stdout
        stats = json.loads(text)[0]["stats64"]
        out.append(dict(rx=stats["rx"]["bytes"], tx=stats["tx"]["bytes"],
                        rx_packets=stats["rx"]["packets"],
                        tx_packets=stats["tx"]["packets"]))
    return out


def difference(after, before):
    return [{k: a[k] - b[k] for k in a} for a, b in zip(after, before)]


def payload_sent(count):
    """TCP payload of an interface's sent bytes: every packet has one header,
    acknowledgements nothing else."""
    return count["tx"] - ETHERNET_IP_TCP * count["tx_packets"]


def probe(setting, hosts):
    """Round trip and rate of the link between hosts 0 and 1, as it is now."""
    script = os.path.join(common.ROOT, "bench", "probe.py")
    megabytes = {None: 200, "1gbit": 50, "100mbit": 8, "10mbit": 1.5}[
        hosts.rate]
    port = str(PORT + 1)
    server = subprocess.Popen(hosts.inside(
        0, [sys.executable, script, "serve", port, megabytes]))
    out = subprocess.run(
        hosts.inside(1, [sys.executable, script, "ask", hosts.addresses[0],
                         port, megabytes]),
        check=True, capture_output=True, text=True, timeout=300).stdout
    if server.wait(60) != 0:
        raise SystemExit("the probe's server failed")
    found = dict(json.loads(out), rate=hosts.rate)
    setting.probes.append(found)
    return found


def config(setting, name, *, method="lora", model="t5-small", data, batch,
           steps, comm=None, model_section=None):
    """Writes a config; its path and its run folder."""
    folder = os.path.join(setting.scratch, name)
    shutil.rmtree(folder, ignore_errors=True)
    if model_section is None:
        path = os.path.join(setting.scratch, model, "config.json")
        common.write_t5_config(path, model, 0.0)
        model_section = dict(config=path, init="random", seed=1)
    path = os.path.join(setting.scratch, name + ".yaml")
    with open(path, "w") as f:
        f.write(f"""
model: {json.dumps(model_section)}
task: {{kind: text_to_text}}
data: {{train: {data}, batch_size: {batch}, seed: 1}}
peft:
  - {METHODS[method]}
train: {{steps: {steps}, lr: 3e-4, log_every: 1, clip: 1.0, threads: 1}}
comm: {json.dumps(comm or {})}
output: {folder}
""")
    return path, folder


def pinned(argv):
    return ["bash", "-c", PIN, "bash", *argv]


def run_ours(setting, hosts, path, folder, mpi=()):
    """Trains on one rank per host: metrics by event, and bytes per host."""
    before = interfaces(hosts)
    job = jobs.Job(
        hosts.mpirun(pinned([jobs.BINARY, "train", path]), mpi=mpi),
        env=dict(hosts.environment, OMP_NUM_THREADS="1"))
    result = job.wait(1200)
    if result.status != 0:
        raise SystemExit(f"thinwire ended with {result.status}:\n"
                         f"{result.err[-3000:]}")
    lines = common.read_metrics(folder)
    out = dict(interfaces=difference(interfaces(hosts), before),
               steps=[l for l in lines if l["event"] == "step"],
               summary=next(l for l in lines if l["event"] == "summary"))
    return out


@contextlib.contextmanager
def peers(setting, script, arguments, *, ranks=2, hosts=None):
    """The peer's processes, pinned; rank r in host r, or all on this machine
    without hosts. Ends them on the way out."""
    running = []
    try:
        for r in range(ranks):
            argv = pinned([setting.peer(), os.path.join(
                common.ROOT, "bench", "peers", script), *map(str, arguments)])
            env = dict(os.environ, RANK=str(r), WORLD_SIZE=str(ranks),
                       LOCAL_RANK="0", MASTER_PORT=str(PORT),
                       OMP_NUM_THREADS="1", THINWIRE_T0=repr(time.time()),
                       MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
            if hosts is not None:
                argv = hosts.inside(r, argv)
                env.update(MASTER_ADDR=hosts.addresses[0],
                           GLOO_SOCKET_IFNAME="eth0")
            quiet = None if setting.verbose else subprocess.DEVNULL
            running.append(subprocess.Popen(argv, env=env, stdout=quiet,
                                            stderr=quiet))
        yield running
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.wait()


def finish_peers(running, out, limit=1800):
    end = time.time() + limit
    for process in running:
        if process.wait(max(1, end - time.time())) != 0:
            raise SystemExit("the peer failed; run with --verbose")
    with open(out) as f:
        return json.load(f)


def open_gate(setting, running, gate, ranks=2, limit=900):
    """Waits until every peer stands at its gate, then calls nothing: the caller
    opens it by the returned function."""
    end = time.time() + limit
    while not all(os.path.exists(f"{gate}.ready.{r}") for r in range(ranks)):
        if time.time() > end or any(p.poll() not in (None, 0)
                                    for p in running):
            raise SystemExit("the peer did not get ready; run with --verbose")
        time.sleep(0.05)

    def go():
        with open(gate + ".go", "w") as f:
            f.write("go")
    return go


def fresh_gate(setting):
    gate = os.path.join(setting.scratch, "gate")
    for name in os.listdir(setting.scratch):
        if name.startswith("gate."):
            os.remove(os.path.join(setting.scratch, name))
    return gate


def run_ddp(setting, hosts, rate, arguments, steps, quiet=0):
    """DDP + peft across hosts; the link is limited to `rate` only after set-up
    and warm-up, and as it was afterwards."""
    out = os.path.join(setting.scratch, "peer.json")
    gate = fresh_gate(setting)
    limited = hosts.rate
    hosts.set_rate(None)
    try:
        with peers(setting, "ddp_peft.py",
                   ["--steps", steps, "--warmup", 1, "--quiet", quiet,
                    "--gate", gate, "--interface", "eth0", "--out", out,
                    *arguments], hosts=hosts, ranks=hosts.count) as running:
            go = open_gate(setting, running, gate, hosts.count)
            hosts.set_rate(rate)
            go()
            return finish_peers(running, out)
    finally:
        hosts.set_rate(limited)


def medians(steps, keys, skip=1):
    return {k: common.median([s[k] for s in steps[skip:]]) for k in keys}
