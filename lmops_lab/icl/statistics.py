"""How sure an accuracy is: Wilson and two-factor bootstrap intervals, paired differences."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

Correct = NDArray[np.bool_]  # [seeds, queries]

RESAMPLES = 2000


class Interval(NamedTuple):
    """An estimate with its lower and upper bound."""

    mean: float
    low: float
    high: float


def accuracy(correct: Correct, *, level: float = 0.95, seed: int = 0) -> Interval:
    """Accuracy over seeds and queries with an interval.

    One seed: Wilson's interval, which holds for few items and near 0 or 1. Several: a two-factor bootstrap (seeds and
    queries drawn anew, each with replacement), since ten seeds on the same queries do not shrink the queries' error.
    Two or three seeds say little about how much seeds differ: where they differ a lot, such an interval can cover
    less often than it says, and more seeds are the remedy.
    """
    _check(correct)
    seeds, queries = correct.shape
    mean = float(correct.mean())
    if seeds == 1 or mean in (0.0, 1.0):  # all alike: a bootstrap would claim certainty
        bounds = binomtest(round(mean * queries), queries).proportion_ci(level, method="wilson")
        return Interval(mean, float(bounds.low), float(bounds.high))
    return Interval(mean, *_bounds(_resampled_means(correct.astype(float), seed), level))


def paired_difference(left: Correct, right: Correct, *, level: float = 0.95, seed: int = 0) -> Interval:
    """Accuracy of `left` minus accuracy of `right` on the same queries, with a bootstrap interval.

    Each resample draws seeds and queries once for both, so what the two share cancels. A side with one row (zero-shot)
    is compared with every seed of the other.

    Raises:
        ValueError: other queries, or two different numbers of seeds.
    """
    _check(left)
    _check(right)
    if left.shape[1] != right.shape[1] or (1 not in (len(left), len(right)) and len(left) != len(right)):
        raise ValueError(
            f"cannot pair accuracies of shapes {left.shape} and {right.shape}; use the same queries and seeds"
        )
    difference = left.astype(float) - right.astype(float)  # [seeds, queries]
    return Interval(float(difference.mean()), *_bounds(_resampled_means(difference, seed), level))


def _resampled_means(values: NDArray[np.floating], seed: int) -> NDArray[np.floating]:
    """Means of two-factor resamples of [seeds, queries]: draw seeds and queries apart, cross them."""
    rng = np.random.default_rng(seed)
    seeds, queries = values.shape
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds  # [R, seeds]
    # A resample of S seeds shows (S - 1) / S of their variance; with three seeds that matters.
    seed_weights = 1 / seeds + (seed_weights - 1 / seeds) * np.sqrt(seeds / max(1, seeds - 1))
    query_weights = rng.multinomial(queries, np.full(queries, 1 / queries), size=RESAMPLES) / queries  # [R, queries]
    return np.einsum("rs,sq,rq->r", seed_weights, values, query_weights, optimize=True)


def _bounds(means: NDArray[np.floating], level: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check(correct: Correct) -> None:
    if correct.ndim != 2 or 0 in correct.shape:
        raise ValueError(f"expected answers of shape [seeds, queries], got {correct.shape}")
