"""Read labelled rows from JSONL, CSV and Parquet files and from `datasets`, each with the place it came from."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Rows = list[tuple[str, Mapping[str, Any]]]
SUFFIXES = (".jsonl", ".csv", ".parquet")

# Of a single file, this share of rows (drawn with a fixed seed) becomes queries; the others are demonstrations.
_TEST_SHARE = 0.25


def load_local_splits(where: Path | Sequence[tuple[str, Path]]) -> dict[str, Rows]:
    """Rows by split of a file, of a folder with one file a split (train.jsonl, test.jsonl, ...), or of named files.

    A single file has no splits of its own: a quarter of its rows, drawn with a fixed seed, goes to "test".

    Raises:
        ValueError: an unknown suffix, a folder without data, a malformed row (with file and line).
    """
    if not isinstance(where, Path):
        return {split: read_rows(path) for split, path in where}
    if where.is_dir():
        files = sorted(path for path in where.iterdir() if path.suffix in SUFFIXES)
        if not files:
            raise ValueError(f"folder {str(where)!r} holds none of {', '.join(SUFFIXES)}; name files after their split")
        stems = [path.stem for path in files]
        twice = [path.name for path in files if stems.count(path.stem) > 1]
        if twice:
            raise ValueError(f"folder {str(where)!r} holds one split in several files: {twice}; keep one of them")
        return {path.stem: read_rows(path) for path in files}
    rows = read_rows(where)
    order = np.random.default_rng(0).permutation(len(rows))
    for_test = set(order[: round(_TEST_SHARE * len(rows))].tolist())
    return {
        "train": [row for i, row in enumerate(rows) if i not in for_test],
        "test": [row for i, row in enumerate(rows) if i in for_test],
    }


def read_rows(path: Path) -> Rows:
    """All rows of one file with their place ("train.jsonl line 7").

    Raises:
        ValueError: an unknown suffix, an empty file, or a malformed row (with its line).
    """
    try:
        if path.suffix == ".jsonl":
            rows = _read_jsonl(path)
        elif path.suffix == ".csv":
            rows = _read_csv(path)
        elif path.suffix == ".parquet":
            table = pq.read_table(path)
            rows = [(f"{path.name} row {i}", row) for i, row in enumerate(table.to_pylist(), 1)]
        else:
            raise ValueError(f"{path.name} has suffix {path.suffix!r}; readable are {', '.join(SUFFIXES)}")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text ({error}); save it as UTF-8") from error
    except pa.ArrowException as error:
        raise ValueError(f"{path.name} is not a readable Parquet file ({error})") from error
    if not rows:
        raise ValueError(f"{path.name} holds no rows")
    return rows


def _read_jsonl(path: Path) -> Rows:
    rows: Rows = []
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise ValueError(f"{path.name} line {number} is not JSON ({error}): {line.strip()[:80]!r}") from error
            if not isinstance(row, dict):
                raise ValueError(  # noqa: TRY004
                    f"{path.name} line {number} is a {type(row).__name__}, not an object: {line[:80]!r}"
                )
            rows.append((f"{path.name} line {number}", row))
    return rows


def _read_csv(path: Path) -> Rows:
    rows: Rows = []
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    count = len(row) + len(row.get(None) or ()) - (None in row) - list(row.values()).count(None)
                    raise ValueError(
                        f"{path.name} line {reader.line_num} has {count} cells, the header has "
                        f"{len(reader.fieldnames or ())}; quote commas inside a cell"
                    )
                rows.append((f"{path.name} line {reader.line_num}", row))
        except csv.Error as error:
            raise ValueError(f"{path.name} line {reader.line_num} is not CSV ({error})") from error
    return rows


def load_hub_splits(name: str, config: str | None = None) -> dict[str, Rows]:
    """Rows by split of a `datasets` dataset; class numbers become the dataset's own label names.

    Raises:
        ValueError: the dataset cannot be found or reached.
    """
    import datasets

    try:
        loaded = datasets.load_dataset(name, config)
    except Exception as error:  # the library raises many kinds, from network to parsing
        raise ValueError(
            f"dataset {name!r} (config {config!r}) cannot be loaded: {error}. Check the name and the network, or give "
            "a local file or folder"
        ) from error
    return {str(split): _dataset_rows(data, f"{name} {split}") for split, data in loaded.items()}


def _dataset_rows(data: Any, where: str) -> Rows:  # a datasets.Dataset, imported late
    names = {column: f.names for column, f in data.features.items() if hasattr(f, "names")}
    rows: Rows = []
    for number, row in enumerate(data, 1):
        named = {
            column: names[column][value] if column in names and isinstance(value, int) and value >= 0 else value
            for column, value in row.items()
        }
        rows.append((f"{where} row {number}", named))
    return rows
