"""Regression: named numbers of notebook runs against committed baselines, each with its own tolerance.

A baseline is a folder `notebooks/baselines/<notebook>/` with `baseline.yaml` (parameters of the regression run and the
metrics with their tolerances) and the figures that belong to them. A notebook names its numbers with `save_metrics`;
the accuracies in a `summary.parquet` that a curve saved count without any further line.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat

import yaml

from lmops_lab.digests import DIGEST, digest_of
from lmops_lab.files import atomic_file, cache_folder, write_text
from lmops_lab.outside import parse_json, read_parquet, read_text, read_yaml
from lmops_lab.runs.grid import Job, Outcome, run_jobs
from lmops_lab.runs.notebook import find_notebook
from lmops_lab.runs.parameters import check_parameters, read_parameters

METRICS = "metrics.json"
BASELINES = Path("notebooks/baselines")
TOLERANCES = ("absolute", "relative", "statistical")
_FILE = "baseline.yaml"

# For metrics that a baseline does not hold yet: numbers of one program differ by rounding, not more.
_DEFAULT_ABSOLUTE = 1e-3


@dataclass(frozen=True)
class Metric:
    """A named number of a run, with its interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" ({self.low:.4g} to {self.high:.4g})"
        return f"{self.value:.6g}{interval}"


@dataclass(frozen=True)
class Expected:
    """A metric of a baseline and how far a run may be from it.

    Attributes:
        kind: "absolute" (|now - was| <= tolerance), "relative" (|now - was| <= tolerance * |was|) or "statistical"
            (now inside the baseline's interval).
        tolerance: not used by "statistical".
    """

    metric: Metric
    kind: str = "absolute"
    tolerance: float = _DEFAULT_ABSOLUTE

    def __post_init__(self) -> None:
        if self.kind not in TOLERANCES:
            raise ValueError(f"tolerance kind {self.kind!r} is unknown; choose among {', '.join(TOLERANCES)}")
        if self.kind == "statistical" and (self.metric.low is None or self.metric.high is None):
            raise ValueError(f"a statistical tolerance needs an interval; the baseline {self.metric.value} has none")
        if not (self.tolerance >= 0 and math.isfinite(self.tolerance)):
            raise ValueError(f"tolerance {self.tolerance} is not a number from 0")

    def allows(self, now: Metric) -> bool:
        """Whether a run's number agrees; a number that is not finite never does."""
        if not math.isfinite(now.value):
            return False
        if self.kind == "statistical":
            return bool(self.metric.low <= now.value <= self.metric.high)  # type: ignore[operator]
        scale = abs(self.metric.value) if self.kind == "relative" else 1.0
        # A hair more than the tolerance, so that 0.3 and 0.2 differ by 0.1.
        return abs(now.value - self.metric.value) <= self.tolerance * scale * (1 + 1e-9) + 1e-12

    def words(self) -> str:
        """The tolerance as a reader says it."""
        if self.kind == "statistical":
            return "inside the interval"
        return f"± {self.tolerance:g}" if self.kind == "absolute" else f"± {100 * self.tolerance:g} %"


@dataclass(frozen=True)
class Baseline:
    """What a notebook's regression run is made with and has to give."""

    parameters: Mapping[str, Any]
    metrics: Mapping[str, Expected]


@dataclass(frozen=True)
class Comparison:
    """One line of the table. `verdict` is "same", "regression", "missing" (from the run) or "new" (not a baseline)."""

    notebook: str
    name: str
    was: Expected | None
    now: Metric | None

    @property
    def verdict(self) -> str:
        """What to make of it."""
        if self.was is None:
            return "new"
        if self.now is None:
            return "missing"
        return "same" if self.was.allows(self.now) else "regression"

    @property
    def failed(self) -> bool:
        """Whether this line makes the whole check fail."""
        return self.verdict in ("regression", "missing")


@dataclass(frozen=True)
class Regression:
    """The comparison of one notebook: all its lines, or the error that ended its run, or why there was nothing to do.

    Attributes:
        outcome: what became of its run; None where it was not run, because it has no baseline.
        missing: what its baseline lacks, so that nothing was compared: "" (nothing), "folder" (it has none yet) or
            "file" (the folder is there without its numbers, which somebody has lost).
    """

    notebook: Path
    outcome: Outcome | None
    comparisons: tuple[Comparison, ...] = ()
    missing: str = ""

    @property
    def failed(self) -> bool:
        """Whether the run failed, any line did, or the baseline's numbers are lost; having none yet is no failure."""
        broken = self.outcome is not None and self.outcome.run is None
        return broken or self.missing == "file" or any(line.failed for line in self.comparisons)


