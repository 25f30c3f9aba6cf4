"""Span corruption: masked spans of a text become the target.

Raffel et al. 2020, "Exploring the limits of transfer learning with a unified
text-to-text transformer", fig. 2 and sec. 3.3.4: 15 % of the tokens in spans of
3 on average; each span is replaced by one sentinel, and the target lists
sentinel, span, sentinel, span, …, one more sentinel.
Differs: a text is cut into pieces, texts are not joined to fill a piece; a span
may be the first or the last thing of a piece, or neither, all placements being
equally likely (in T5's own code one always ends it, which for a short text
would hide nothing but its end).
"""

import numpy as np

from .errors import UserError

_PHILOX_PURPOSE = 0x73706E63  # keeps these draws apart from all others


def span_counts(n, density, mean_span, sentinels):
    """How many of n >= 2 tokens are noise, in how many spans."""
    noise = min(max(int(round(n * density)), 1), n - 1)
    spans = max(int(round(noise / mean_span)), 1)
    # Spans do not touch; the last sentinel closes the target.
    return noise, min(spans, noise, n - noise + 1, sentinels - 1)


def piece_length(max_input, max_target, density, mean_span, sentinels):
    """The longest piece whose input and target, each with its end, fit."""
    best = 0
    for n in range(2, 4 * (max_input + max_target)):
        noise, spans = span_counts(n, density, mean_span, sentinels)
        if n - noise + spans + 1 <= max_input and (
                noise + spans + 2 <= max_target):
            best = n
    if not best:
        raise UserError(f"--max-tokens {max_input} and --max-target-tokens "
                        f"{max_target} leave no room for a corrupted text")
    return best


def _segment(raw, total, parts):
    """Lengths of `parts` non-empty segments of `total`, uniform over all."""
    cuts = np.sort(np.argsort(raw[:total - 1], kind="stable")[:parts - 1]) + 1
    return np.diff(np.concatenate(([0], cuts, [total]))).astype(int)


def corrupt(ids, sentinels, eos, seed, sample_id, density=0.15, mean_span=3.0):
    """(input, target) of one piece of at least two tokens."""
    n = len(ids)
    noise, spans = span_counts(n, density, mean_span, len(sentinels))
    bits = np.random.Philox(key=[seed ^ (_PHILOX_PURPOSE << 32), sample_id])
    raw = bits.random_raw(n + 2)
    noisy = _segment(raw[:noise], noise, spans)
    # Before, between and after the spans; only the outer two may be empty.
    clean = _segment(raw[noise:], n - noise + 2, spans + 1)
    clean[0] -= 1
    clean[-1] -= 1
    source, target, at = [], [], 0
    for k in range(spans):
        source += ids[at:at + clean[k]] + [sentinels[k]]
        at += clean[k]
        target += [sentinels[k]] + ids[at:at + noisy[k]]
        at += noisy[k]
    source += ids[at:]
    return source + [eos], target + [sentinels[spans], eos]
