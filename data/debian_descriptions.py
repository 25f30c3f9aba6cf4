#!/usr/bin/env python3
"""Debian's package descriptions as a TSV: name, text, section.

A real text classification set that any Debian machine has at hand: `apt-cache
dumpavail` lists every available package with its description (a synopsis and
a longer text) and the archive section it is filed under.
"""

import argparse
import collections
import os
import subprocess
import sys


def records(lines):
    """The stanzas of a control file, each a dict of field -> text."""
    fields, name = {}, None
    for line in lines:
        line = line.rstrip("\n")
        if not line:
            if fields:
                yield fields
            fields, name = {}, None
        elif line[0] in " \t":
            if name:
                fields[name] += "\n" + line[1:]
        else:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    if fields:
        yield fields


def section_of(fields):
    # "non-free/games" and "games" are one section in two areas.
    return fields.get("Section", "").rsplit("/", 1)[-1]


def text_of(fields):
    """Synopsis and long text, paragraph marks dropped, on one line."""
    text = fields.get("Description") or fields.get("Description-en") or ""
    lines = ["" if line.strip() == "." else line for line in text.split("\n")]
    return " ".join(" ".join(lines).split())


def packages(lines):
    """(name, text, section) of each package, a name once."""
    seen = set()
    for fields in records(lines):
        name, text = fields.get("Package", ""), text_of(fields)
        section = section_of(fields)
        if name and text and section and name not in seen:
            seen.add(name)
            yield name, text, section


def _lines(path):
    if path:
        with open(path, encoding="utf-8", errors="replace") as f:
            yield from f
        return
    with subprocess.Popen(["apt-cache", "dumpavail"], stdout=subprocess.PIPE,
                          encoding="utf-8", errors="replace") as p:
        yield from p.stdout
    if p.returncode != 0:
        raise OSError(f"apt-cache dumpavail ended with status {p.returncode}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--input", metavar="FILE",
                        help="a saved dumpavail (default: run apt-cache)")
    parser.add_argument("--output", required=True, metavar="FILE.tsv")
    parser.add_argument("--sections", type=int, default=20, metavar="N",
                        help="keep the N largest sections (default 20)")
    o = parser.parse_args()
    try:
        rows = sorted(packages(_lines(o.input)))
        sizes = collections.Counter(section for _, _, section in rows)
        # Equal sizes by name, so that the choice is the same everywhere.
        kept = sorted(sizes, key=lambda s: (-sizes[s], s))[:o.sections]
        if not rows:
            raise OSError("no package descriptions found (run apt-get update)")
        temporary = f"{o.output}.tmp-{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as f:
            f.write("name\ttext\tsection\n")
            count = 0
            for name, text, section in rows:
                if section in kept:
                    f.write(f"{name}\t{text}\t{section}\n")
                    count += 1
        os.replace(temporary, o.output)
    except OSError as e:
        print(f"error: debian_descriptions: {e}", file=sys.stderr)
        return 2
    print(f"{o.output}: {count} packages in {len(kept)} sections: "
          f"{', '.join(kept)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
