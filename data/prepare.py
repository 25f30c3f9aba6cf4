#!/usr/bin/env python3
"""Text files to Thinwire shards; see --help and docs/data_format.md."""

import argparse
import itertools
import os
import shutil
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from prep import readers, tasks  # noqa: E402
from prep.errors import UserError  # noqa: E402

_ABOUT = """\
Turns text into the HDF5 shards that `thinwire train` reads: tokenises it with
a Hugging Face tokenizer folder and writes shard-00000.h5, …, index.json and
vocab.json. One pass, bounded memory; the output appears whole or not at all.
"""

_EXAMPLES = """\
examples
  sentence classification (GLUE's SST-2):
    python data/prepare.py --task classify --tokenizer MODEL_DIR \\
      --input train.tsv --columns sentence,label --output shards/train
  a pair of sentences, columns by number, no header, split by hash 90 : 10
  into shards/train and shards/eval:
    python data/prepare.py --task classify --tokenizer MODEL_DIR \\
      --input pairs.csv --no-header --columns 1+2,3 \\
      --split train:0.9,eval:0.1 --output shards
  text to text for T5, two files read as one:
    python data/prepare.py --task text_to_text --tokenizer T5_DIR \\
      --input a.jsonl --input b.jsonl --columns source,target \\
      --prefix "summarize: " --max-target-tokens 64 --output shards
  a choice among given answers, ranked by a text-to-text model (T-Few), few-shot
  tables as RAFT has them; or of each row's own, in a column as yes|no|maybe:
    python data/prepare.py --task choose --tokenizer T5_DIR \\
      --input ade_corpus_v2.csv --columns Sentence,Label --field-names \\
      --choices "ADE-related,not ADE-related" --list-choices --output shards
    python data/prepare.py --task choose --tokenizer T5_DIR --input q.jsonl \\
      --columns question,answer,choices --output shards
  text for GPT-2, of which all is learned, or a prompt and what follows it:
    python data/prepare.py --task lm --tokenizer GPT2_DIR \\
      --input corpus.txt --columns text --max-tokens 512 --output shards
    python data/prepare.py --task lm --tokenizer GPT2_DIR \\
      --input pairs.tsv --columns prompt,answer --output shards
  span corruption (T5's pre-training) over plain text, one document a line:
    python data/prepare.py --task span_corruption --tokenizer T5_DIR \\
      --input corpus.txt --max-tokens 512 --max-target-tokens 115 \\
      --output shards
"""

_BATCH_ROWS = 2048


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message} (see --help)")


def _parser():
    p = _Parser(prog="prepare.py", description=_ABOUT, epilog=_EXAMPLES,
                formatter_class=argparse.RawDescriptionHelpFormatter,
                allow_abbrev=False)
    add = p.add_argument
    add("--task", required=True, metavar="KIND", help=" | ".join(tasks.TASKS))
    add("--tokenizer", required=True, metavar="DIR",
        help="Hugging Face folder with tokenizer.json")
    add("--input", required=True, action="append", nargs="+", metavar="FILE",
        help="TSV, CSV, JSONL or plain text, also .gz; may be repeated")
    add("--output", required=True, metavar="DIR", help="folder to make")
    add("--columns", metavar="SPEC",
        help="input columns, then the label or target: sentence,label, or "
        "a+b,label for a pair; names from the header or numbers from 1 "
        "(span_corruption: one group, default text; lm: one, or a prompt and "
        "what follows)")
    add("--format", choices=readers.FORMATS,
        help="of the input (default: by file name)")
    add("--no-header", action="store_true",
        help="TSV and CSV files start with data; columns are numbers")
    add("--split", metavar="SPEC",
        help="train:0.9,eval:0.1 writes OUTPUT/train and OUTPUT/eval, by hash")
    add("--split-key", metavar="COLUMN",
        help="column whose hash decides the split (default: the input texts)")
    add("--max-tokens", type=int, default=128, metavar="N",
        help="longest input, special tokens included (default 128)")
    add("--max-target-tokens", type=int, default=128, metavar="N",
        help="longest target, its end included (default 128)")
    add("--label-names", metavar="A,B,…",
        help="classes in order of their number (default: integers as they "
        "are, other labels in sorted order)")
    add("--choices", metavar="A,B,…",
        help="answers that every row chooses from; else the third of --columns "
        "has a row's own, as a JSON list or separated by |")
    add("--field-names", action="store_true",
        help="choose: NAME: before each input column, one a line")
    add("--list-choices", action="store_true",
        help="choose: inputs end with the answers to choose from")
    add("--prefix", default="", metavar="TEXT",
        help="put before every input of text_to_text, choose, span_corruption "
        "or lm")
    add("--reference-separator", default="", metavar="TEXT",
        help="stands between the references of a text_to_text row; the first "
        "is the target (default: one reference)")
    add("--task-id", type=int, default=0, metavar="N",
        help="task number of every sample (default 0)")
    add("--noise-density", type=float, default=0.15, metavar="F",
        help="share of tokens span_corruption hides (default 0.15)")
    add("--mean-span", type=float, default=3.0, metavar="F",
        help="mean length of a hidden span, in tokens (default 3)")
    add("--seed", type=int, default=1, metavar="N",
        help="of span_corruption (default 1)")
    add("--shard-samples", type=int, default=65536, metavar="N",
        help="samples in a file at most (default 65536)")
    add("--force", action="store_true", help="replace an existing output")
    return p