def save_metrics(folder: Path | str, metrics: Mapping[str, SupportsFloat | Sequence[SupportsFloat]]) -> Path:
    """Write a notebook's named numbers for `lmops-lab regress`: a number, or (mean, low, high) with its interval.

    Raises:
        ValueError: anything else.
    """
    kept: dict[str, Any] = {}
    for name, value in metrics.items():
        parts = [float(v) for v in (value if isinstance(value, Sequence) else [value])]
        if len(parts) not in (1, 3) or not all(map(math.isfinite, parts)):
            raise ValueError(f"metric {name!r} is {value!r}; give one finite number, or (mean, low, high)")
        kept[name] = dict(zip(("value", "low", "high"), parts, strict=False))
    path = Path(folder) / METRICS
    write_text(path, json.dumps(kept, indent=1) + "\n")
    return path


def read_metrics(folder: Path) -> dict[str, Metric]:
    """All named numbers of a run folder: those of `metrics.json`, and the accuracies of a saved curve.

    Raises:
        ValueError: a file that holds something else.
    """
    found: dict[str, Metric] = {}
    summary = folder / "summary.parquet"
    if summary.is_file():
        table = read_parquet(summary)
        if {"method", "k", "calibration", "accuracy", "low", "high"} <= set(table.column_names):
            for row in table.to_pylist():
                name = f"accuracy {row['method']} k={row['k']} {row['calibration']}"
                found[name] = Metric(row["accuracy"], row["low"], row["high"])
    if (folder / METRICS).is_file():
        stored = parse_json(read_text(folder / METRICS), METRICS)
        try:
            for name, parts in stored.items():
                numbers: dict[str, Any] = {part: _number(number) for part, number in parts.items()}
                found[name] = Metric(**numbers)
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{METRICS} in {str(folder)!r} holds no named numbers ({error}); run it again") from error
    return found


def read_baseline(folder: Path) -> Baseline:
    """Read `baseline.yaml`.

    Raises:
        ValueError: naming the metric that cannot be read, or numbers that are not those that were measured.
    """
    path = folder / _FILE
    content = read_yaml(path)
    if not isinstance(content, dict) or not content or set(content) - {"parameters", "metrics", DIGEST}:
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"{path.parent.name}/{path.name} holds {found}; a baseline has parameters, metrics and {DIGEST}"
        )
    if not isinstance(content.get("metrics") or {}, dict):
        raise ValueError(f"the metrics of {path.parent.name}/{path.name} are no mapping of names")  # noqa: TRY004
    if not isinstance(content.get("parameters") or {}, dict):
        raise ValueError(f"the parameters of {path.parent.name}/{path.name} are no mapping of names")  # noqa: TRY004
    metrics: dict[str, Expected] = {}
    for name, entry in (content.get("metrics") or {}).items():
        try:
            if not isinstance(name, str):
                raise TypeError("its name is no text; put it between quotes")  # noqa: TRY301
            kinds = [kind for kind in TOLERANCES if kind in entry]
            if len(kinds) != 1:
                raise ValueError(f"it has {kinds or 'no tolerance'}; give one of {', '.join(TOLERANCES)}")  # noqa: TRY301
            kind = kinds[0]
            metric = Metric(float(entry["value"]), *(_number(entry.get(end)) for end in ("low", "high")))
            metrics[name] = Expected(metric, kind, 0.0 if kind == "statistical" else float(entry[kind]))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"metric {name!r} of {path.parent.name}/{path.name} cannot be read: {error}") from error
    if content.get(DIGEST, _digest(content.get("metrics") or {})) != _digest(content.get("metrics") or {}):
        raise ValueError(
            f"the numbers of {path.parent.name}/{path.name} are not those that were measured (wrong {DIGEST}); bring "
            f"the file back from version control, or remove its line {DIGEST!r} to go on with these"
        )
    return Baseline(content.get("parameters") or {}, metrics)


def _digest(metrics: Mapping[str, Any]) -> str:
    """Of the measured numbers alone: parameters and tolerances are written by hand."""
    return digest_of({name: [entry.get(part) for part in ("value", "low", "high")] for name, entry in metrics.items()})


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def write_baseline(folder: Path, baseline: Baseline) -> None:
    """Write `baseline.yaml`, in the order of the metrics."""
    metrics = {}
    for name, expected in baseline.metrics.items():
        parts = {"value": expected.metric.value, "low": expected.metric.low, "high": expected.metric.high}
        entry: dict[str, Any] = {key: round(part, 10) for key, part in parts.items() if part is not None}
        metrics[name] = entry | {expected.kind: True if expected.kind == "statistical" else expected.tolerance}
    # The digest comes before the numbers, so that it is not lost where the end of the file is.
    content = {"parameters": dict(baseline.parameters), DIGEST: _digest(metrics), "metrics": metrics}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    write_text(folder / _FILE, text)


