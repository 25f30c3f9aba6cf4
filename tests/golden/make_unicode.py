"""Writes base/unicode_tables.inc from Python's own Unicode data."""

import pathlib
import sys
import unicodedata

HERE = pathlib.Path(__file__).resolve().parent
CODES = [c for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]


def lower():
    """Runs (first, last, step, difference) of what lower() maps to one."""
    moves = [(c, ord(chr(c).lower()) - c) for c in CODES
             if len(chr(c).lower()) == 1 and chr(c).lower() != chr(c)]
    runs = []
    for c, by in moves:
        if runs:
            first, last, step, difference = runs[-1]
            gap = c - last
            if by == difference and gap <= 2 and (step in (0, gap)):
                runs[-1] = (first, c, gap, by)
                continue
        runs.append((c, c, 0, by))
    return [(a, b, step or 1, by) for a, b, step, by in runs]


def ends_word(before):
    """Whether a sigma behind this text becomes the final one."""
    return (before + "\u03a3").lower().endswith("\u03c2")


def ranges_of(holds):
    ranges = []
    for c in CODES:
        if not holds(chr(c)):
            continue
        if ranges and ranges[-1][1] == c - 1:
            ranges[-1] = (ranges[-1][0], c)
        else:
            ranges.append((c, c))
    return ranges


def table(kind, name, rows):
    text = f"constexpr {kind} {name}[] = {{\n"
    line = "   "
    for row in rows:
        item = " {" + ",".join(
            hex(x) if i < 2 else str(x) for i, x in enumerate(row)) + "},"
        if len(line) + len(item) > 80:
            text += line + "\n"
            line = "   "
        line += item
    return text + line + "\n};\n"


path = HERE.parent.parent / "base" / "unicode_tables.inc"
path.write_text(
    f"// Unicode {unicodedata.unidata_version}; written by "
    "tests/golden/make_unicode.py.\n"
    + table("LowerRun", "kLower", lower())
    + table("Range", "kWord", ranges_of(lambda c: c.isalnum() or c == "_"))
    + table("Range", "kCased", ranges_of(ends_word))
    + table("Range", "kIgnored", ranges_of(
        lambda c: ends_word("a" + c) and not ends_word(c)))
    + table("Range", "kSpace", ranges_of(str.isspace))
)
print(path.name, path.stat().st_size, "bytes")
