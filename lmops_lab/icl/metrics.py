"""What label scores say beyond accuracy: macro-F1, NLL, Brier, ECE, confusion, favourite labels, recency.

Every metric is a mean over seeds of one number a seed, and comes with its jackknife pseudo-values [seeds, queries] (N
times the metric less N - 1 times the metric without that query). They turn it into the mean of a table, so that one
interval, over seeds and queries, serves all of them. For accuracy, NLL and Brier they are each query's plain values.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import log_softmax

from lmops_lab.icl.curve import ICLCurve
from lmops_lab.icl.statistics import Interval, crossed, share_bounds

Scores = NDArray[np.floating]  # [seeds, queries, labels], nats up to a constant a row
Gold = NDArray[np.integer]  # [queries], indices of labels
Answers = NDArray[np.integer]  # [seeds, queries]
Table = NDArray[np.floating]  # [seeds, queries]

ECE_BINS = 10


@dataclass(frozen=True, eq=False)
class Measured:
    """A metric of one point.

    Attributes:
        by_seed: its value for each seed.
        pseudo_values: [seeds, queries], see the module's first lines.
        bounds: the least and the largest value it can take.
    """

    by_seed: NDArray[np.floating]
    pseudo_values: Table
    bounds: tuple[float, float]

    def interval(self, level: float = 0.95) -> Interval:
        """Mean over the seeds, with an interval for new seeds and new queries."""
        mean, half = float(self.by_seed.mean()), float(crossed(self.pseudo_values).half_width(level))
        return Interval(mean, max(self.bounds[0], mean - half), min(self.bounds[1], mean + half))


def accuracy_of(scores: Scores, gold: Gold) -> Measured:
    """Share of right answers."""
    return _mean_of((scores.argmax(-1) == gold).astype(float), (0.0, 1.0))


def negative_log_likelihood(scores: Scores, gold: Gold) -> Measured:
    """-log p(right label | query) in nats, normalised over the labels; guessing evenly gives log(labels)."""
    return _mean_of(-log_softmax(scores, axis=-1)[:, np.arange(len(gold)), gold], (0.0, np.inf))


def brier(scores: Scores, gold: Gold) -> Measured:
    """Squared distance of the label probabilities from the truth, 0 to 2 (Brier 1950)."""
    truth = np.eye(scores.shape[-1])[gold]  # [queries, labels]
    return _mean_of(((np.exp(log_softmax(scores, axis=-1)) - truth) ** 2).sum(-1), (0.0, 2.0))


def expected_calibration_error(scores: Scores, gold: Gold) -> Measured:
    """Mean gap between confidence and accuracy over 10 equal bins (Guo et al. 2017, arXiv 1706.04599).

    The gap of a bin counts as often as it holds queries. Chance makes it too large for few queries.
    """
    probabilities = np.exp(log_softmax(scores, axis=-1))
    confidence, right = probabilities.max(-1), probabilities.argmax(-1) == gold
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    gap = confidence - right  # [seeds, queries]
    sums = np.stack([np.bincount(b, weights=g, minlength=ECE_BINS) for b, g in zip(bins, gap, strict=True)])
    own = np.take_along_axis(sums, bins, axis=1)  # sum of the bin that a query is in
    # N * |sums| / N - (N - 1) * |sums without the query| / (N - 1): only the query's own bin changes.
    return Measured(np.abs(sums).sum(1) / len(gold), np.abs(own) - np.abs(own - gap), (0.0, 1.0))


def macro_f1(scores: Scores, gold: Gold) -> Measured:
    """Mean of the labels' F1; labels that no query has are left out."""
    answers, queries = scores.argmax(-1), len(gold)
    met = np.unique(gold)
    values, table = np.empty(len(answers)), np.empty(answers.shape)
    for seed, row in enumerate(answers):
        counts = _counts(row, gold, scores.shape[-1])
        values[seed] = _f1(counts, met)
        for right, given in np.argwhere(counts > 0):  # queries of one kind share their pseudo-value
            counts[right, given] -= 1
            without = _f1(counts, met)
            counts[right, given] += 1
            table[seed, (gold == right) & (row == given)] = queries * values[seed] - (queries - 1) * without
    return Measured(values, table, (0.0, 1.0))


METRICS: dict[str, Callable[[Scores, Gold], Measured]] = {
    "accuracy": accuracy_of,
    "macro_f1": macro_f1,
    "nll": negative_log_likelihood,
    "brier": brier,
    "ece": expected_calibration_error,
}


