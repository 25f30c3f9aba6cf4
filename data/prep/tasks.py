"""Rows of text to samples, one function for each kind of task."""

import math

from . import span_corruption
from .errors import UserError

TASKS = ("classify", "regress", "text_to_text", "span_corruption")


class Labels:
    """Class names as they turn up, and their numbers once all are known.

    Non-negative integers are their own numbers; any other text is numbered in
    sorted order. With names given, a label is a name or a number below their
    count.
    """

    def __init__(self, names=None):
        self.given = list(names) if names else None
        if self.given and len(set(self.given)) != len(self.given):
            raise UserError("--label-names has a name twice")
        self.codes = {}
        self.where = {}
        if self.given:
            self.codes = {name: i for i, name in enumerate(self.given)}

    def code(self, where, text):
        text = text.strip()
        if self.given:
            if text in self.codes:
                return self.codes[text]
            if text.isdigit() and int(text) < len(self.given):
                return int(text)
            raise UserError(f"{where}: label '{text}' is not one of "
                            f"--label-names {','.join(self.given)}")
        if not text:
            raise UserError(f"{where}: the label is empty")
        code = self.codes.get(text)
        if code is None:
            code = self.codes[text] = len(self.codes)
            self.where[text] = where
            if code >= 1 << 20:
                raise UserError(f"{where}: more than {1 << 20} different "
                                "labels; is this the label column?")
        return code

    def finish(self):
        """(names, number of each code)."""
        if self.given:
            return self.given, list(range(len(self.given)))
        texts = list(self.codes)
        numbers = []
        for text in texts:
            try:
                numbers.append(int(text))
            except ValueError:
                numbers = None
                break
        if numbers is None:
            names = sorted(texts)
            rank = {name: i for i, name in enumerate(names)}
            return names, [rank[text] for text in texts]
        for text, number in zip(texts, numbers):
            if not 0 <= number < 1 << 20:
                raise UserError(
                    f"{self.where[text]}: label '{text}' is not a class number "
                    "from 0; give --label-names to number the classes")
        return [str(i) for i in range(max(numbers) + 1)], numbers


def _number(where, text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: label '{text}' is not a finite number")
    return value


class Maker:
    """Batches of (id, where, groups of texts) to lists of samples.

    A row gives one sample, except under span corruption: none or several.
    Those take ids of their own, counted from 0.
    """

    def __init__(self, options, tokenizer, labels):
        self.o, self.tokenizer, self.labels = options, tokenizer, labels
        if options.task == "span_corruption":
            self.sentinels = tokenizer.sentinels()
            if len(self.sentinels) < 2:
                raise UserError("the tokenizer has no sentinels <extra_id_0>, "
                                "<extra_id_1>, … which span_corruption needs")
            if tokenizer.eos_id < 0:
                raise UserError("the tokenizer has no end-of-sequence token, "
                                "which span_corruption needs")
            self.piece = span_corruption.piece_length(
                options.max_tokens, options.max_target_tokens,
                options.noise_density, options.mean_span, len(self.sentinels))
        self.next_piece = 0

    def make(self, rows):
        if self.o.task == "span_corruption":
            return self._span_corruption(rows)
        if self.o.task == "text_to_text":
            return self._text_to_text(rows)
        return self._labelled(rows)

    def _sample(self, row_id, encoded):
        ids, types, cut = encoded
        sample = {"id": row_id, "task": self.o.task_id, "input": ids,
                  "truncated": int(cut)}
        if any(types):
            sample["types"] = types
        return sample

    def _labelled(self, rows):
        texts = [tuple(groups[0]) if len(groups[0]) == 2 else groups[0][0]
                 for _, _, groups in rows]
        encoded = self.tokenizer.encode(texts, self.o.max_tokens)
        for (row_id, where, groups), e in zip(rows, encoded):
            sample = self._sample(row_id, e)
            text = groups[1][0]
            sample["label"] = (_number(where, text) if self.o.task == "regress"
                               else self.labels.code(where, text))
            yield row_id, sample

    def _text_to_text(self, rows):
        sources = [self.o.prefix + " ".join(groups[0]) for _, _, groups in rows]
        targets = [" ".join(groups[1]) for _, _, groups in rows]
        encoded = self.tokenizer.encode(sources, self.o.max_tokens, end=True)
        wanted = self.tokenizer.encode(targets, self.o.max_target_tokens,
                                       end=True)
        for (row_id, _, _), e, t, text in zip(rows, encoded, wanted, targets):
            sample = self._sample(row_id, e)
            sample["target"], sample["reference"] = t[0], text
            sample["truncated"] |= int(t[2])
            yield row_id, sample

    def _span_corruption(self, rows):
        o = self.o
        raw = self.tokenizer.encode_raw(
            [o.prefix + " ".join(groups[0]) for _, _, groups in rows])
        for (row_id, _, _), ids in zip(rows, raw):
            for at in range(0, len(ids), self.piece):
                piece = ids[at:at + self.piece]
                if len(piece) < 2:  # nothing left to predict, or to see
                    continue
                source, target = span_corruption.corrupt(
                    piece, self.sentinels, self.tokenizer.eos_id, o.seed,
                    self.next_piece, o.noise_density, o.mean_span)
                yield row_id, {"id": self.next_piece, "task": o.task_id,
                               "input": source, "target": target,
                               "truncated": 0}
                self.next_piece += 1
