"""Open questions against the number of demonstrations: answers are stored once, exact match and F1 read from them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lmops_lab.attention.context import BosPolicy, OwnWeight
from lmops_lab.digests import DamagedRecordError, read_record, write_record
from lmops_lab.files import cache_folder
from lmops_lab.icl.answers import first_line, score_answers
from lmops_lab.icl.curve import ZERO_SHOT
from lmops_lab.icl.draws import Draw
from lmops_lab.icl.experiment import collect, settings
from lmops_lab.icl.metrics import Measured
from lmops_lab.icl.plan import DOUBLE, make_plan
from lmops_lab.icl.pools import Point, Pool
from lmops_lab.icl.scoring import Encoded
from lmops_lab.icl.statistics import Interval, accuracy, difference_interval, paired_rows, share_bounds
from lmops_lab.icl.tasks import Task
from lmops_lab.models import LanguageModel

FORMAT = "lmops-lab answers 1"
METRICS = ("exact", "f1")
_BATCH = 8  # questions of one forward pass


@dataclass(frozen=True, eq=False)
class OpenCurve:
    """Answers to the same questions at every point, and what can be read from them without the model.

    Attributes:
        predictions: (method, k, seed) -> the first line of the answer to each question.
        aliases: accepted answers of each question.
        skipped: (method, k) of points that could not exist, or not for the seeds that the reason names -> why.
    """

    predictions: Mapping[tuple[str, int, int], tuple[str, ...]]
    aliases: tuple[tuple[str, ...], ...]
    skipped: Mapping[tuple[str, int], str]

    def points(self) -> list[tuple[str, int]]:
        """(method, k) of every point, in the order they were run."""
        return list(dict.fromkeys((method, k) for method, k, _ in self.predictions))

    def scores(self, method: str, k: int, metric: str = "exact") -> NDArray[np.float64]:
        """Exact match or F1 of every answer: [seeds, questions].

        Raises:
            ValueError: no such point or metric.
        """
        if metric not in METRICS or (method, k) not in self.points():
            raise ValueError(f"there is no {metric!r} at {method!r}, k = {k}; metrics are {METRICS}: {self.points()}")
        answers = [said for at, said in self.predictions.items() if at[:2] == (method, k)]
        return np.stack([getattr(score_answers(said, self.aliases), metric) for said in answers])

    def seeds(self, method: str, k: int) -> list[int]:
        """Seeds of a point, in the order of the rows of `scores`."""
        return [seed for name, number, seed in self.predictions if (name, number) == (method, k)]

    def difference(self, left: tuple[str, int], right: tuple[str, int], metric: str = "exact") -> Interval:
        """Mean at `left` minus mean at `right`, paired on questions and on the seeds that both have.

        Raises:
            ValueError: no such point or metric, or no seed in common.
        """
        of_left, of_right = self.scores(*left, metric), self.scores(*right, metric)
        drawn = [self.seeds(*point) if point[1] else None for point in (left, right)]
        rows = paired_rows(drawn[0], drawn[1])
        return difference_interval(of_left[rows[0]] - of_right[rows[1]])

    def to_frame(self) -> pd.DataFrame:
        """One row a method, k and metric: mean with its 95 % interval over seeds and questions."""
        rows = []
        for method, k in self.points():
            for metric in METRICS:
                table = self.scores(method, k, metric)
                found = accuracy(table > 0) if metric == "exact" else _interval(table)
                size = {"seeds": len(table), "questions": len(self.aliases)}
                rows.append({"method": method, "k": k, "metric": metric, **found._asdict(), **size})
        return pd.DataFrame(rows)


def _interval(table: NDArray[np.float64]) -> Interval:
    """Mean of F1 [seeds, questions] with its interval over seeds and questions."""
    if np.ptp(table) > 0:
        return Measured(table.mean(1), table, (0.0, 1.0)).interval()
    # Values that are all alike have no spread and would claim certainty. No numbers between 0 and 1 spread more than
    # right and wrong answers of the same mean, so the interval of such a share is wide enough.
    return Interval(*(float(bound) for bound in share_bounds(table[:1])))


def open_curve(
    lm: LanguageModel,
    task: Task,
    *,
    k: Sequence[int] = (0, 4, 16, 64),
    methods: Sequence[str] = ("structured", "sequential"),
    seeds: int | Sequence[int] = 3,
    queries: int = 100,
    group_size: int = 16,
    bos: BosPolicy = "none",
    own_weight: OwnWeight = "groups",
    max_new_tokens: int = 16,
    folder: Path | str | None = None,
    progress: bool = True,
) -> OpenCurve:
    """Exact match and F1 of an open-ended task against the number of demonstrations, answered greedily.

    Encodings are shared like those of `icl_curve`, and every finished point is kept in `folder` at once: call again
    after Ctrl-C, and only what is missing is asked.

    Args:
        methods: "structured" and "sequential".
        max_new_tokens: of an answer, of which the first line counts.

    Raises:
        ValueError: a task of another kind, another method, or whatever `icl_curve` refuses.
    """
    others = [method for method in methods if method not in ("structured", "sequential")]
    if others:
        raise ValueError(f"methods are {list(methods)}; answers are generated by 'structured' and 'sequential' alone")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; an answer has 1 or more")
    asked = settings(k, methods, seeds, queries, group_size, bos, [own_weight], Draw(balanced=False), domain=0)
    plan = make_plan(lm, task, replace(asked, answer_tokens=max_new_tokens))
    place = Path(folder) if folder else cache_folder() / "answers"
    found = collect(
        lambda _: _answered(lm, plan.pools, place, max_new_tokens), plan, f"{task.name} answers", place, progress
    )
    predictions = {(point.method, point.k, point.seed): said for point, said in found}
    order = (ZERO_SHOT, *plan.methods)
    ordered = dict(sorted(predictions.items(), key=lambda at: (order.index(at[0][0]), *at[0][1:])))
    return OpenCurve(ordered, tuple(task.test[i].answers for i in plan.questions.places), plan.skipped)


def _answered(
    lm: LanguageModel, pools: Sequence[Pool], folder: Path, tokens: int
) -> Iterator[tuple[Point, tuple[str, ...]]]:
    """Every point's answers, from disk where they are finished; a damaged file is written again."""
    for pool in pools:
        encoded = Encoded(lm, pool)
        for point in pool.points:
            path = folder / f"{point.name}.json"
            said = _read(path, len(pool.questions.places))
            if said is None:
                said = _generate(encoded, point, tokens)
                record: dict[str, Any] = {"format": FORMAT, "predictions": list(said)}
                write_record(path, record | {"settings": dict(point.settings), "config": dict(point.config)})
            yield point, said


def _read(path: Path, count: int) -> tuple[str, ...] | None:
    try:
        record = read_record(path)
    except (OSError, DamagedRecordError):
        return None
    said = record.get("predictions")
    return tuple(said) if record.get("format") == FORMAT and isinstance(said, list) and len(said) == count else None


def _generate(encoded: Encoded, point: Point, tokens: int) -> tuple[str, ...]:
    lm, texts = encoded.lm, encoded.pool.questions.texts
    context, _, _ = encoded.context(point)
    weight: OwnWeight = 1
    if point.method == "structured" and context is not None:
        weight = 2.0 * context.groups if point.own_weight == DOUBLE else point.own_weight
    said: list[str] = []
    for start in range(0, len(texts), _BATCH):
        batch = list(texts[start : start + _BATCH])
        said += lm.generate(batch, context=context, own_weight=weight, max_new_tokens=tokens)
    return tuple(map(first_line, said))
