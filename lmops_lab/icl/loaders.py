"""Read labelled rows from JSONL, CSV and Parquet files and from `datasets`, each with the place it came from."""

import csv
import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from lmops_lab.outside import read_parquet

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
            table = read_parquet(path)
            rows = [(f"{path.name} row {i}", row) for i, row in enumerate(table.to_pylist(), 1)]
        else:
            raise ValueError(f"{path.name} has suffix {path.suffix!r}; readable are {', '.join(SUFFIXES)}")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text ({error}); save it as UTF-8") from error
    except (pa.ArrowException, OverflowError) as error:  # dates beyond Python's
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


class Loaded(NamedTuple):
    """Rows by split, and the class names of every column that has them, in the data's own order."""

    splits: dict[str, Rows]
    class_names: dict[str, tuple[str, ...]]


def load_data(where: str | Path, config: str | None = None, *, limits: Mapping[str, int] | None = None) -> Loaded:
    """Rows of a local file or folder, or of a `datasets` dataset by name.

    A folder that holds Parquet files anywhere is read by `datasets`, so that class names and configurations are those
    of the original; other local data by this module.

    Args:
        where: a path or a dataset's name.
        config: configuration of a dataset.
        limits: split -> at most so many of its rows, drawn with seed 1; splits not named stay empty. None reads all.

    Raises:
        ValueError: a malformed file, or a dataset that cannot be found or reached.
        FileNotFoundError: a path that does not exist.
    """
    path = Path(where).expanduser()
    local = isinstance(where, Path) or str(where).startswith((".", "/", "~")) or path.suffix in SUFFIXES
    if local and not path.exists():
        raise FileNotFoundError(f"there is no data at {str(where)!r}; give an existing file or folder")
    if path.is_file() or (path.is_dir() and not any(path.rglob("*.parquet"))):
        splits = load_local_splits(path)
        if limits is not None:
            chosen = {split: drawn_rows(len(rows), limits.get(split, 0)) for split, rows in splits.items()}
            splits = {split: [rows[i] for i in chosen[split]] for split, rows in splits.items()}
        return Loaded(splits, {})
    loaded = _load_dataset(str(path) if path.is_dir() else str(where), config)
    splits, class_names = {}, {}
    for split, data in loaded.items():
        names = {column: tuple(f.names) for column, f in data.features.items() if getattr(f, "names", None)}
        class_names.update(names)
        drawn = drawn_rows(len(data), len(data) if limits is None else limits.get(str(split), 0))
        kept = data if len(drawn) == len(data) else data.select(drawn)
        splits[str(split)] = [
            (f"{where} {split} row {number + 1}", _named(row, names)) for number, row in zip(drawn, kept, strict=True)
        ]
    return Loaded(splits, class_names)


def load_hub_splits(name: str, config: str | None = None) -> dict[str, Rows]:
    """Rows by split of a `datasets` dataset; class numbers become the dataset's own label names.

    Raises:
        ValueError: the dataset cannot be found or reached.
    """
    return load_data(name, config).splits


def _load_dataset(name: str, config: str | None) -> Any:  # a datasets.DatasetDict, imported late
    import datasets

    try:
        try:
            return datasets.load_dataset(name, config)
        except RuntimeError as error:
            # Older datasets of the Hub are Python scripts, which the library no longer runs; the Hub keeps their rows
            # as Parquet on a branch of its own.
            if "scripts are no longer supported" not in str(error):
                raise
            return datasets.load_dataset(name, config, revision="refs/convert/parquet")
    except Exception as error:  # the library raises many kinds, from network to parsing
        raise ValueError(
            f"dataset {name!r} (config {config!r}) cannot be loaded: {error}. Check the name and the network, or give "
            "a local file or folder (of a published task as data=, for instance what has to be downloaded by hand)"
        ) from error


def drawn_rows(rows: int, limit: int) -> list[int]:
    """Numbers of at most `limit` rows, drawn with the seed of the reference (1), in their own order."""
    if rows <= limit:
        return list(range(rows))
    return sorted(np.random.default_rng(1).permutation(rows)[:limit].tolist())


def _named(row: Mapping[str, Any], names: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """The row with class numbers as names; -1, the usual mark of a hidden label, stays."""
    return {
        column: names[column][value] if column in names and isinstance(value, int) and value >= 0 else value
        for column, value in row.items()
    }


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint such as "; did you mean 'template'?", or nothing where no known word is close.

    >>> nearest("tempalte", ["template", "labels"])
    "; did you mean 'template'?"
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