def parse_split(text):
    """'train:0.9,eval:0.1' -> [('train', 0.9), ('eval', 1.0)], cumulative."""
    if not text:
        return None
    out, total = [], 0.0
    for part in text.split(","):
        name, _, share = part.partition(":")
        try:
            value = float(share)
        except ValueError:
            value = 0.0
        if not name or "/" in name or name.startswith(".") or not 0 < value <= 1:
            raise UserError(f"--split '{part}' is not NAME:SHARE with a share "
                            "above 0, as in train:0.9,eval:0.1")
        total += value
        out.append((name, total))
    if abs(total - 1) > 1e-6:
        raise UserError(f"--split '{text}' adds up to {total:g}, not 1")
    if len({name for name, _ in out}) != len(out):
        raise UserError(f"--split '{text}' has a name twice")
    out[-1] = (out[-1][0], 1.0)
    return out


def pick_split(split, key):
    """Which of the splits a row with this key belongs to."""
    import xxhash

    at = xxhash.xxh3_64_intdigest(key.encode("utf-8")) / 2.0 ** 64
    for index, (_, limit) in enumerate(split):
        if at < limit:
            return index
    return len(split) - 1


def _check(o):
    if o.task not in tasks.TASKS:
        raise UserError(f"--task '{o.task}' is unknown; choose one of: "
                        f"{', '.join(tasks.TASKS)}")
    o.input = [path for group in o.input for path in group]
    for path in o.input:
        if not os.path.isfile(path):
            raise UserError(f"--input {path}: no such file")
        o.format or readers.guess_format(path)
    for name in ("max_tokens", "max_target_tokens", "shard_samples"):
        if getattr(o, name) < 1:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} {getattr(o, name)} must be at least 1")
    if not 0 < o.noise_density < 1 or o.mean_span < 1:
        raise UserError("--noise-density must be in (0, 1), --mean-span at "
                        "least 1")
    if not 0 <= o.seed < 1 << 63 or not 0 <= o.task_id < 1 << 31:
        raise UserError("--seed and --task-id must not be negative")
    default = {"span_corruption": "text", "lm": "text"}.get(o.task)
    if not (o.columns or default):
        raise UserError(f"--columns is needed for --task {o.task}, as in "
                        "sentence,label")
    o.groups = readers.parse_columns(o.columns or default)
    want = {"span_corruption": (1,), "lm": (1, 2)}.get(o.task, (2,))
    if o.task == "choose" and not o.choices:
        want = (3,)
    if len(o.groups) not in want:
        raise UserError(f"--columns '{o.columns}' has {len(o.groups)} parts; "
                        f"{o.task} takes {' or '.join(map(str, want))}" +
                        (" without --choices: input,answer,choices"
                         if want == (3,) else ""))
    _check_choices(o)
    if o.task in ("classify", "regress") and (
            len(o.groups[0]) > 2 or len(o.groups[1]) != 1):
        raise UserError(f"--columns '{o.columns}': {o.task} takes a text or a "
                        "pair a+b, then one label")
    if o.reference_separator and o.task != "text_to_text":
        raise UserError("--reference-separator means nothing for --task "
                        f"{o.task}")
    o.splits = parse_split(o.split)
    if o.split_key and not o.splits:
        raise UserError("--split-key means nothing without --split")
    o.output = os.path.abspath(o.output)
    if os.path.lexists(o.output) and not o.force:
        raise UserError(f"--output {o.output} exists (give --force to replace "
                        "it)")


def _check_choices(o):
    given = [flag for flag, value in (
        ("--choices", o.choices), ("--field-names", o.field_names),
        ("--list-choices", o.list_choices)) if value]
    if given and o.task != "choose":
        raise UserError(f"{given[0]} is for --task choose, not {o.task}")
    o.fixed_choices = o.choices and tasks.checked_choices(
        [choice.strip() for choice in o.choices.split(",")], "--choices")
    if o.task == "choose" and len(o.groups[1]) != 1:
        raise UserError(f"--columns '{o.columns}': choose takes one answer")
    if o.field_names and any(name.isdigit() for name in o.groups[0]):
        raise UserError("--field-names needs columns by name, not by number")


