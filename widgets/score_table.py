"""Scores of prompts over seeds: means with intervals, the paired change to the first prompt, orders to sort by."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, t

Scores = NDArray[np.float64]  # [prompts, seeds], NaN where a score is missing


class Summary(NamedTuple):
    """A prompt's mean score over its seeds, and the paired change against the first prompt; None where unknown.

    Attributes:
        mean: mean over the seeds that have a score.
        low, high: Student's 95 % interval of the mean, Wilson's where scores are 0 or 1; None with fewer than two.
        n: seeds with a score.
        change: mean of score minus the first prompt's score, over seeds that both have.
        change_low, change_high: its 95 % interval, paired by seed (the same noise for every prompt).
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int
    change: float | None
    change_low: float | None
    change_high: float | None


def score_table(scores: Mapping[str, ArrayLike], prompts: int, seeds: int) -> tuple[dict[str, Scores], list[str]]:
    """Scores as arrays [prompts, seeds], and a sentence for each score that is not complete.

    Raises:
        ValueError: a score whose shape is not [prompts, seeds].
    """
    tables: dict[str, Scores] = {}
    notes: list[str] = []
    for name, values in scores.items():
        rows = [list(row) for row in values] if isinstance(values, list | tuple) else values
        try:
            table = np.array(rows, dtype=np.float64)  # None becomes NaN
        except ValueError as error:
            raise ValueError(f"score {name!r} is not a table of numbers [prompts, seeds]: {error}") from error
        if table.shape != (prompts, seeds):
            raise ValueError(
                f"score {name!r} has shape {table.shape}, the pictures have [{prompts} prompts, {seeds} seeds]; "
                "give one number a picture, NaN where it is missing"
            )
        table[~np.isfinite(table)] = np.nan
        missing = int(np.isnan(table).sum())
        if missing:
            notes.append(f"score '{name}' is missing for {missing} of {table.size} pictures; means leave them out.")
        tables[name] = table
    return tables, notes


def summaries(table: Scores) -> list[Summary]:
    """Mean, interval and paired change of every prompt (a row of [prompts, seeds])."""
    result = []
    for i, row in enumerate(table):
        mean, low, high = _interval(row)
        known = row[np.isfinite(row)]
        if low is not None and np.isin(known, (0.0, 1.0)).all():
            bounds = binomtest(int(known.sum()), len(known)).proportion_ci(0.95, method="wilson")
            low, high = float(bounds.low), float(bounds.high)
        change = _interval(row - table[0]) if i else (None, None, None)
        result.append(Summary(mean, low, high, int(np.isfinite(row).sum()), *change))
    return result


def orders(tables: Mapping[str, Scores], prompts: int, seeds: int) -> dict[str, dict[str, list[int]]]:
    """For every score: prompts and seeds from the best mean to the worst, those without a score last.

    >>> orders({"reward": np.array([[0.1, 0.3], [0.5, 0.9]])}, 2, 2)
    {'': {'rows': [0, 1], 'seeds': [0, 1]}, 'reward': {'rows': [1, 0], 'seeds': [1, 0]}}
    """
    found = {"": {"rows": list(range(prompts)), "seeds": list(range(seeds))}}
    for name, table in tables.items():
        found[name] = {"rows": _descending(table), "seeds": _descending(table.T)}
    return found


def differing(keys: Sequence[Sequence[str | None]]) -> list[list[bool]]:
    """Where a cell is not what the first row holds for the same seed; a row's own difference shows in its seeds.

    >>> differing([["a", "b"], ["a", "c"]])
    [[False, True], [False, True]]
    """
    if not keys:
        return []
    others = [[cell != first for cell, first in zip(row, keys[0], strict=True)] for row in keys[1:]]
    return [[any(column) for column in zip(*others, strict=True)] if others else [False] * len(keys[0]), *others]


def _interval(values: Scores) -> tuple[float | None, float | None, float | None]:
    known = values[np.isfinite(values)]
    if not len(known):
        return None, None, None
    mean = float(known.mean())
    if len(known) < 2:
        return mean, None, None
    half = float(t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known)))
    return mean, mean - half, mean + half


def _descending(table: Scores) -> list[int]:
    known = np.isfinite(table).any(axis=1)
    means = np.full(len(table), -np.inf)
    means[known] = np.nanmean(table[known], axis=1)
    return [int(i) for i in np.argsort(-means, kind="stable")]