def compare(notebook: str, baseline: Baseline, now: Mapping[str, Metric]) -> tuple[Comparison, ...]:
    """Every metric of the baseline, then those that only the run has."""
    names = dict.fromkeys([*baseline.metrics, *now])
    return tuple(Comparison(notebook, name, baseline.metrics.get(name), now.get(name)) for name in names)


def updated(baseline: Baseline, now: Mapping[str, Metric]) -> Baseline:
    """The baseline with the run's numbers: kinds and tolerances stay, missing metrics go, new ones come in.

    A new metric with an interval is compared statistically, another within 0.001.
    """
    metrics: dict[str, Expected] = {}
    for name in [*(n for n in baseline.metrics if n in now), *(n for n in now if n not in baseline.metrics)]:
        old, metric = baseline.metrics.get(name), now[name]
        if old is not None:
            metrics[name] = Expected(metric, old.kind, old.tolerance)
        else:
            metrics[name] = Expected(metric, "absolute" if metric.low is None else "statistical")
    return Baseline(baseline.parameters, metrics)


def regress(
    names: Sequence[str] = (),
    folder: Path = Path("runs/regress"),
    baselines: Path = BASELINES,
    *,
    processes: int = 1,
) -> list[Regression]:
    """Run notebooks on the parameters of their baselines, with an empty cache, and compare what they give.

    Args:
        names: notebooks as `find_notebook` takes them, run even without a baseline, so that `update` can make one; none
            means every notebook with a baseline, the others being listed without a run.
        folder: where the runs go; earlier ones there are replaced.

    Raises:
        FileNotFoundError: no such notebook, or no baseline at all.
    """
    found = [find_notebook(name, baselines.parent) for name in names] or sorted(baselines.parent.glob("*.ipynb"))
    without = [path for path in found if not names and not (baselines / path.stem).is_dir()]
    found = [path for path in found if path not in without]
    if not found:
        raise FileNotFoundError(f"there is no baseline in {baselines}; make one with regress NOTEBOOK --update")
    read = [_baseline_of(path, baselines) for path in found]
    jobs = [
        Job(path.resolve(), baseline.parameters, (folder / path.stem).resolve(), _fresh_cache(folder / path.stem))
        for path, baseline in zip(found, read, strict=True)
    ]
    for job in jobs:
        for stale in (*job.folder.glob("*.parquet"), *job.folder.glob("*.svg"), *job.folder.glob("*.json")):
            stale.unlink()
    try:
        outcomes = run_jobs(jobs, processes=processes)
    finally:
        for job in jobs:
            shutil.rmtree(job.environment["LMOPS_LAB_CACHE"], ignore_errors=True)
    results = []
    for path, baseline, outcome in zip(found, read, outcomes, strict=True):
        now = {} if outcome.run is None else read_metrics(outcome.job.folder)
        lines = compare(path.stem, baseline, now) if outcome.run else ()
        results.append(Regression(path, outcome, lines, _missing(baselines / path.stem)))
    return [*results, *(Regression(path, None, missing="folder") for path in without)]


def update(results: Sequence[Regression], baselines: Path = BASELINES) -> None:
    """Make the runs' numbers and figures the new baselines; failed runs change nothing."""
    for result in results:
        if result.outcome is not None and result.outcome.run is not None:
            folder = baselines / result.notebook.stem
            baseline = _baseline_of(result.notebook, baselines)
            write_baseline(folder, updated(baseline, read_metrics(result.outcome.job.folder)))
            for old in folder.glob("*.svg"):
                old.unlink()
            for figure in result.outcome.job.folder.glob("*.svg"):
                with atomic_file(folder / figure.name) as temporary:
                    temporary.write_bytes(figure.read_bytes())


def _baseline_of(notebook: Path, baselines: Path) -> Baseline:
    """The notebook's baseline, its parameters checked; an empty one where there is none yet."""
    folder = baselines / notebook.stem
    baseline = read_baseline(folder) if (folder / _FILE).is_file() else Baseline({}, {})
    check_parameters(read_parameters(notebook), baseline.parameters)
    return baseline


def _missing(folder: Path) -> str:
    return "" if (folder / _FILE).is_file() else "file" if folder.is_dir() else "folder"


def _fresh_cache(folder: Path) -> dict[str, str]:
    """A cache folder with converted weights and nothing else: stored points would hide a change."""
    home = (folder / ".cache").resolve()
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    weights = (cache_folder() / "weights").resolve()
    weights.mkdir(parents=True, exist_ok=True)
    (home / "weights").symlink_to(weights, target_is_directory=True)
    return {"LMOPS_LAB_CACHE": str(home)}