class _Progress:
    """A bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, paths):
        self.total = max(sum(os.path.getsize(p) for p in paths), 1)
        self.rows, self.done, self.file_at = 0, 0, 0
        self.bar, self.said = None, time.monotonic()
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=self.total, unit="B", unit_scale=True,
                            desc="prepare", leave=False)

    def at(self, position):
        if self.bar is not None:
            self.bar.update(self.done + position - self.bar.n)
            self.bar.set_postfix(rows=self.rows, refresh=False)
        elif time.monotonic() - self.said > 10:
            self.said = time.monotonic()
            share = 100.0 * (self.done + position) / self.total
            print(f"prepare: {share:.0f} %, {self.rows} rows", file=sys.stderr,
                  flush=True)

    def file_done(self, path):
        self.done += os.path.getsize(path)

    def close(self):
        if self.bar is not None:
            self.bar.close()


def _rows(o, progress):
    """(id, where, groups, split key) of every row of every input."""
    names = [name for group in o.groups for name in group]
    names += [o.split_key] if o.split_key else []
    for path in o.input:
        for where, fields in readers.read_rows(
                path, names, o.format, not o.no_header, progress.at):
            rest = iter(fields)
            groups = [[next(rest) for _ in group] for group in o.groups]
            key = next(rest) if o.split_key else "\t".join(groups[0])
            yield progress.rows, where, groups, key
            progress.rows += 1
        progress.file_done(path)


def _batches(rows):
    rows = iter(rows)
    while batch := list(itertools.islice(rows, _BATCH_ROWS)):
        yield batch


def _fill(o, folder, tokenizer):
    """Writes all splits under `folder`; returns [(name, writer)]."""
    from prep.shards import ShardWriter

    labels = tasks.Labels(o.label_names.split(",") if o.label_names else None)
    maker = tasks.Maker(o, tokenizer, labels)
    source = ", ".join(os.path.basename(p) for p in o.input[:8])
    source += f", … ({len(o.input)} files)" if len(o.input) > 8 else ""
    names = [name for name, _ in o.splits] if o.splits else [""]
    writers = [ShardWriter(os.path.join(folder, name) if name else folder,
                           o.task, tokenizer, o.shard_samples, source)
               for name in names]
    progress = _Progress(o.input)
    try:
        for batch in _batches(_rows(o, progress)):
            where_to = {row[0]: pick_split(o.splits, row[3]) if o.splits else 0
                        for row in batch}
            for row_id, sample in maker.make([row[:3] for row in batch]):
                writers[where_to[row_id]].add(sample)
    finally:
        progress.close()
    if progress.rows == 0:
        raise UserError(f"{source}: no rows to prepare")
    label_names, codes = (labels.finish() if o.task == "classify"
                          else (None, None))
    if o.task == "choose":
        label_names = o.fixed_choices or [
            str(i) for i in range(maker.most_choices)]
    for writer in writers:
        writer.finish(label_names, codes)
    return list(zip(names, writers))


def _move_into_place(temporary, output):
    old = f"{output}.old-{os.getpid()}"
    if os.path.lexists(output):
        os.rename(output, old)
    os.rename(temporary, output)
    fd = os.open(os.path.dirname(output), os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    shutil.rmtree(old, ignore_errors=True)


def _report(o, results):
    for name, w in results:
        tokens = sum(s["input_tokens"] for s in w.shards)
        print(f"{os.path.join(o.output, name) if name else o.output}: "
              f"{w.samples} samples in {len(w.shards)} shards, "
              f"{tokens / w.samples:.1f} input tokens each (longest "
              f"{w.max_input}), {100.0 * w.truncated / w.samples:.1f} % cut")


def run(arguments):
    o = _parser().parse_args(arguments)
    _check(o)
    from prep.tokenise import TextTokenizer

    tokenizer = TextTokenizer(o.tokenizer)
    temporary = f"{o.output}.tmp-{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(o.output), exist_ok=True)
        results = _fill(o, temporary, tokenizer)
        _move_into_place(temporary, o.output)
    except OSError as e:
        raise UserError(f"--output {o.output}: {e}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _report(o, results)


def main():
    try:
        run(sys.argv[1:])
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as e:
        print(f"error: the Python package '{e.name}' is missing (run `bash "
              "launch/setup.sh` and use .venv/bin/python)", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prepare: interrupted, nothing written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
