"""The core's formulas once more, in float64 and written plainly, with the errors that are allowed against them.

No shared code with the package: sums are loops over exponentials after subtracting the largest, tables are loops over
rows. `BOUNDS` is the whole contract on rounding; the property tests hold the package to it.
"""

import itertools
import math
from fractions import Fraction

import torch

# Largest error of an attention output relative to the largest value involved, and of a log-sum-exp relative to its size
# (at least 1): a few units in the last place of the input's format; the arithmetic itself is float32 or better.
BOUNDS = {
    torch.float64: {"output": 1e-11, "log_sum_exp": 1e-12},
    torch.float32: {"output": 5e-6, "log_sum_exp": 2e-6},
    torch.bfloat16: {"output": 2e-2, "log_sum_exp": 2e-2},
    torch.float16: {"output": 4e-3, "log_sum_exp": 4e-3},
}
# Parts are merged by their log-sum-exps, which float32 rounds by up to 2^-24 of their size: at +-1e4 a share is good to
# three digits, whatever the formula. The last place of the log-sum-exp's format, per unit of its size:
LAST_PLACE = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.bfloat16: 2.0**-23, torch.float16: 2.0**-23}
# Extreme logits are drawn so that their products are exact in every format (see `exact_logits`): else what differs is
# which of two near-equal keys wins.
CALIBRATION = 1e-9  # nats, relative to the largest score; calibrations work in float64
STATISTICS = 1e-9  # shares
LABEL_SCORES = 2e-3  # nats, of a tiny float32 model against one float64 pass a label


def output_bound(dtype, log_sum_exp, groups):
    """Largest error of an output, relative to the largest value: each of log2 M rounds of merging may add to it."""
    return (BOUNDS[dtype]["output"] + LAST_PLACE[dtype] * abs(log_sum_exp)) * max(1.0, math.log2(groups))


def attention(query, keys, values, scale, log_weights):
    """Softmax attention over all keys, key j's exponential scaled by exp(log_weights[j]): (output, log-sum-exp)."""
    scores = [
        scale * sum(q * k for q, k in zip(query, key, strict=True)) + w
        for key, w in zip(keys, log_weights, strict=True)
    ]
    largest = max(scores)
    exponentials = [math.exp(s - largest) for s in scores]
    total = math.fsum(exponentials)
    output = [
        math.fsum(e * v[d] for e, v in zip(exponentials, values, strict=True)) / total for d in range(len(values[0]))
    ]
    return output, largest + math.log(total)


def log_softmax(row):
    """Log-probabilities of one row."""
    largest = max(row)
    total = largest + math.log(math.fsum(math.exp(x - largest) for x in row))
    return [x - total for x in row]


def calibrated(name, scores, free):
    """Calibrated scores of a table [queries, labels]: log p - log of the mean p of what the calibration divides by."""
    logs = [log_softmax(row) for row in scores]
    if name == "raw":
        return logs
    prior = [log_softmax(row) for row in (free if name == "contextual" else scores)]
    means = []
    for column in zip(*prior, strict=True):
        largest = max(column)
        means.append(largest + math.log(math.fsum(math.exp(x - largest) for x in column) / len(column)))
    return [[x - m for x, m in zip(row, means, strict=True)] for row in logs]


def groups_of(sizes, size):
    """Numbers of demonstrations cut into groups of `size`, by counting."""
    groups = []
    for number in range(len(sizes)):
        if number % size == 0:
            groups.append([])
        groups[-1].append(number)
    return groups


def filled(sizes, budget):
    """Numbers of demonstrations filled into groups of at most `budget` tokens, by adding up."""
    groups = []
    for number, size in enumerate(sizes):
        if not groups or sum(sizes[i] for i in groups[-1]) + size > budget:
            groups.append([])
        groups[-1].append(number)
    return groups


def mean_squares(table):
    """(A, B, E) of a table [seeds, queries] in exact fractions: mean squares of rows, columns and interaction."""
    rows = [[Fraction(int(x)) for x in row] for row in table]
    seeds, items = len(rows), len(rows[0])
    grand = sum(map(sum, rows)) / (seeds * items)
    by_row = [sum(row) / items for row in rows]
    by_column = [sum(column) / seeds for column in zip(*rows, strict=True)]
    row_square = items * sum((m - grand) ** 2 for m in by_row) / max(1, seeds - 1)
    column_square = seeds * sum((m - grand) ** 2 for m in by_column) / max(1, items - 1)
    rest = sum(
        (rows[s][i] - by_row[s] - by_column[i] + grand) ** 2 for s, i in itertools.product(range(seeds), range(items))
    )
    return float(row_square), float(column_square), float(rest / max(1, (seeds - 1) * (items - 1)))


def wilson(right, of, z):
    """Wilson's score interval by its textbook formula."""
    share = right / of
    centre = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(0.0, centre - half), min(1.0, centre + half)


def holm(p_values):
    """Holm's correction, step by step: the smallest p times their number, the next times one less, never falling."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def exact_logits(rng, count, size):
    """Keys [count, 1] whose products with a query of 1 are exact in every format: -1, 0 or 1 times `size`."""
    return rng.integers(-1, 2, (count, 1)).astype(float) * size
