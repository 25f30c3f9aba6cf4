"""What runs a benchmark of several rows: each measures figures against marks,
keeps its raw figures in a file of its own, and adds lines to one table."""

import argparse
import dataclasses
import signal
import sys
import tempfile
import time

import common


@dataclasses.dataclass
class Setting:
    """The arguments of the whole bench, and a folder to be forgotten."""
    peer_python: str
    rounds: int
    steps: int
    scratch: str
    verbose: bool = False
    probes: list = dataclasses.field(default_factory=list)

    def peer(self):
        if not self.peer_python:
            raise SystemExit("this row needs --peer-python: a Python with "
                             "torch, transformers and peft")
        return self.peer_python


@dataclasses.dataclass
class Figure:
    """One line of the table."""
    name: str
    target: str
    measured: str
    met: bool
    beside: str = ""


def at_most(name, value, mark, unit="", beside="", digits=3):
    return Figure(name, f"<= {mark:g}{unit}", f"{value:.{digits}f}{unit}",
                  value <= mark, beside)


def run(description, rows, prefix):
    """rows: name -> (module with run(setting) -> figures and raw figures, what
    it measures, minutes on two quiet cores)."""
    listing = "\n".join(f"  {name:9} {what:56} {minutes:4}"
                        for name, (_, what, minutes) in rows.items())
    p = argparse.ArgumentParser(description=description + listing,
                                formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--rows", default=",".join(rows), help="by commas")
    p.add_argument("--peer-python", default="", metavar="PY")
    p.add_argument("--rounds", type=int, default=3,
                   help="in which both sides take turns (default 3)")
    p.add_argument("--steps", type=int, default=8,
                   help="of each side in each round (default 8)")
    p.add_argument("--verbose", action="store_true",
                   help="let the peers print")
    args = p.parse_args()
    chosen = args.rows.split(",")
    for name in chosen:
        if name not in rows:
            p.error(f"no row '{name}'; choose of: {', '.join(rows)}")
    # Unwinds, so that no host or process is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    table = [("row", "figure", "target", "measured", "met", "beside")]
    for name in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            here = Setting(args.peer_python, args.rounds, args.steps, scratch,
                           args.verbose)
            began = time.time()
            machine = common.machine()
            figures, raw = rows[name][0].run(here)
        table += [(name, f.name, f.target, f.measured,
                   "yes" if f.met else "NO", f.beside) for f in figures]
        print(f"{name}: {(time.time() - began) / 60:.1f} min")
        common.save(f"{prefix}_{name}.json", dict(
            machine=machine, probes=here.probes, rounds=args.rounds,
            figures=[vars(f) for f in figures], raw=raw))
    print()
    common.table(table)
    missed = sum(line[4] == "NO" for line in table[1:])
    print(f"\n{len(table) - 1 - missed} of {len(table) - 1} marks met")
