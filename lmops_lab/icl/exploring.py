"""What an explorer of curves shows, as plain data: points, differences of two curves, one point from inside."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax

from lmops_lab.icl.comparison import Point, compare
from lmops_lab.icl.curve import ZERO_SHOT, ICLCurve
from lmops_lab.icl.draws import Draw, pool_order
from lmops_lab.icl.metrics import confusion
from lmops_lab.icl.statistics import accuracies
from lmops_lab.icl.tasks import EMBEDDED_TASKS, Task, load_task

MOST_ITEMS = 100
MOST_DEMONSTRATIONS = 24


class Series(NamedTuple):
    """One line of the picture: a method on a task under a calibration."""

    task: str
    method: str
    calibration: str

    def __str__(self) -> str:
        return f"{self.task}, {self.method}, {self.calibration}"


def series_points(curve: ICLCurve, series: Series) -> list[dict[str, Any]]:
    """Points of one line, k ascending: accuracy, interval, every seed's accuracy, cost."""
    points = [point for point in curve.points() if point[0] == series.method]
    tables = curve.correct_at(points, series.calibration)
    return [
        {
            "k": k,
            "mean": round(estimate.mean, 5),
            "low": round(estimate.low, 5),
            "high": round(estimate.high, 5),
            "seeds": [
                [seed, round(float(value), 5)]
                for seed, value in zip(curve.seeds(method, k), table.mean(1), strict=True)
            ],
            "queries": len(curve.gold),
        }
        for (method, k), table, estimate in zip(points, tables, accuracies(tables), strict=True)
    ]


def series_difference(curves: Mapping[str, ICLCurve], left: Series, right: Series) -> list[dict[str, Any]]:
    """Accuracy of `left` minus accuracy of `right` at every k that both have for some seed, corrected as one family.

    A line of a single point (zero-shot) is compared with every point of the other.

    Raises:
        ValueError: two tasks (they share no queries), no k in common, or no seed in common at any k.
    """
    if left.task != right.task:
        raise ValueError(
            f"{left.task!r} and {right.task!r} share no queries, so they cannot be paired; choose two lines of one task"
        )
    curve = curves[left.task]
    ks = [[k for method, k in curve.points() if method == one.method] for one in (left, right)]
    if ZERO_SHOT in (left.method, right.method):
        pairs = [(a, b) for a in ks[0] for b in ks[1]]
    else:
        pairs = [(k, k) for k in ks[0] if k in ks[1] and curve.can_pair((left.method, k), (right.method, k))]
    if not pairs:
        seedless = " for which a seed is in both" if {*ks[0]} & {*ks[1]} else ""
        raise ValueError(f"{left.method!r} and {right.method!r} have no number of demonstrations in common{seedless}")
    points = [(Point(left.method, a, left.calibration), Point(right.method, b, right.calibration)) for a, b in pairs]
    return [
        {
            "k": max(one.left.k, one.right.k),
            "mean": one.difference.mean,
            "low": one.difference.low,
            "high": one.difference.high,
            "p_holm": one.adjusted,
            "real": one.real,
            "needed": "" if one.real else str(one.needed),
        }
        for one in compare(curve, points)
    ]


def inspect_point(curve: ICLCurve, method: str, k: int, calibration: str, task: Task | None = None) -> dict[str, Any]:
    """One point from inside: confusion matrix, misclassified queries by how many seeds miss them, demonstrations.

    Args:
        task: the data that the curve was run on; without it queries have numbers but no text.

    Raises:
        ValueError: no such point, or another task than the curve's.
    """
    if task is not None and task.fingerprint != curve.about["task"]:
        raise ValueError(
            f"the curve was run on task {curve.about['task']!r}, not on {task.fingerprint!r}; give the same data"
        )
    counts = confusion(curve, method, k, calibration)
    probabilities = softmax(curve.scores(method, k, calibration), axis=-1)  # [seeds, queries, labels]
    answers = probabilities.argmax(-1)
    wrong = answers != curve.gold
    seeds = curve.seeds(method, k)
    asked = curve.cells[0].queries
    order = np.lexsort((np.arange(wrong.shape[1]), -wrong.mean(0)))
    items = [
        {
            "query": int(asked[query]),
            "text": task.query(task.test[int(asked[query])].fields) if task else "",
            "right": curve.labels[curve.gold[query]],
            "answers": [
                {
                    "seed": seed,
                    "label": curve.labels[answers[row, query]],
                    "probability": round(float(probabilities[row, query].max()), 4),
                    "wrong": bool(wrong[row, query]),
                }
                for row, seed in enumerate(seeds)
            ],
        }
        for query in order[: int(wrong.any(0).sum())][:MOST_ITEMS]
    ]
    return {
        "method": method,
        "k": k,
        "calibration": calibration,
        "labels": list(curve.labels),
        "confusion": counts.to_numpy().tolist(),
        "wrong": items,
        "wrong_in_all": int(wrong.any(0).sum()),
        "demonstrations": _demonstrations(curve, k, seeds, task),
    }


def _demonstrations(curve: ICLCurve, k: int, seeds: Sequence[int], task: Task | None) -> list[dict[str, Any]]:
    """What each seed was shown: all, or the first and last few, in the order of the context.

    Where queries choose their demonstrations, only what all of them share is a seed's: nothing, or of "mixed" the rest.
    """
    selection = curve.about.get("selection") or "none"
    if task is None or k == 0 or selection not in ("none", "mixed"):
        return []
    if selection == "mixed":
        k -= int(curve.about["tail"])
    draw = Draw(**{f.name: curve.about[f.name] for f in fields(Draw) if curve.about.get(f.name) is not None})
    pool, size = curve.about.get("pool_groups"), curve.about["group_size"]
    pooled = draw.demonstrations(task, pool * size, 0) if pool else []
    shown = []
    for seed in seeds:
        if pool:
            chosen = pool_order(seed, pool)[: k // size]
            drawn = [example for group in chosen for example in pooled[group * size : (group + 1) * size]]
        else:
            drawn = draw.demonstrations(task, k, seed)
        half = MOST_DEMONSTRATIONS // 2
        kept = list(enumerate(drawn))
        if k > MOST_DEMONSTRATIONS:
            kept = kept[:half] + kept[-half:]
        shown.append(
            {
                "seed": seed,
                "of": k,
                "texts": [[number + 1, task.demonstration(example).strip()] for number, example in kept],
            }
        )
    return shown


def find_task(curve: ICLCurve, tasks: Sequence[Task]) -> Task | None:
    """The data of a curve, among the given tasks or the embedded ones; None if its very version is not there."""
    for task in tasks:
        if task.fingerprint == curve.about.get("task"):
            return task
    name = str(curve.about.get("task_name"))
    if name in EMBEDDED_TASKS:
        embedded = load_task(name)
        return embedded if embedded.fingerprint == curve.about.get("task") else None
    return None
