"""All-reduce by the trainer's own path (reducer, guard, accounting), nothing
overlapping: against gloo, and against MPI_Allreduce over the same TCP; and what
an exchange in flight costs the thread that computes."""

import json
import os

from exchange_rows import setting as s

SIZES = (4, 64, 256, 1024, 4096, 16384, 65536)
COMPUTE_MS = 150
# Payloads that are in flight for the whole of that compute.
SLOWDOWN = (("10mbit", "512K"), ("100mbit", "4M"), ("1gbit", "32M"))


def bench_comm(setting, hosts, arguments):
    out = os.path.join(setting.scratch, "comm.json")
    result = s.jobs.Job(
        hosts.mpirun(s.pinned([s.jobs.BINARY, "bench", "comm", "--json", out,
                               "--codecs", "fp32", *map(str, arguments)])),
        env=dict(hosts.environment, OMP_NUM_THREADS="1")).wait(600)
    if result.status != 0:
        raise SystemExit(f"bench comm ended with {result.status}: "
                         f"{result.err[-2000:]}")
    with open(out) as f:
        return json.load(f)["results"][0]


def gloo(setting, hosts):
    out = os.path.join(setting.scratch, "gloo.json")
    with s.peers(setting, "allreduce_gloo.py",
                 ["--sizes", ",".join(map(str, SIZES)), "--seconds", 0.5,
                  "--out", out], hosts=hosts) as running:
        return s.finish_peers(running, out)


def slowdown(setting, rate, size):
    """Bursts as long as the largest packet of a card that segments by itself:
    the kernel's segmentation for the link would run on the cores that
    compute."""
    with s.netns.Hosts(2, rate) as hosts:
        s.probe(setting, hosts)
        ours = bench_comm(setting, hosts,
                          ["--paths", "trainer", "--algorithms", "auto",
                           "--sizes", size, "--compute", COMPUTE_MS])
        out = os.path.join(setting.scratch, "tcp.json")
        with s.peers(setting, "tcp_beside_compute.py",
                     ["--compute-ms", COMPUTE_MS, "--rounds", 40, "--out", out],
                     hosts=hosts) as running:
            tcp = [s.finish_peers(running, f"{out}.{rank}")
                   for rank in range(2)]
    return dict(rate=rate, bytes=size, ours=ours["slowdown"][0], tcp=tcp,
                tcp_slowed=max(t["slowed"] for t in tcp))


def run(setting):
    ours, theirs = [], []
    with s.rate_hosts(2) as hosts:
        s.probe(setting, hosts)
        for index in range(max(2, setting.rounds)):
            turns = [
                lambda: ours.append(bench_comm(
                    setting, hosts,
                    ["--paths", "trainer,mpi", "--algorithms", "auto",
                     "--sizes", ",".join(map(str, SIZES)), "--seconds", 0.5,
                     "--rounds", 6])),
                lambda: theirs.append(gloo(setting, hosts))]
            for turn in turns if index % 2 == 0 else turns[::-1]:
                turn()

    def p50(records, size, path=None):
        found = [row["p50_s"] for record in records for row in record["rows"]
                 if row["bytes"] == size and row.get("path") == path]
        return s.common.median(found) * 1e6

    table = [dict(bytes=n, trainer_us=p50(ours, n, "trainer"),
                  mpi_us=p50(ours, n, "mpi"), gloo_us=p50(theirs, n))
             for n in SIZES]
    worst = max(table, key=lambda r: (r["trainer_us"] - 5) / r["mpi_us"])
    one = next(r for r in table if r["bytes"] == 1024)
    figures = [
        s.at_most("all-reduce of 1 KB by the trainer's path / gloo",
                  one["trainer_us"] / one["gloo_us"], 0.1,
                  beside=f"{one['trainer_us']:.0f} of "
                         f"{one['gloo_us']:.0f} µs"),
        s.at_most("(the same - 5 µs) / MPI_Allreduce over TCP, worst size",
                  (worst["trainer_us"] - 5) / worst["mpi_us"], 2,
                  beside=f"{worst['bytes']} B: {worst['trainer_us']:.0f}, MPI "
                         f"{worst['mpi_us']:.0f} µs"),
    ]
    slow = [slowdown(setting, rate, size) for rate, size in SLOWDOWN]
    for row in slow:
        figures.append(s.at_most(
            f"compute slowed by an exchange in flight, {row['rate']}",
            100 * row["ours"]["slowed"], 3, " %", digits=2,
            beside=f"plain TCP streams: {100 * row['tcp_slowed']:.1f} %"))
    return figures, dict(table=table, ours=ours, gloo=theirs, slowdown=slow)
