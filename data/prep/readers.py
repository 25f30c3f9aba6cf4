"""Rows out of TSV, CSV, JSONL and plain text files, streamed.

Every reader yields (where, fields): `where` is "file:line" for messages,
`fields` the values of the columns asked for, as text. Files that end in .gz
are read through gzip.
"""

import csv
import gzip
import io
import json
import os

from .errors import UserError

FORMATS = ("tsv", "csv", "jsonl", "text")
_ENDINGS = {".tsv": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl",
            ".json": "jsonl", ".txt": "text", ".text": "text"}


def guess_format(path):
    base = path[:-3] if path.endswith(".gz") else path
    ending = os.path.splitext(base)[1].lower()
    if ending not in _ENDINGS:
        raise UserError(f"{path}: cannot tell the format from the name; give "
                        f"--format {'|'.join(FORMATS)}")
    return _ENDINGS[ending]


def parse_columns(text):
    """'a+b,label' -> [['a', 'b'], ['label']]."""
    groups = [group.split("+") for group in text.split(",")]
    if any(not name for group in groups for name in group):
        raise UserError(f"--columns '{text}' has an empty name; write it like "
                        "sentence,label or premise+hypothesis,label")
    return groups


class _Input:
    """An open file and how far into it (in stored bytes) the reader is."""

    def __init__(self, path):
        try:
            self.raw = open(path, "rb")
        except OSError as e:
            raise UserError(f"{path}: cannot open: {e.strerror}") from None
        data = gzip.open(self.raw) if path.endswith(".gz") else self.raw
        self.text = io.TextIOWrapper(data, encoding="utf-8-sig", newline="")

    def position(self):
        return self.raw.tell()


def _column_numbers(path, names, header, width):
    """0-based positions of the named columns in a row."""
    numbers = []
    for name in names:
        if header is not None and name in header:
            numbers.append(header.index(name))
        elif name.isdigit() and int(name) >= 1:
            if int(name) > width:
                raise UserError(f"{path}: has {width} columns, not column "
                                f"{name} (they count from 1)")
            numbers.append(int(name) - 1)
        else:
            known = ("has no header; give column numbers from 1"
                     if header is None else f"it has: {', '.join(header)}")
            raise UserError(f"{path}: no column '{name}' ({known})")
    return numbers


def _table(path, rows, names, has_header):
    header, numbers, need = None, None, 0
    for line, row in rows:
        if not row or row == [""]:
            continue
        if numbers is None:
            header = row if has_header else None
            numbers = _column_numbers(path, names, header, len(row))
            need = max(numbers) + 1
            if has_header:
                continue
        if len(row) < need:
            raise UserError(f"{path}:{line}: has {len(row)} columns, {need} "
                            "are needed")
        yield f"{path}:{line}", [row[i] for i in numbers]


def _tsv_rows(text):
    # No quoting: in TSV files as they circulate a quote is just a character.
    for number, line in enumerate(text, 1):
        yield number, line.rstrip("\r\n").split("\t")


def _csv_rows(text):
    csv.field_size_limit(1 << 30)
    reader = csv.reader(text)
    for row in reader:
        yield reader.line_num, row


def _json_text(value):
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (int, float)):
        return str(value)
    raise ValueError


def _jsonl(path, text, names):
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as e:
            raise UserError(f"{path}:{number}: not JSON: {e}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: not a JSON object")
        fields = []
        for name in names:
            if name not in row:
                raise UserError(f"{path}:{number}: no column '{name}' (it has: "
                                f"{', '.join(map(str, row))})")
            try:
                fields.append(_json_text(row[name]))
            except ValueError:
                raise UserError(f"{path}:{number}: column '{name}' is neither "
                                "text nor a number") from None
        yield f"{path}:{number}", fields


def _plain(path, text, names):
    for name in names:
        if name not in ("text", "1"):
            raise UserError(f"{path}: no column '{name}' (plain text has one "
                            "column, 'text')")
    for number, line in enumerate(text, 1):
        line = line.strip()
        if line:
            yield f"{path}:{number}", [line] * len(names)


def read_rows(path, names, kind=None, has_header=True, on_progress=None):
    """Yields (where, fields) of one file; on_progress(stored bytes read)."""
    kind = kind or guess_format(path)
    source = _Input(path)
    if kind == "tsv":
        rows = _table(path, _tsv_rows(source.text), names, has_header)
    elif kind == "csv":
        rows = _table(path, _csv_rows(source.text), names, has_header)
    elif kind == "jsonl":
        rows = _jsonl(path, source.text, names)
    else:
        rows = _plain(path, source.text, names)
    with source.raw:
        try:
            for count, row in enumerate(rows):
                if on_progress and count % 1000 == 0:
                    on_progress(source.position())
                yield row
        except UnicodeDecodeError as e:
            raise UserError(f"{path}: not UTF-8 text: {e}") from None
        except (OSError, EOFError, csv.Error) as e:
            raise UserError(f"{path}: cannot read: {e}") from None
        if on_progress:
            on_progress(source.position())
