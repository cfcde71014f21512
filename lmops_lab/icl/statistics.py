"""How sure an accuracy is, when both the demonstrations (seeds) and the queries (items) are a sample.

Answers are a table [seeds, queries]: y_si = mean + seed_s + item_i + rest_si, both factors random and crossed, since
every seed is asked the same queries. Three mean squares of the table carry everything (two-way analysis of variance):

    A = Q var_s(row means)     B = S var_i(column means)     E = interaction

with S - 1, Q - 1 and (S - 1)(Q - 1) degrees of freedom. The interval is mean +- h, each source with its own Student
quantile (Howe 1974; Burdick & Graybill 1992, chapter 3):

    h^2 = [ t(S - 1)^2 max(A - c E, 0) + t(Q - 1)^2 max(B, E / 2) ] / (S Q)       c = 0.8, for two seeds c = 0

so three seeds that differ a lot get the quantile 4.3 that they deserve, and seeds that do not differ cost little. The
textbook has c = 1; 0.8 was chosen by simulation. Where it holds (logit-normal seeds and items, 1,000 to 2,000
experiments a setting, 60 to 1,000 queries, accuracies of .62 to .86, seeds that spread by 0 to 1.2 logits):

    seeds         a nominal 95 % covers, in 30 settings each
    3, 4, 6, 10   92.3 to 97.6 %; 93 to 97 % in nine settings of ten. More where seeds do not differ at all, less where
                  they spread by 1.2 logits on 60 queries
    2             95 to 99.8 %: two seeds say next to nothing about how much seeds differ, so such intervals are wide
    1             new queries only, for these very demonstrations

A percentile bootstrap covers some 80 % with three seeds that differ (`two_factor_bootstrap`; for ten seeds and more).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm
from scipy.stats import t as student

Correct = NDArray[np.bool_]  # [seeds, queries]
Floats = NDArray[np.floating]
Values = NDArray[np.floating] | np.floating[Any]  # of many tables at once, or of one

RESAMPLES = 2000

# Share of the interaction taken out of the seeds' mean square.
_TAKEN_OUT = 0.8


class Interval(NamedTuple):
    """An estimate with its lower and upper bound."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Crossed:
    """The mean of a table [..., seeds, queries] and its two sources of chance.

    Attributes:
        mean: [...].
        seed_part, item_part: what each source adds to the variance of the mean [...].
        seeds, items: sizes of the table.
        seed_variance: variance of a seed's true mean around the overall one; not below 0 [...].
        item_variance: the same for an item's.
        rest_variance: variance of a single answer that neither explains.
    """

    mean: Values
    seed_part: Values
    item_part: Values
    seeds: int
    items: int
    seed_variance: Values
    item_variance: Values
    rest_variance: Values

    def half_width(self, level: float = 0.95) -> Values:
        """Half the width of the interval [...] (see the module's first lines)."""
        tail = (1 + level) / 2
        square = _quantile(tail, max(1, self.items - 1)) ** 2 * self.item_part
        if self.seeds > 1:
            square = square + _quantile(tail, self.seeds - 1) ** 2 * self.seed_part
        return np.sqrt(square)

    def p_value(self) -> float:
        """Two-sided p-value of "the mean is 0": the level at which the interval just touches 0.

        With one seed this is the paired t-test. Only for a single table.
        """
        distance = abs(float(self.mean))
        if distance < 1e-12:
            return 1.0
        if float(self.seed_part) == 0.0:
            item_part = float(self.item_part)
            return float(2 * student.sf(distance / np.sqrt(item_part), self.items - 1)) if item_part else 0.0

        def gap(log_p: float) -> float:
            return float(self.half_width(1 - np.exp(log_p))) - distance

        smallest = np.log(1e-12)  # below, 1 - p is no longer exact
        return float(np.exp(brentq(gap, smallest, -1e-12, xtol=1e-5))) if gap(smallest) > 0 else 1e-12


