"""A sweep's folder as results: its manifest, its finished cells, its table, its curves. No model is needed."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lmops_lab.digests import read_record
from lmops_lab.files import atomic_file, write_text
from lmops_lab.icl import cells, experiment
from lmops_lab.icl.cells import SETTINGS, Cell, CellStore
from lmops_lab.icl.curve import ZERO_SHOT, ICLCurve
from lmops_lab.icl.grid import Grid

FORMAT = "lmops-lab sweep 2"
MANIFEST, CELLS = "sweep.json", "cells"


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder as results: everything that is finished, complete or not."""

    folder: Path

    @property
    def grid(self) -> Grid:
        """What was asked for.

        Raises:
            FileNotFoundError, ValueError: no sweep here, or one of another version.
        """
        return Grid.of(read_manifest(self.folder)["grid"])

    def cells(self) -> Iterator[tuple[str, dict[str, Any], Cell]]:
        """Name, settings and scores of each finished cell, in the order of the grid."""
        store = CellStore(self.folder / CELLS)
        for name, settings in read_manifest(self.folder)["cells"].items():
            cell = store.read(name)
            if cell is not None:
                yield name, settings, cell

    def table(self, calibrations: Sequence[str] | None = None) -> pd.DataFrame:
        """One row a cell and calibration (default: those of the grid that it has): settings, accuracy, queries."""
        rows = []
        shown = calibrations or self.grid.calibration
        for name, settings, cell in self.cells():
            for calibration in shown if calibrations else [one for one in shown if one in cell.calibrations]:
                right = cell.calibrated(calibration).argmax(-1) == cell.gold
                found = {"accuracy": float(right.mean()), "queries": len(cell.gold), "groups": cell.cost.groups}
                columns = {column: settings.get(column) for column in SETTINGS}
                rows.append({**columns, "calibration": calibration, **found, "cell": name})
        table = pd.DataFrame(rows)
        names = ("seed", "group_size", "candidates", "tail")
        whole = {name: "Int64" for name in names if name in table}  # whole numbers, or not applicable
        return table.astype(whole)

    def write_table(self) -> None:
        """Write the table to table.parquet and table.csv in the folder."""
        table = self.table()
        with atomic_file(self.folder / "table.parquet") as temporary:
            table.to_parquet(temporary, index=False)
        write_text(self.folder / "table.csv", table.to_csv(index=False))

    def curve(self, **chosen: Any) -> ICLCurve:
        """The cells of one model, task and setting as a curve, with its intervals, differences and figure.

        >>> Sweep(folder).curve(task="sst2", own_weight="groups")  # doctest: +SKIP

        Args:
            chosen: values of settings (`SETTINGS`), as values or as text; points to which a setting does not apply
                belong to every choice.

        Raises:
            ValueError: a value that the sweep does not have, nothing fits, or more than one curve does.
        """
        planned = read_manifest(self.folder)["cells"].values()
        for name, value in chosen.items():
            if name not in SETTINGS:
                raise ValueError(f"there is no setting {name!r}; choose among {', '.join(SETTINGS)}")
            values = {settings.get(name) for settings in planned} - {None}
            if value is not None and not any(_same(value, one) for one in values):
                there = ", ".join(map(repr, sorted(values, key=str))) or "none"
                raise ValueError(f"no finished cell has {name} {value!r}; the values in this sweep are {there}")
        fitting = [
            (label, settings, cell)
            for label, settings, cell in self.cells()
            if all(settings.get(name) is None or _same(value, settings[name]) for name, value in chosen.items())
        ]
        if not fitting:
            raise ValueError(f"no finished cell has {chosen}")
        of_curve = [name for name in SETTINGS if name not in ("method", "k", "seed")]
        found = {name: {settings.get(name) for _, settings, _ in fitting} - {None} for name in of_curve}
        mixed = {name: values for name, values in found.items() if len(values) > 1}
        if mixed:
            raise ValueError(f"these cells are several curves; choose one value of each of {mixed}")
        known = [ZERO_SHOT, *experiment.METHODS]
        ordered = sorted((cell for _, _, cell in fitting), key=lambda c: (known.index(c.method), c.k, c.seed))
        about: dict[str, Any] = {name: next(iter(values), None) for name, values in found.items()}
        task = str(about["task"])
        about |= {"task_name": task, **self._fingerprints(fitting[0][0])}
        about |= {"k": sorted({c.k for c in ordered}), "methods": [*dict.fromkeys(c.method for c in ordered if c.k)]}
        about |= {"seeds": sorted({c.seed for c in ordered if c.k}), "queries": len(ordered[0].gold)}
        return ICLCurve(tuple(ordered), self.labels(task), about)

    def _fingerprints(self, name: str) -> dict[str, str]:
        """The very model and task that a cell was scored with; nothing where it does not say."""
        stored = CellStore(self.folder / CELLS).stored(name)
        config = stored.about["config"] if stored else {}
        return {part: config[part] for part in ("model", "task") if part in config}

    def labels(self, task: str) -> tuple[str, ...]:
        """Label names of a task in the order of its scores."""
        return tuple(read_manifest(self.folder)["labels"][task])


def _same(chosen: Any, value: Any) -> bool:
    """Whether a chosen value is that of a cell, which keeps some numbers as text: 1, 1.0 and "1" are the same."""
    if str(chosen) == str(value):
        return True
    try:
        return bool(float(chosen) == float(value))
    except (TypeError, ValueError):
        return False


def check_folder(folder: Path) -> None:
    """Refuse a folder whose cells another version computed: numbers of two versions do not belong in one table.

    Raises:
        ValueError: naming both.
    """
    if (folder / MANIFEST).exists():
        about = read_manifest(folder)
        versions = dict(zip(("lmops-lab", "torch", "transformers"), about["versions"], strict=False))
        if about["versions"] != list(experiment._versions()) or about["cell_format"] != cells.FORMAT:
            raise ValueError(
                f"the cells in {str(folder)!r} come from {versions} ({about['cell_format']}), but this is "
                f"{experiment._versions()} ({cells.FORMAT}); use a new folder, or install those versions to go on here"
            )


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a sweep's folder says of itself: grid, versions, names of its cells, labels.

    Raises:
        FileNotFoundError, ValueError: no sweep here, or one that this version cannot read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{str(folder)!r} holds no sweep ({MANIFEST})")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        fits = about["format"] == FORMAT and {"versions", "cell_format", "grid", "cells", "labels"} <= about.keys()
        about = read_record(path) if fits else about
        outside = [name for name in (about["cells"] if fits else ()) if not name.isidentifier() and not name.isalnum()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); its cells may be whole: remove that file and run the sweep again"
        ) from error
    if not fits:
        raise ValueError(f"{path} has format {about['format']!r}, this version reads {FORMAT!r}; use a new folder")
    if outside:  # names become paths
        raise ValueError(
            f"{path} lists the cell {outside[0]!r}, which is no cell's name; run the sweep again elsewhere"
        )
    return about
