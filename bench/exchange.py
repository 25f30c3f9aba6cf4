"""The exchange measured against its marks, DDP + peft, gloo and plain MPI.

  .venv/bin/python bench/exchange.py --peer-python PY [--rows payload,fish100]

Hosts are network namespaces joined by a bridge, each link limited by tc tbf
(tests/harness/netns.py); every limited link is probed in the same run. Ours and
the peers take turns on the same pinned cores with one thread each. Needs root,
and a machine that does nothing else. PY is a Python with torch 2.11,
transformers and peft.

  row       what                                                      minutes
"""

import argparse
import signal
import sys
import tempfile
import time

import common

sys.path.insert(0, common.ROOT)  # for tests.harness
# pylint: disable=wrong-import-position
from exchange_rows import (fish, guard, latency, memory, overlap,  # noqa
                           payload, setting, startup)
from tests.harness import netns

# Row: module, what is measured, minutes on two quiet cores.
ROWS = {
    "payload": (payload, "bytes of a step against formula and DDP", 5),
    "fish100": (fish, "FISH at 100 Mbit/s against dense + mask, DDP", 9),
    "latency": (latency, "small all-reduces against gloo and MPI", 3),
    "overlap": (overlap, "exposed communication, LoRA at 10 Mbit/s", 6),
    "startup": (startup, "bytes received before step 1", 2),
    "guard": (guard, "what the guard adds to a step", 2),
    "memory": (memory, "PSS of two ranks, T5-base LoRA", 4),
}


def main():
    listing = "\n".join(f"  {name:9} {what:56} {minutes:4}"
                        for name, (_, what, minutes) in ROWS.items())
    p = argparse.ArgumentParser(description=__doc__ + listing,
                                formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--rows", default=",".join(ROWS), help="by commas")
    p.add_argument("--peer-python", default="", metavar="PY")
    p.add_argument("--rounds", type=int, default=3,
                   help="in which both sides take turns (default 3)")
    p.add_argument("--steps", type=int, default=8,
                   help="of ours in each round (default 8)")
    p.add_argument("--verbose", action="store_true",
                   help="let the peers print")
    args = p.parse_args()
    rows = args.rows.split(",")
    for name in rows:
        if name not in ROWS:
            p.error(f"no row '{name}'; choose of: {', '.join(ROWS)}")
    if netns.why_not():
        raise SystemExit(netns.why_not())
    # Unwinds, so that no host or process is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    table = [("row", "figure", "target", "measured", "met", "beside")]
    for name in rows:
        with tempfile.TemporaryDirectory() as scratch:
            here = setting.Setting(args.peer_python, args.rounds, args.steps,
                                   scratch, args.verbose)
            began = time.time()
            machine = common.machine()
            figures, raw = ROWS[name][0].run(here)
        lines = [(name, f.name, f.target, f.measured,
                  "yes" if f.met else "NO", f.beside) for f in figures]
        table += lines
        print(f"{name}: {(time.time() - began) / 60:.1f} min")
        common.save(f"exchange_{name}.json", dict(
            machine=machine, probes=here.probes, rounds=args.rounds,
            figures=[vars(f) for f in figures], raw=raw))
    print()
    common.table(table)
    missed = sum(line[4] == "NO" for line in table[1:])
    print(f"\n{len(table) - 1 - missed} of {len(table) - 1} marks met")


if __name__ == "__main__":
    main()
