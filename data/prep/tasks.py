"""Rows of text to samples, one function for each kind of task."""

import json
import math

from . import span_corruption
from .errors import UserError

TASKS = ("classify", "regress", "text_to_text", "choose", "span_corruption",
         "lm")


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


def _choices(where, text):
    """Answer texts of one row: a JSON list, or texts separated by |."""
    if text.lstrip().startswith("["):
        try:
            out = json.loads(text)
        except ValueError:
            out = None
        if not isinstance(out, list) or not all(
                isinstance(choice, str) for choice in out):
            raise UserError(f"{where}: choices '{text}' are no JSON list of "
                            "texts")
    else:
        out = [choice.strip() for choice in text.split("|")]
    return checked_choices(out, where)


def checked_choices(choices, where):
    if len(choices) < 2 or len(set(choices)) != len(choices) or not all(choices):
        raise UserError(f"{where}: choices must be two or more different texts, "
                        f"got {choices}")
    return choices


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
        self.next_piece = self.most_choices = 0

    def make(self, rows):
        if self.o.task == "span_corruption":
            return self._span_corruption(rows)
        if self.o.task == "text_to_text":
            return self._text_to_text(rows)
        if self.o.task == "choose":
            return self._choose(rows)
        if self.o.task == "lm":
            return self._lm(rows)
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

    def _references(self, where, text):
        """The texts of a target column: the first is the target."""
        if not self.o.reference_separator:
            return [text]
        texts = [t.strip() for t in text.split(self.o.reference_separator)]
        if not all(texts):
            raise UserError(f"{where}: '{text}' has an empty reference between "
                            f"'{self.o.reference_separator}'")
        return texts

    def _text_to_text(self, rows, end=True):
        sources = [self.o.prefix + " ".join(groups[0]) for _, _, groups in rows]
        references = [self._references(where, " ".join(groups[1]))
                      for _, where, groups in rows]
        targets = [texts[0] for texts in references]
        encoded = self.tokenizer.encode(sources, self.o.max_tokens, end=end)
        wanted = self.tokenizer.encode(targets, self.o.max_target_tokens,
                                       end=True)
        for (row_id, _, _), e, t, texts in zip(rows, encoded, wanted,
                                               references):
            sample = self._sample(row_id, e)
            sample["target"], sample["references"] = t[0], texts
            sample["truncated"] |= int(t[2])
            yield row_id, sample

    def _source(self, texts, choices):
        """What the model reads of a row, in the form of RAFT if so asked."""
        o = self.o
        if o.field_names:
            text = "\n".join(f"{name}: {value}" for name, value in
                             zip(o.groups[0], texts))
        else:
            text = " ".join(texts)
        if o.list_choices:
            text += "\nPossible labels: " + ", ".join(choices)
        return o.prefix + text

    def _choose(self, rows):
        o, sources, answers, wanted = self.o, [], [], []
        for _, where, groups in rows:
            choices = (o.fixed_choices or
                       _choices(where, " ".join(groups[2])))
            label = groups[1][0].strip()
            if label in choices:
                wanted.append(choices.index(label))
            elif label.isdigit() and int(label) < len(choices):
                wanted.append(int(label))
            else:
                raise UserError(f"{where}: answer '{label}' is none of the "
                                f"choices {', '.join(choices)}")
            sources.append(self._source(groups[0], choices))
            answers.append(choices)
        self.most_choices = max([self.most_choices, *map(len, answers)])
        encoded = self.tokenizer.encode(sources, o.max_tokens, end=True)
        flat = iter(self.tokenizer.encode(
            [choice for choices in answers for choice in choices],
            o.max_target_tokens, end=True))
        for (row_id, _, _), e, choices, label in zip(rows, encoded, answers,
                                                     wanted):
            sample = self._sample(row_id, e)
            tokens = [next(flat) for _ in choices]
            sample["target"] = [i for ids, _, _ in tokens for i in ids]
            sample["choices"] = [len(ids) for ids, _, _ in tokens]
            sample["truncated"] |= int(any(cut for _, _, cut in tokens))
            sample["label"] = label
            sample["references"] = [choices[label]]
            yield row_id, sample

    def _lm(self, rows):
        """Whole texts, or a prompt and what follows it. What the model is to
        give ends with the end-of-sequence token, the prompt does not."""
        if len(self.o.groups) == 2:
            yield from self._text_to_text(rows, end=False)
            return
        texts = [self.o.prefix + " ".join(groups[0]) for _, _, groups in rows]
        encoded = self.tokenizer.encode(texts, self.o.max_tokens, end=True)
        for (row_id, _, _), e in zip(rows, encoded):
            yield row_id, self._sample(row_id, e)

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
