"""Finished points of a curve on disk: one Parquet file each, found by the content it depends on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lmops_lab.digests import digest_of
from lmops_lab.files import atomic_file, write_text
from lmops_lab.icl.calibration import CALIBRATIONS, calibrate
from lmops_lab.icl.choices import READINGS, ChoiceScores

FORMAT = "lmops-lab cell 4"

# What stands in the column "query" of rows that are no queries' scores: those of inputs without content and of random
# in-domain texts; and of multiple choice, query by query, log-probabilities of the choices alone and their lengths.
CONTENT_FREE_ROW, DOMAIN_ROW = -1, -2
MARKS = {"content_free": CONTENT_FREE_ROW, "domain": DOMAIN_ROW, "unconditional": -3, "tokens": -4, "characters": -5}

# What identifies a cell to a reader, as columns of its file, with their Arrow types. Empty where a setting has no
# bearing: a zero-shot point has no seed, one long prompt no group size.
SETTINGS = {
    "model": pa.string(),
    "task": pa.string(),
    "method": pa.string(),
    "k": pa.int64(),
    "seed": pa.int64(),
    "group_size": pa.int64(),
    "own_weight": pa.string(),
    "bos": pa.string(),
    "balanced": pa.bool_(),
    "order": pa.string(),
    "corruption": pa.float64(),
    "flipped": pa.bool_(),
    "order_seed": pa.int64(),
    "selection": pa.string(),
    "candidates": pa.int64(),
    "similarity": pa.string(),
    "tail": pa.int64(),
}


@dataclass(frozen=True)
class Cost:
    """What one point took.

    Attributes:
        encode_s: seconds to encode, or to read from the cache, the context that this point is cut from; where queries
            choose their demonstrations, with the seconds to choose, and to encode what is each query's own.
        score_s: seconds to score its queries.
        context_tokens: tokens a query could attend to before its own, a mean where queries choose.
        kv_bytes: bytes of keys and values that a query uses at the most.
        groups: M.
        group_hits: groups read from the cache instead of encoded.
    """

    encode_s: float
    score_s: float
    context_tokens: int
    kv_bytes: int
    groups: int
    group_hits: int = 0


def _nothing() -> NDArray[np.float32]:
    return np.zeros((0, 0), np.float32)


@dataclass(frozen=True, eq=False)
class Cell:
    """All scores of one point: a method, a number of demonstrations and a seed.

    Attributes:
        scores: label log-probabilities [queries, labels], nats, summed over label tokens; of multiple choice those of
            the choices, NaN where a question has fewer than others.
        content_free: the same for the inputs without content.
        gold: index of the right label of each query.
        queries: index of each query in the task's test examples.
        domain: scores of random in-domain texts, for domain-context calibration; [0, labels] where there are none.
        unconditional, tokens, characters: of multiple choice [queries, choices], for its readings (see `ChoiceScores`).
    """

    method: str
    k: int
    seed: int
    scores: NDArray[np.float32]
    content_free: NDArray[np.float32]
    gold: NDArray[np.int64]
    queries: NDArray[np.int64]
    cost: Cost
    domain: NDArray[np.float32] = field(default_factory=_nothing)
    unconditional: NDArray[np.float32] = field(default_factory=_nothing)
    tokens: NDArray[np.float32] = field(default_factory=_nothing)
    characters: NDArray[np.float32] = field(default_factory=_nothing)

    def calibrated(self, calibration: str) -> NDArray[np.floating]:
        """Calibrated scores [queries, labels]; see `lmops_lab.icl.calibration.calibrate`.

        Of multiple choice: what `ChoiceScores.read` gives, "raw" being the sum; a missing choice is -inf.
        """
        if not self.multiple_choice:
            return calibrate(calibration, self.scores, self.content_free, self.domain)
        if calibration not in READINGS:
            raise ValueError(
                f"calibration {calibration!r} needs fixed labels; multiple choice has {', '.join(READINGS)}"
            )
        parts = (self.scores, self.unconditional, self.tokens, self.characters)
        return ChoiceScores(*parts, self.gold).read(READINGS[calibration])

    @property
    def multiple_choice(self) -> bool:
        """Whether every query has choices of its own instead of the task's labels."""
        return len(self.tokens) > 0

    @property
    def calibrations(self) -> tuple[str, ...]:
        """Names of the calibrations that this cell has the inputs for."""
        if self.multiple_choice:
            return tuple(READINGS)
        has = {"contextual": len(self.content_free), "domain": len(self.domain)}
        return tuple(name for name in CALIBRATIONS if has.get(name, True))


def cell_name(config: Mapping[str, Any]) -> str:
    """A short hash of everything a cell depends on (model, task, method, k, seed, grouping, ...)."""
    text = json.dumps(config, sort_keys=True)
    return hashlib.sha256(f"{FORMAT} {text}".encode()).hexdigest()[:24]


class Stored(NamedTuple):
    """A cell as its file holds it: the scores, the whole table with its settings, and what the file says of itself."""

    cell: Cell
    table: pa.Table
    about: dict[str, Any]