@functools.lru_cache(4096)
def _quantile(tail: float, degrees: int) -> float:
    return float(student.ppf(tail, degrees))


def crossed(values: NDArray[Any], *, careful: bool = False) -> Crossed:
    """The mean of values over seeds and queries [..., seeds, queries], taken apart into its sources of chance.

    Args:
        careful: c = 0, for levels far above 95 % with three seeds: there c = 0.8 covers too seldom.
    """
    values = np.asarray(values, float)
    seeds, items = values.shape[-2:]
    by_seed, by_item = values.mean(-1), values.mean(-2)  # [..., seeds], [..., queries]
    mean = by_seed.mean(-1)
    item_square = seeds * by_item.var(-1) * items / max(1, items - 1)
    if seeds == 1:
        zero = np.zeros_like(mean)
        return Crossed(mean, zero, item_square / items, 1, items, zero, item_square, zero)
    seed_square = items * by_seed.var(-1) * seeds / (seeds - 1)
    # Sum of squares of the interaction = total - rows - columns.
    total = (values**2).mean((-1, -2)) - mean**2
    rest = np.maximum(total - by_seed.var(-1) - by_item.var(-1), 0) * seeds * items
    rest_square = rest / ((seeds - 1) * max(1, items - 1))
    taken = 0.0 if careful or seeds == 2 else _TAKEN_OUT
    return Crossed(
        mean,
        np.maximum(seed_square - taken * rest_square, 0) / (seeds * items),
        np.maximum(item_square, rest_square / 2) / (seeds * items),  # B is E or more but for chance
        seeds,
        items,
        np.maximum(seed_square - rest_square, 0) / items,
        np.maximum(item_square - rest_square, 0) / seeds,
        rest_square,
    )