def measure(curve: ICLCurve, metric: str, method: str, k: int, calibration: str = "raw") -> Measured:
    """A metric of `METRICS` at one point of a curve.

    Raises:
        ValueError: an unknown metric, calibration or point.
    """
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is unknown; choose among {', '.join(METRICS)}")
    return METRICS[metric](curve.scores(method, k, calibration), curve.gold)


def metrics_frame(
    curve: ICLCurve, calibrations: Sequence[str] = ("raw", "batch"), metrics: Sequence[str] = tuple(METRICS)
) -> pd.DataFrame:
    """One row per method, k, calibration and metric: value, interval, least and largest seed."""
    rows = []
    for method, k in curve.points():
        for calibration in calibrations:
            for metric in metrics:
                found = measure(curve, metric, method, k, calibration)
                value, low, high = curve.accuracy(method, k, calibration) if metric == "accuracy" else found.interval()
                about = {"method": method, "k": k, "calibration": calibration, "metric": metric}
                spread = {"seed_min": float(found.by_seed.min()), "seed_max": float(found.by_seed.max())}
                rows.append(about | {"value": value, "low": low, "high": high} | spread)
    return pd.DataFrame(rows)


def confusion(curve: ICLCurve, method: str, k: int, calibration: str = "raw") -> pd.DataFrame:
    """How often each label (rows: right, columns: given) was answered, summed over the seeds."""
    answers = curve.answers(method, k, calibration)
    counts = sum(_counts(row, curve.gold, len(curve.labels)) for row in answers)
    names = list(curve.labels)
    return pd.DataFrame(
        counts, index=pd.Index(names, name="right"), columns=pd.Index(names, name="given"), dtype=np.int64
    )


def predicted_shares(curve: ICLCurve, method: str, k: int, calibration: str = "raw") -> pd.DataFrame:
    """How often each label is answered, with its interval, beside how often it is right. One row a label."""
    answers = curve.answers(method, k, calibration)
    rows = []
    for label, name in enumerate(curve.labels):
        given, low, high = (float(bound) for bound in share_bounds(answers == label))
        rows.append(
            {"label": name, "given": given, "low": low, "high": high, "right": float((curve.gold == label).mean())}
        )
    return pd.DataFrame(rows)


def favourite_bias(answers: Answers, gold: Gold, favourites: Sequence[int | None]) -> Interval:
    """How much more often a seed's favourite label is answered than it is right (arXiv 2102.09690).

    Args:
        answers: [seeds, queries].
        favourites: the label of each seed that its demonstrations may push (`majority_label`, `recency_label`); None
            where they push none, such seeds are left out.

    Raises:
        ValueError: no seed has a favourite, or not one entry a seed.
    """
    if len(favourites) != len(answers):
        raise ValueError(f"{len(favourites)} favourites for {len(answers)} seeds; give one a seed")
    kept = [(row, label) for row, label in zip(answers, favourites, strict=True) if label is not None]
    if not kept:
        raise ValueError("no seed's demonstrations favour one label; this diagnostic needs an uneven draw")
    table = np.stack([(row == label).astype(float) - (gold == label) for row, label in kept])
    found = crossed(table)
    mean, half = float(table.mean()), float(found.half_width())
    return Interval(mean, max(-1.0, mean - half), min(1.0, mean + half))


def majority_label(labels: Sequence[int]) -> int | None:
    """Return the label that most demonstrations have; None where two tie or there is no demonstration."""
    ranked = Counter(labels).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def recency_label(labels: Sequence[int], group_size: int | None = None) -> int | None:
    """Return the label nearest to the query: of the last demonstration, or the majority of the groups' last ones.

    All groups end at the same position, so in structured prompting every group has a last demonstration.
    """
    if not group_size:
        return labels[-1] if labels else None
    ends = [*range(group_size - 1, len(labels), group_size)]
    if labels and (not ends or ends[-1] != len(labels) - 1):
        ends.append(len(labels) - 1)
    return majority_label([labels[end] for end in ends])


def _mean_of(table: Table, bounds: tuple[float, float]) -> Measured:
    return Measured(table.mean(1), table, bounds)


def _counts(answers: NDArray[np.integer], gold: Gold, labels: int) -> NDArray[np.int64]:
    counts = np.zeros((labels, labels), np.int64)
    np.add.at(counts, (gold, answers), 1)
    return counts


def _f1(counts: NDArray[np.int64], met: NDArray[np.integer]) -> float:
    sizes = (counts.sum(0) + counts.sum(1))[met]
    return float((2 * np.diag(counts)[met] / np.maximum(sizes, 1)).mean())
