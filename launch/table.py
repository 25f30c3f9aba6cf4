#!/usr/bin/env python3
"""The quick start's table, from the run folders given.

Rows: the runs, and full fine-tuning's committed figure unless it is among them.
«gap closed» is (accuracy - head only) / (full - head only).
"""

import argparse
import json
import os
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_COMMITTED = os.path.join(_ROOT, "docs", "results", "quickstart_full.json")
_TITLES = {"head": "head only", "fish": "FISH mask 0.5 %", "lora": "LoRA r 8",
           "full": "full fine-tuning"}
_COLUMNS = ("method", "accuracy before", "after", "gap closed", "trainable",
            "sent per step", "sent in all", "time", "run folder")


def human_bytes(n):
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            return f"{n:.0f} B" if unit == "B" else f"{n:.3g} {unit}"
        n /= 1000


def read_run(folder):
    """What the table shows of one run folder, as a dict."""
    with open(os.path.join(folder, "summary.json"), encoding="utf-8") as f:
        summary = json.load(f)
    if summary.get("status") == "failed":
        raise ValueError(f"{folder}: the run failed: {summary.get('error')}")
    with open(os.path.join(folder, "metrics.jsonl"), encoding="utf-8") as f:
        steps = [json.loads(line) for line in f if '"step"' in line]
    first = summary.get("first", {})
    sent = [s["sent_bytes"] for s in steps if s["event"] == "step"]
    return {
        "name": os.path.basename(os.path.normpath(folder)),
        "before": first["accuracy"] if first.get("step") == 0 else None,
        "after": summary["final"]["accuracy"],
        "trainable_parameters": summary["trainable_parameters"],
        "sent_bytes_per_step": sent[-1],
        "sent_bytes": summary["sent_bytes"],
        "seconds": summary["seconds"],
        "folder": folder,
    }


def committed_full():
    if not os.path.exists(_COMMITTED):
        return None
    with open(_COMMITTED, encoding="utf-8") as f:
        row = json.load(f)
    return dict(row, name="full", folder="(committed figure)")


def cells(row, floor, ceiling):
    gap = "-"
    if floor is not None and ceiling is not None and ceiling > floor:
        gap = f"{100 * (row['after'] - floor) / (ceiling - floor):.0f} %"
    before = "-" if row["before"] is None else f"{row['before']:.3f}"
    return (_TITLES.get(row["name"], row["name"]), before,
            f"{row['after']:.3f}", gap, f"{row['trainable_parameters']:,}",
            human_bytes(row["sent_bytes_per_step"]),
            human_bytes(row["sent_bytes"]), f"{row['seconds']:.0f} s",
            row["folder"])


def table(rows):
    by_name = {row["name"]: row for row in rows}
    floor = by_name["head"]["after"] if "head" in by_name else None
    ceiling = by_name["full"]["after"] if "full" in by_name else None
    lines = [_COLUMNS] + [cells(row, floor, ceiling) for row in rows]
    widths = [max(len(line[c]) for line in lines)
              for c in range(len(_COLUMNS))]
    out = []
    for line in lines:
        padded = [cell.ljust(w) if c in (0, len(_COLUMNS) - 1)
                  else cell.rjust(w)
                  for c, (cell, w) in enumerate(zip(line, widths))]
        out.append("  ".join(padded).rstrip())
    return "\n".join(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="+", help="run folders")
    parser.add_argument("--json", metavar="FILE",
                        help="also write the last run's row as JSON")
    o = parser.parse_args()
    try:
        rows = [read_run(folder) for folder in o.folder]
    except (OSError, ValueError, KeyError, IndexError) as e:
        print(f"error: table: {e}", file=sys.stderr)
        return 2
    if o.json:
        row = {k: v for k, v in rows[-1].items() if k not in ("name", "folder")}
        with open(o.json, "w", encoding="utf-8") as f:
            json.dump(row, f, indent=2)
            f.write("\n")
    full = committed_full()
    if full and all(row["name"] != "full" for row in rows):
        rows.append(full)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
