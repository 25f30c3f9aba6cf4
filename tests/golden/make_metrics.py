"""Golden metrics, from their definitions in NumPy: one pair at a time.

Pairs of (prediction, label) with ties, missing classes and constants; the C++
side counts confusion tables and sorts, this side loops over pairs.
"""

import json
import pathlib

import numpy as np


def f1(prediction, label, positive):
    tp = sum(p == positive and l == positive
             for p, l in zip(prediction, label))
    if tp == 0:
        return 0.0
    precision = tp / sum(p == positive for p in prediction)
    recall = tp / sum(l == positive for l in label)
    return 2 * precision * recall / (precision + recall)


def matthews(prediction, label):
    """Covariance of one-hot assignments, as Gorodkin defines it."""
    classes = sorted(set(prediction) | set(label))
    x = np.array([[p == c for c in classes] for p in prediction], float)
    y = np.array([[l == c for c in classes] for l in label], float)

    def covariance(a, b):
        return sum(np.cov(a[:, k], b[:, k], bias=True)[0, 1]
                   for k in range(len(classes)))

    spread = covariance(x, x) * covariance(y, y)
    return 0.0 if spread < 1e-20 else covariance(x, y) / np.sqrt(spread)


def ranks(x):
    """1 + how many are smaller + half of how many others are equal."""
    return [1 + sum(b < a for b in x) + (sum(b == a for b in x) - 1) / 2
            for a in x]


def correlation(x, y):
    if len(set(x)) == 1 or len(set(y)) == 1:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def classes_case(prediction, label):
    prediction, label = [list(map(int, v)) for v in (prediction, label)]
    union = sorted(set(prediction) | set(label))
    return {
        "prediction": prediction,
        "label": label,
        "accuracy": sum(map(int.__eq__, prediction, label)) / len(label),
        "f1_binary": f1(prediction, label, 1),
        "f1_macro": sum(f1(prediction, label, c) for c in union) / len(union),
        "matthews": float(matthews(prediction, label)),
    }


def values_case(prediction, label):
    prediction, label = [[float(a) for a in v] for v in (prediction, label)]
    return {
        "prediction": prediction,
        "label": label,
        "pearson": correlation(prediction, label),
        "spearman": correlation(ranks(prediction), ranks(label)),
    }


def main():
    rng = np.random.default_rng(5)
    flip = rng.random(60) < 0.3
    binary = rng.integers(0, 2, 60)
    many = rng.integers(0, 5, 80)
    guess = np.where(rng.random(80) < 0.5, many, rng.integers(0, 7, 80))
    x = rng.normal(size=40).round(3)
    y = (0.6 * x + rng.normal(size=40)).round(3)
    coarse = rng.integers(0, 6, 50) / 2
    noisy = coarse + rng.integers(-2, 3, 50) / 2
    out = {
        "classes": [
            classes_case(np.where(flip, 1 - binary, binary), binary),
            classes_case(guess, many),
            classes_case([1, 1, 1, 1], [1, 0, 1, 0]),
            classes_case([0, 0, 0], [0, 0, 0]),
            classes_case([1, 0, 2], [0, 2, 1]),
            classes_case([3], [3]),
        ],
        "values": [
            values_case(x, y),
            values_case(x, -(x**3)),
            values_case(noisy, coarse),
            values_case(1e6 + x, y),
            values_case([2, 2, 2], [1, 2, 3]),
            values_case([1.5], [4]),
        ],
    }
    path = pathlib.Path(__file__).resolve().parent / "metrics.json"
    path.write_text(json.dumps(out, indent=1) + "\n")


main()