def read_about(metadata: Mapping[bytes, bytes], name: str) -> dict[str, Any]:
    """What a cell's file says of itself (settings, labels, cost, configuration), from its schema's metadata.

    Raises:
        KeyError, ValueError: none of this version's, or damaged.
    """
    about = json.loads(metadata[b"lmops_lab"])
    if about["format"] != FORMAT or digest_of([name, about]) != metadata[b"digest"].decode():
        raise ValueError(f"cell {name} is damaged or has another format ({about['format']}, this is {FORMAT})")
    if about["k"]:  # cells of before there was a choice have no word for it
        about["settings"] = {"selection": "none"} | about["settings"]
    return dict(about)


def rows_of(cell: Cell) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """All rows of a cell one below the other: query numbers (or `MARKS`) and scores."""
    parts = {name: getattr(cell, name) for name in MARKS}
    kept = {name: part for name, part in parts.items() if len(part) or name == "content_free"}
    marks = np.repeat([MARKS[name] for name in kept], [len(part) for part in kept.values()])
    return np.concatenate([cell.queries, marks]), np.concatenate([cell.scores, *kept.values()]).astype(np.float32)


def parts_of(asked: NDArray[np.int64], scores: NDArray[np.floating]) -> dict[str, Any]:
    """The fields of a cell that `rows_of` put one below the other."""
    scores = scores.astype(np.float32, copy=False)
    return {"scores": scores[asked >= 0], **{name: scores[asked == mark] for name, mark in MARKS.items()}}


def _settled(table: pa.Table, name: str, settings: Mapping[str, Any]) -> bool:
    """Whether the columns that repeat a cell's name and settings in every row say what the file says of itself."""
    named = {"cell": pa.string(), **SETTINGS}
    if not set(table.schema.names) <= {*named, "query", "gold", "scores"}:
        return False
    for column, kind in named.items():
        value = name if column == "cell" else settings.get(column)
        # Cells of before there was a choice leave it empty.
        fitting = [value, None] if (column, value) == ("selection", "none") else [value]
        found = table[column].unique() if column in table.schema.names else pa.array([value], kind)
        if not any(found.equals(pa.array([one], kind)) for one in fitting):
            return False
    return True


@dataclass(frozen=True)
class CellStore:
    """A folder of finished cells: `<hash>.parquet` with the scores, `<hash>.json` with the configuration and cost.

    The Parquet file is written last and in one step, so where it is, the cell is finished. It holds one row group, with
    checksums of its pages, and digests of its numbers and of what it says of them: a damaged file is noticed and scored
    again.
    """

    folder: Path

    def read(self, name: str) -> Cell | None:
        """A finished cell, or None. A file that cannot be read counts as missing and is written again."""
        stored = self.stored(name)
        return None if stored is None else stored.cell

    def stored(self, name: str) -> "Stored | None":
        """A finished cell with its whole table, or None; see `read`."""
        try:
            table = pq.ParquetFile(self.folder / f"{name}.parquet", page_checksum_verification=True).read()
            about = read_about(table.schema.metadata, name)
            rows = table.num_rows
            scores = table["scores"].combine_chunks().flatten().to_numpy().reshape(rows, -1)
            asked, gold = table["query"].to_numpy(), table["gold"].to_numpy()
            cost = Cost(**about["cost"])
            at = about["method"], about["k"], about["seed"]
            if about["numbers"] != digest_of(name, scores, asked, gold) or not _settled(table, name, about["settings"]):
                return None
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):  # a missing file is an OSError
            return None
        real = asked >= 0
        cell = Cell(*at, gold=gold[real], queries=asked[real], cost=cost, **parts_of(asked, scores))
        return Stored(cell, table, about)

    def write(
        self,
        name: str,
        cell: Cell,
        config: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
        labels: Sequence[str] = (),
    ) -> None:
        """Store a cell atomically, with the configuration it came from.

        Args:
            settings: values of `SETTINGS` columns; the cell's own method, k and seed where they are not given.
            labels: label names in the order of the scores.
        """
        known = {"method": cell.method, "k": cell.k, "seed": cell.seed} | dict(settings or {})
        about = {
            "format": FORMAT,
            "method": cell.method,
            "k": cell.k,
            "seed": cell.seed,
            "settings": known,
            "labels": list(labels),
            "queries": len(cell.gold),
            "cost": asdict(cell.cost),
            "config": dict(config),
        }
        asked, scores = rows_of(cell)
        rows = len(asked)
        gold = np.concatenate([cell.gold, np.full(rows - len(cell.gold), -1)])
        about["numbers"] = digest_of(name, scores, asked, gold)
        write_text(self.folder / f"{name}.json", json.dumps(about, indent=1) + "\n")
        columns = {"cell": pa.array([name] * rows)}
        columns |= {column: pa.array([known.get(column)] * rows, kind) for column, kind in SETTINGS.items()}
        columns |= {
            "query": pa.array(asked),
            "gold": pa.array(gold),
            "scores": pa.array(scores.tolist(), pa.list_(pa.float32())),
        }
        metadata = {"lmops_lab": json.dumps(about), "digest": digest_of([name, about])}
        table = pa.table(columns).replace_schema_metadata(metadata)
        with atomic_file(self.folder / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary, row_group_size=max(rows, 1), write_page_checksum=True)
