#!/usr/bin/env python3
"""Debian's package descriptions as a TSV: name, text, and a label of each.

A real text classification set that any Debian machine has at hand: `apt-cache
dumpavail` lists every available package with its description (a synopsis and,
where the machine keeps them, a longer text) and what it is:

  section       the archive section that it is filed under
  role          program, shared library, documentation …, of its tags
  language      that it is implemented in, of its tags
  architecture  «all», or «any» where it is built for each machine
  none          the text alone, of every package
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


def tag_of(fields, facet):
    """The value of the facet's first tag, in words; "" if it has none."""
    for tag in fields.get("Tag", "").replace("\n", " ").split(","):
        name, _, value = tag.strip().partition("::")
        if name == facet and value != "TODO":
            return value.replace("-", " ").strip()
    return ""


def architecture_of(fields):
    return "all" if fields.get("Architecture") == "all" else "any"


LABELS = {
    "section": section_of,
    "role": lambda fields: tag_of(fields, "role"),
    "language": lambda fields: tag_of(fields, "implemented-in"),
    "architecture": architecture_of,
    "none": lambda fields: "none",
}


def text_of(fields):
    """Synopsis and long text, paragraph marks dropped, on one line."""
    text = fields.get("Description") or fields.get("Description-en") or ""
    lines = ["" if line.strip() == "." else line for line in text.split("\n")]
    return " ".join(" ".join(lines).split())


def packages(lines, label_of):
    """(name, text, label) of each package that has all, a name once."""
    seen = set()
    for fields in records(lines):
        name, text = fields.get("Package", ""), text_of(fields)
        label = label_of(fields)
        if name and text and label and name not in seen:
            seen.add(name)
            yield name, text, label


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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--input", metavar="FILE",
                        help="a saved dumpavail (default: run apt-cache)")
    parser.add_argument("--output", required=True, metavar="FILE.tsv")
    parser.add_argument("--label", choices=LABELS, default="section",
                        help="third column of the output (default section)")
    parser.add_argument("--classes", type=int, default=20, metavar="N",
                        help="keep the N largest classes (default 20)")
    o = parser.parse_args()
    try:
        rows = sorted(packages(_lines(o.input), LABELS[o.label]))
        sizes = collections.Counter(label for _, _, label in rows)
        # Equal sizes by name, so that the choice is the same everywhere.
        kept = sorted(sizes, key=lambda s: (-sizes[s], s))[:o.classes]
        if not rows:
            raise OSError("no package descriptions found (run apt-get update)")
        temporary = f"{o.output}.tmp-{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as f:
            f.write(f"name\ttext\t{o.label}\n")
            count = 0
            for name, text, label in rows:
                if label in kept:
                    f.write(f"{name}\t{text}\t{label}\n")
                    count += 1
        os.replace(temporary, o.output)
    except OSError as e:
        print(f"error: debian_descriptions: {e}", file=sys.stderr)
        return 2
    print(f"{o.output}: {count} packages in {len(kept)} classes: "
          f"{', '.join(kept)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
