"""Ask stored results in SQL: DuckDB over the Parquet files of finished cells."""

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lmops_lab.icl.cells import MARKS, SETTINGS, CellStore, Stored, read_about
from lmops_lab.icl.grid import nearest

VIEWS = {
    "cells": "one row a cell: settings, cost, file",
    "scores": "one row a cell, query and label: label log-probability (nats)",
    "answers": "one row a cell, query and calibration: gold, answer, correct",
}


# Columns that may be empty and are no floats for it.
_WHOLE = {"k": "Int64", "seed": "Int64", "group_size": "Int64", "order_seed": "Int64"}
_WHOLE |= {"candidates": "Int64", "tail": "Int64"}
_WHOLE |= {"balanced": "boolean", "flipped": "boolean"}

_QUOTED = [f'"{name}"' for name in SETTINGS]  # "order" is a word of SQL's own

# A row of `stored` holds the scores of all labels; gold is -1 where there is no right one. Of multiple choice, rows of
# lengths are left out, and so are choices that a question does not have.
_SCORES = f"""
select * from (
    select cell, {", ".join(f"about.{name}" for name in _QUOTED)}, query,
           case when gold >= 0 then labels[gold + 1] end as gold, unnest(labels) as label,
           unnest(scores) as log_probability
    from stored join about using (cell) where query >= {MARKS["unconditional"]}
) where not isnan(log_probability)
"""  # noqa: S608 - nothing but column names of this package


def query(sql: str, folders: Sequence[Path | str] = ("runs",)) -> pd.DataFrame:
    """The rows that a SQL statement gives over all finished cells in these folders and below.

    Three views are there: `cells` (settings, cost), `scores` (cell, query, label, log_probability) and `answers`
    (cell, query, calibration, gold, answer, correct), the last two with the settings of their cell ("order" in quotes:
    it is a word of SQL). For instance
    `select task, method, k, avg(correct::int) from answers where calibration = 'batch' group by all order by all`.

    Raises:
        FileNotFoundError: no finished cell.
        ValueError: SQL that DuckDB refuses, or no readable cell of this version.
    """
    found = _found(folders)
    with duckdb.connect() as database:
        shown = ", ".join(_QUOTED)
        database.register("about", _about(found))
        settled = f"select cell, {shown}, * exclude (cell, {shown}, labels) from about"  # noqa: S608 - as above
        database.execute(f"create view cells as {settled}")
        stored = [*_read(found)] if _names("scores", sql) or _names("answers", sql) else []
        if _names("scores", sql):
            columns = ["cell", "query", "gold", "scores"]
            tables = [one.table.select(columns).replace_schema_metadata() for one in stored]
            database.register("stored", pa.concat_tables(tables))
            database.execute(f"create view scores as {_SCORES}")
        if _names("answers", sql):
            database.register("answers", _answers(stored))
        try:
            return database.sql(sql).df()
        except (duckdb.CatalogException, duckdb.BinderException) as error:
            views = "; ".join(f"{name}: {what}" for name, what in VIEWS.items())
            raise ValueError(f"{str(error).strip()}\nThere are these views. {views}") from error
        except duckdb.Error as error:
            raise ValueError(str(error).strip()) from error
        except AttributeError as error:  # a statement that returns nothing
            raise ValueError(f"{sql!r} returns no rows; ask with select, describe or summarize") from error


def _names(view: str, sql: str) -> bool:
    """Whether a statement speaks of a view; the large ones are made only then."""
    return re.search(rf"\b{view}\b", sql, re.IGNORECASE) is not None


def find_cells(folders: Sequence[Path | str]) -> list[Path]:
    """Files of finished cells in folders and below, each cell once even where several folders hold it.

    Raises:
        FileNotFoundError: a folder that does not exist, or none with a cell of this version.
    """
    return [file for file, _ in _found(folders)]


def _found(folders: Sequence[Path | str]) -> list[tuple[Path, dict[str, Any]]]:
    """Files of finished cells and what they say of themselves; each file's end is read once."""
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    old = 0
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {str(folder)!r}; give the folder of a sweep or one above it")
        for path in sorted(folder.rglob("*.parquet")):
            if not re.fullmatch(r"[0-9a-f]{24}", path.stem):
                continue
            if path.stem in found:
                continue
            try:
                found[path.stem] = path, read_about(pq.read_schema(path).metadata or {}, path.stem)
            except (OSError, ValueError, KeyError, TypeError):  # pyarrow's own errors are ValueErrors
                old += 1
    if not found:
        where = ", ".join(map(str, folders))
        raise FileNotFoundError(
            f"no finished cell in {where}" + (f", but {old} that are damaged or of another version" if old else "")
        )
    return list(found.values())


def _about(found: Sequence[tuple[Path, dict[str, Any]]]) -> pd.DataFrame:
    rows = []
    for file, about in found:
        shown = {name: about["settings"].get(name) for name in SETTINGS}
        rest = {"queries": about["queries"], **about["cost"], "labels": about["labels"], "file": str(file)}
        rows.append({"cell": file.stem, **shown, **rest})
    return pd.DataFrame(rows).astype(_WHOLE)


def _read(found: Sequence[tuple[Path, dict[str, Any]]]) -> Iterator[Stored]:
    """The cells themselves, each checked; damaged ones are left out like missing ones, with a warning."""
    damaged = []
    for file, _ in found:
        stored = CellStore(file.parent).stored(file.stem)
        if stored is None:
            damaged.append(file)
        else:
            yield stored
    if damaged:
        some = ", ".join(str(file) for file in damaged[:3])
        if len(damaged) == len(found):
            raise FileNotFoundError(f"all {len(damaged)} cells are damaged ({some}); run their sweep again")
        warnings.warn(f"{len(damaged)} damaged cells are left out ({some}); run their sweep again", stacklevel=4)


def _answers(stored: Sequence[Stored]) -> pd.DataFrame:
    """One row a cell, calibration and query. Whole columns: a frame a cell would take most of the time."""
    columns: dict[str, list[Any]] = {name: [] for name in ("calibration", "query", "gold", "answer", "correct")}
    settled: list[tuple[Any, ...]] = []
    for cell, table, about in stored:
        labels = np.array(about["labels"] or [str(i) for i in range(cell.scores.shape[1])])
        for calibration in cell.calibrations:
            answer = cell.calibrated(calibration).argmax(-1)
            columns["calibration"].append(calibration)
            columns["query"].append(cell.queries)
            columns["gold"].append(labels[cell.gold])
            columns["answer"].append(labels[answer])
            columns["correct"].append(answer == cell.gold)
            settled.append((table["cell"][0].as_py(), *(about["settings"].get(name) for name in SETTINGS)))
    counts = [len(part) for part in columns["query"]]
    first = pd.DataFrame(settled, columns=["cell", *SETTINGS]).astype(_WHOLE)
    first["calibration"] = columns.pop("calibration")
    frame = first.loc[np.repeat(first.index, counts)].reset_index(drop=True)
    for name, parts in columns.items():
        frame[name] = np.concatenate(parts)
    return frame


def format_results(sql: str, folders: Sequence[Path | str], form: str = "text") -> str:
    """The rows of `query` as text, CSV or JSON lines.

    Raises:
        ValueError: an unknown form, or what `query` refuses.
    """
    forms = ("text", "csv", "json")
    if form not in forms:
        raise ValueError(f"format {form!r} is unknown; {nearest(form, forms)}")
    frame = query(sql, folders)
    if form == "csv":
        return frame.to_csv(index=False).rstrip()
    if form == "json":
        return frame.to_json(orient="records", lines=True).rstrip()
    return frame.to_string(index=False)