def share_bounds(correct: NDArray[Any], level: float = 0.95, *, careful: bool = False) -> tuple[Values, Values, Values]:
    """Means of tables of right and wrong answers [..., seeds, queries] with their bounds, inside 0 and 1.

    Wilson's score interval, its z^2/n replaced by h^2 / p(1 - p): with one seed it is Wilson's own.
    """
    found = crossed(correct, careful=careful)
    mean, item = found.mean, float(norm.ppf((1 + level) / 2)) ** 2 / found.items
    spread = mean * (1 - mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = found.half_width(level) ** 2 / spread
    # One seed has no second factor; one query, or answers that are all alike, would claim certainty.
    alone = (found.seeds == 1) | (found.items == 1) | (spread == 0)
    ratio = np.where(alone, item, ratio)
    centre = (mean + ratio / 2) / (1 + ratio)
    half = np.sqrt(ratio * spread + ratio**2 / 4) / (1 + ratio)
    return mean, np.clip(centre - half, 0, mean), np.clip(centre + half, mean, 1)


def accuracy(correct: Correct, *, level: float = 0.95) -> Interval:
    """Accuracy over seeds and queries, with an interval for new seeds *and* new queries.

    One seed: Wilson's interval, which is about new queries only. Ten seeds on the same queries do not shrink the
    queries' error, and three seeds that differ a lot make a wide interval.

    Raises:
        ValueError: not a table of seeds and queries.
    """
    check_table(correct)
    return Interval(*(float(bound) for bound in share_bounds(correct, level)))


def accuracies(tables: Sequence[Correct], *, level: float = 0.95) -> list[Interval]:
    """What `accuracy` says of each table, those of one shape in one step."""
    found: list[Interval | None] = [None] * len(tables)
    for shape in {table.shape for table in tables}:
        numbers = [number for number, table in enumerate(tables) if table.shape == shape]
        check_table(tables[numbers[0]])
        bounds = share_bounds(np.stack([tables[number] for number in numbers]), level)
        for row, number in enumerate(numbers):
            found[number] = Interval(*(float(np.asarray(side)[row]) for side in bounds))
    return [interval for interval in found if interval is not None]


def difference_table(left: Correct, right: Correct) -> Floats:
    """Right answers of `left` minus those of `right` on the same queries: [seeds, queries] of -1, 0, 1.

    Rows are paired by their place: choose those of the same seeds first (`paired_rows`). A side with one row
    (zero-shot) is compared with every seed of the other.

    Raises:
        ValueError: other queries, or two different numbers of seeds.
    """
    check_table(left)
    check_table(right)
    if left.shape[1] != right.shape[1] or (1 not in (len(left), len(right)) and len(left) != len(right)):
        raise ValueError(
            f"cannot pair accuracies of shapes {left.shape} and {right.shape}; use the same queries and seeds"
        )
    return left.astype(float) - right.astype(float)


def paired_rows(left: Sequence[int] | None, right: Sequence[int] | None) -> tuple[list[int], list[int]]:
    """Rows of two tables [seeds, queries] that belong to the same seeds, in the order of the left table.

    Args:
        left, right: the seed of each row; None of a table that no seed has drawn (zero-shot), whose one row stands
            beside every row of the other.

    Raises:
        ValueError: no seed in common.
    """
    if left is None or right is None:
        rows = range(len(left or right or [0]))
        return [0 if left is None else row for row in rows], [0 if right is None else row for row in rows]
    shared = [seed for seed in left if seed in right]
    if not shared:
        raise ValueError(f"cannot pair seeds {[*left]} with seeds {[*right]}: none is in both; run one seed at both")
    return [left.index(seed) for seed in shared], [right.index(seed) for seed in shared]


def crossed_difference(difference: Floats, *, careful: bool = False) -> Crossed:
    """Chance in the mean of a difference table, with one query added that each side wins.

    Without them no disagreement in a few queries would be taken for none in all (Bonett & Price 2012, two seeds or more
    alike).
    """
    wins = np.ones((*difference.shape[:-1], 1))
    return crossed(np.concatenate([difference, wins, -wins], axis=-1), careful=careful)


def paired_difference(left: Correct, right: Correct, *, level: float = 0.95) -> Interval:
    """Accuracy of `left` minus accuracy of `right` on the same queries and seeds, with its interval.

    What the two sides share (hard queries, lucky demonstrations) cancels.

    Raises:
        ValueError: other queries, or two different numbers of seeds.
    """
    return difference_interval(difference_table(left, right), level=level)


def difference_interval(difference: Floats, *, level: float = 0.95) -> Interval:
    """Mean of differences [seeds, queries] from -1 to 1 with its interval (see `crossed_difference`)."""
    found, mean = crossed_difference(difference), float(difference.mean())
    half = float(found.half_width(level))
    low, high = max(-1.0, float(found.mean) - half), min(1.0, float(found.mean) + half)
    return Interval(mean, min(mean, low), max(mean, high))


def two_factor_bootstrap(values: NDArray[Any], *, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean of a table [seeds, queries] with a percentile bootstrap: seeds and queries drawn anew and crossed.

    Good from about ten seeds; with fewer it covers too seldom (see the module's first lines).
    """
    check_table(values)
    low, high = np.quantile(resampled_means(np.asarray(values, float), seed), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean(values)), float(low), float(high))


def resampled_means(values: Floats, seed: int) -> Floats:
    """Means of two-factor resamples of [seeds, queries]: draw seeds and queries apart, cross them."""
    rng = np.random.default_rng(seed)
    seeds, queries = values.shape
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds  # [R, seeds]
    # A resample of S seeds shows (S - 1) / S of their variance; with three seeds that matters.
    seed_weights = 1 / seeds + (seed_weights - 1 / seeds) * np.sqrt(seeds / max(1, seeds - 1))
    query_weights = rng.multinomial(queries, np.full(queries, 1 / queries), size=RESAMPLES) / queries  # [R, queries]
    return np.einsum("rs,sq,rq->r", seed_weights, values, query_weights, optimize=True)


def check_table(values: NDArray[Any]) -> None:
    """Raise ValueError unless the values are a table of at least one seed and one query."""
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"expected answers of shape [seeds, queries], got {values.shape}")
