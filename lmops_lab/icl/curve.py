"""The accuracy curve: in-context-learning accuracy against the number of demonstrations, with its uncertainty."""

import functools
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lmops_lab.digests import DamagedRecordError, check_files, file_digests, read_record, write_record
from lmops_lab.files import atomic_file
from lmops_lab.icl.calibration import calibrate
from lmops_lab.icl.cells import Cell, parts_of, rows_of
from lmops_lab.icl.statistics import Interval, accuracies, accuracy, paired_difference, paired_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ZERO_SHOT = "zero-shot"


@dataclass(frozen=True, eq=False)
class ICLCurve:
    """Stored answers of all points of a curve, and everything that can be read off them without the model.

    Attributes:
        cells: one per method, k and seed.
        labels: label names in the order of the scores.
        about: model, task, settings and versions.
        skipped: (method, k, reason) of points that could not exist, or not for the seeds that the reason names.
    """

    cells: tuple[Cell, ...]
    labels: tuple[str, ...]
    about: Mapping[str, Any]
    skipped: tuple[tuple[str, int, str], ...] = ()

    def points(self) -> list[tuple[str, int]]:
        """(method, k) of every point, methods in the order asked for, k ascending."""
        return list(self._by_point)

    def correct(self, method: str, k: int, calibration: str = "raw") -> NDArray[np.bool_]:
        """Which queries were answered right: [seeds, queries].

        Raises:
            ValueError: no such point or calibration.
        """
        return self.answers(method, k, calibration) == self._at(method, k)[0].gold

    def correct_at(self, points: Sequence[tuple[str, int]], calibration: str = "raw") -> list[NDArray[np.bool_]]:
        """What `correct` says of each of these points, thousands of them in one step.

        Raises:
            ValueError: no such point or calibration.
        """
        cells = [self._at(*point) for point in points]
        scores = iter(_calibrated([cell for of_point in cells for cell in of_point], calibration))
        return [np.stack([next(scores).argmax(-1) for _ in of_point]) == of_point[0].gold for of_point in cells]

    def answers(self, method: str, k: int, calibration: str = "raw") -> NDArray[np.int64]:
        """The answered label's index: [seeds, queries]."""
        return self.scores(method, k, calibration).argmax(-1)

    def scores(self, method: str, k: int, calibration: str = "raw") -> NDArray[np.floating]:
        """Calibrated scores [seeds, queries, labels], nats up to a constant a row."""
        cells = self._at(method, k)
        return np.stack(_calibrated(cells, calibration))

    def seeds(self, method: str, k: int) -> list[int]:
        """Seeds of a point, in the order of the rows of `correct`."""
        return [cell.seed for cell in self._at(method, k)]

    def accuracy(self, method: str, k: int, calibration: str = "raw") -> Interval:
        """Accuracy with its 95 % interval over seeds and queries."""
        return accuracy(self.correct(method, k, calibration))

    def difference(
        self, left: tuple[str, int], right: tuple[str, int], calibration: str | tuple[str, str] = "raw"
    ) -> Interval:
        """Accuracy at point `left` minus accuracy at point `right`, paired on queries and on the seeds that both have.

        Raises:
            ValueError: no such point or calibration, or no seed in common.
        """
        of_left, of_right = (calibration, calibration) if isinstance(calibration, str) else calibration
        rows = self.paired_rows(left, right)
        return paired_difference(self.correct(*left, of_left)[rows[0]], self.correct(*right, of_right)[rows[1]])

    def paired_rows(self, left: tuple[str, int], right: tuple[str, int]) -> tuple[list[int], list[int]]:
        """Rows of `correct` at both points that belong to the same seeds; zero-shot's one row goes with every seed.

        Raises:
            ValueError: no such point, or no seed in common.
        """
        return paired_rows(self._drawn_by(left), self._drawn_by(right))

    def can_pair(self, left: tuple[str, int], right: tuple[str, int]) -> bool:
        """Whether two points have a seed in common; zero-shot goes with every seed."""
        seeds = self._drawn_by(left), self._drawn_by(right)
        return seeds[0] is None or seeds[1] is None or not {*seeds[0]}.isdisjoint(seeds[1])

    @functools.cached_property
    def calibrations(self) -> tuple[str, ...]:
        """Names of the calibrations that every point has the inputs for."""
        return tuple(n for n in self.cells[0].calibrations if all(n in cell.calibrations for cell in self.cells))

    @property
    def gold(self) -> NDArray[np.int64]:
        """Index of the right label of each query."""
        return self.cells[0].gold

    @property
    def majority(self) -> float:
        """Accuracy of always answering the queries' most frequent label."""
        return float(np.bincount(self.gold).max() / len(self.gold))

    def to_frame(self, calibrations: Sequence[str] | None = None) -> pd.DataFrame:
        """One row per method, k and calibration (default: all there are): accuracy, interval, spread of seeds, cost."""
        rows = []
        points = self.points()
        names = list(self.calibrations if calibrations is None else calibrations)
        correct = {name: self.correct_at(points, name) for name in names}
        estimates = {name: accuracies(correct[name]) for name in names}
        for number, (method, k) in enumerate(points):
            cells = self._at(method, k)
            for calibration in names:
                estimate = estimates[calibration][number]
                by_seed = correct[calibration][number].mean(1)
                rows.append(
                    {
                        "method": method,
                        "k": k,
                        "calibration": calibration,
                        "accuracy": estimate.mean,
                        "low": estimate.low,
                        "high": estimate.high,
                        "seed_min": float(by_seed.min()),
                        "seed_max": float(by_seed.max()),
                        "seeds": len(cells),
                        "queries": len(cells[0].gold),
                        "groups": round(float(np.mean([c.cost.groups for c in cells]))),
                        "context_tokens": round(float(np.mean([c.cost.context_tokens for c in cells]))),
                        "encode_s": float(np.mean([c.cost.encode_s for c in cells])),
                        "query_ms": float(np.mean([1e3 * c.cost.score_s / len(c.gold) for c in cells])),
                        "kv_mb": float(np.mean([c.cost.kv_bytes / 1e6 for c in cells])),
                    }
                )
        return pd.DataFrame(rows)

    def to_long_frame(self) -> pd.DataFrame:
        """One row per method, k, seed, query and label: the stored log-probabilities (nats)."""
        frames = []
        for cell in self.cells:
            asked, scores = rows_of(cell)
            free, labels = len(asked) - len(cell.queries), len(self.labels)
            frames.append(
                pd.DataFrame(
                    {
                        "method": cell.method,
                        "k": cell.k,
                        "seed": cell.seed,
                        "query": np.repeat(asked, labels),
                        "gold": np.repeat([*(self.labels[i] for i in cell.gold), *[""] * free], labels),
                        "label": np.tile(self.labels, len(scores)),
                        "log_probability": scores.ravel(),
                    }
                )
            )
        return pd.concat(frames, ignore_index=True)

    @property
    def usual(self) -> str:
        """The calibration that is shown where none is named: "batch" where labels are fixed, else "raw"."""
        return "batch" if "batch" in self.calibrations else "raw"

    def plot(self, calibration: str | None = None, **options: Any) -> "Figure":
        """The curve as a matplotlib figure (see `lmops_lab.icl.figure.plot_curve`); default calibration: `usual`."""
        from lmops_lab.icl.figure import plot_curve

        return plot_curve(self, calibration or self.usual, **options)

    def cost_saved(self) -> str:
        """What sharing encodings saved, as arithmetic in words (see `lmops_lab.icl.saving`)."""
        from lmops_lab.icl.saving import cost_saved

        return cost_saved(self.about)

    def save(self, folder: Path | str, calibration: str | None = None) -> dict[str, Path]:
        """Write results.parquet, summary.parquet, manifest.json, curve.png and curve.svg.

        Returns:
            Names of the files and where they are.
        """
        from lmops_lab.icl.figure import write_figure

        folder = Path(folder)
        paths = {name: folder / name for name in ("results.parquet", "summary.parquet", "manifest.json")}
        for name, frame in (("results.parquet", self.to_long_frame()), ("summary.parquet", self.to_frame())):
            with atomic_file(paths[name]) as temporary:
                frame.to_parquet(temporary, index=False)
        figure = self.plot(calibration)
        for suffix in ("png", "svg"):
            paths[f"curve.{suffix}"] = folder / f"curve.{suffix}"
            with atomic_file(paths[f"curve.{suffix}"]) as temporary:
                write_figure(figure, temporary, suffix)
        manifest = {
            "about": dict(self.about),
            "labels": list(self.labels),
            "skipped": [list(entry) for entry in self.skipped],
            "versions": versions(),
            "costs": [
                {"method": c.method, "k": c.k, "seed": c.seed, **vars(c.cost), "queries": len(c.gold)}
                for c in self.cells
            ],
        }
        manifest["files"] = file_digests({name: path for name, path in paths.items() if path.suffix == ".parquet"})
        write_record(paths["manifest.json"], manifest)
        return paths

    @classmethod
    def load(cls, folder: Path | str) -> "ICLCurve":
        """Read back what `save` wrote.

        Raises:
            FileNotFoundError: no saved curve in this folder.
            DamagedRecordError: (a ValueError) the manifest or the results are not what was written.
        """
        folder = Path(folder)
        if not (folder / "manifest.json").is_file():
            raise FileNotFoundError(
                f"{str(folder)!r} holds no saved curve (manifest.json); run icl_curve(...).save there"
            )
        manifest = read_record(folder / "manifest.json")
        try:
            check_files(folder, {"results.parquet": "", **manifest["files"]})
            return cls._of(manifest, pq.read_table(folder / "results.parquet").to_pandas())
        except DamagedRecordError:
            raise
        except (TypeError, ValueError, LookupError, AttributeError, pa.ArrowException) as error:
            raise DamagedRecordError(
                f"{str(folder)!r} holds no saved curve of this version ({type(error).__name__}: {error})"
            ) from error

    @classmethod
    def _of(cls, manifest: Mapping[str, Any], long: pd.DataFrame) -> "ICLCurve":
        """A curve from what its two files hold."""
        from lmops_lab.icl.cells import Cost

        labels = tuple(manifest["labels"])
        if isinstance(manifest["labels"], str) or not all(isinstance(name, str) for name in labels):
            raise ValueError(f"labels are {str(manifest['labels'])[:80]}; they are texts")
        if len(set(labels)) < len(labels):
            raise ValueError("a label occurs twice")
        parts = dict(list(long.groupby(["method", "k", "seed"], sort=False)))
        cells = []
        for cost in manifest["costs"]:
            key = {name: cost[name] for name in ("method", "k", "seed")}
            rows = parts[cost["method"], cost["k"], cost["seed"]]
            scores = np.stack([rows[rows.label == name]["log_probability"].to_numpy() for name in labels], axis=1)
            first = rows[rows.label == labels[0]]
            asked = first["query"].to_numpy()
            real = asked >= 0
            gold = np.array([labels.index(g) for g in first["gold"][real]], dtype=np.int64)
            spent = Cost(**{name: cost[name] for name in Cost.__dataclass_fields__})
            if wrong := [name for name, value in vars(spent).items() if not np.isfinite(value)]:
                raise ValueError(f"{wrong[0]} of {key} is no finite number")
            cells.append(Cell(**key, **parts_of(asked, scores), gold=gold, queries=asked[real], cost=spent))
        if not cells:
            raise ValueError("it has no point")
        return cls(tuple(cells), labels, manifest["about"], tuple(tuple(s) for s in manifest["skipped"]))

    def _at(self, method: str, k: int) -> list[Cell]:
        if (method, k) not in self._by_point:
            raise ValueError(f"the curve has no point {method!r} at k = {k}; its points are {self.points()}")
        return self._by_point[method, k]

    def _drawn_by(self, point: tuple[str, int]) -> list[int] | None:
        """Seeds of a point; None where nothing is drawn."""
        seeds = self.seeds(*point)
        return None if point[1] == 0 and len(seeds) == 1 else seeds

    @functools.cached_property
    def _by_point(self) -> dict[tuple[str, int], list[Cell]]:
        points: dict[tuple[str, int], list[Cell]] = {}
        for cell in self.cells:
            points.setdefault((cell.method, cell.k), []).append(cell)
        return points


def _calibrated(cells: Sequence[Cell], calibration: str) -> list[NDArray[np.floating]]:
    """Calibrated scores of each cell, in one step where all have the same shape and fixed labels."""
    parts = [[getattr(cell, part) for cell in cells] for part in ("scores", "content_free", "domain")]
    alike = all(len({array.shape for array in part}) == 1 for part in parts)
    if alike and not cells[0].multiple_choice:
        scores, content_free, domain = map(np.stack, parts)
        return list(calibrate(calibration, scores, content_free, domain if domain.size else None))
    return [cell.calibrated(calibration) for cell in cells]


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("lmops-lab", "torch", "transformers", "tokenizers", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
