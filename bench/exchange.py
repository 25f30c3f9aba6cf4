"""The exchange measured against its marks, DDP + peft, gloo and plain MPI.

  .venv/bin/python bench/exchange.py --peer-python PY [--rows payload,fish100]

Hosts are network namespaces joined by a bridge, each link limited by tc tbf
(tests/harness/netns.py); every limited link is probed in the same run. Ours and
the peers take turns on the same pinned cores with one thread each. Needs root,
and a machine that does nothing else. PY is a Python with torch 2.11,
transformers and peft.

  row       what                                                      minutes
"""

import sys

import common
import rows

sys.path.insert(0, common.ROOT)  # for tests.harness
# pylint: disable=wrong-import-position
from exchange_rows import (fish, guard, latency, memory, overlap,  # noqa
                           payload, startup)
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
    if netns.why_not():
        raise SystemExit(netns.why_not())
    rows.run(__doc__, ROWS, "exchange")


if __name__ == "__main__":
    main()
