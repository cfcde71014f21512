"""Finished points of a curve on disk: one Parquet file each, found by the content it depends on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lmops_lab.files import atomic_file, write_text

FORMAT = "lmops-lab cell 2"

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
}


@dataclass(frozen=True)
class Cost:
    """What one point took.

    Attributes:
        encode_s: seconds to encode, or to read from the cache, the context that this point is cut from.
        score_s: seconds to score its queries.
        context_tokens: tokens a query could attend to.
        kv_bytes: bytes of keys and values.
        groups: M.
        group_hits: groups read from the cache instead of encoded.
    """

    encode_s: float
    score_s: float
    context_tokens: int
    kv_bytes: int
    groups: int
    group_hits: int = 0


@dataclass(frozen=True, eq=False)
class Cell:
    """All scores of one point: a method, a number of demonstrations and a seed.

    Attributes:
        scores: label log-probabilities [queries, labels], nats, summed over label tokens.
        content_free: the same for the inputs without content.
        gold: index of the right label of each query.
        queries: index of each query in the task's test examples.
    """

    method: str
    k: int
    seed: int
    scores: NDArray[np.float32]
    content_free: NDArray[np.float32]
    gold: NDArray[np.int64]
    queries: NDArray[np.int64]
    cost: Cost


def cell_name(config: Mapping[str, Any]) -> str:
    """A short hash of everything a cell depends on (model, task, method, k, seed, grouping, ...)."""
    text = json.dumps(config, sort_keys=True)
    return hashlib.sha256(f"{FORMAT} {text}".encode()).hexdigest()[:24]


@dataclass(frozen=True)
class CellStore:
    """A folder of finished cells: `<hash>.parquet` with the scores, `<hash>.json` with the configuration and cost.

    The Parquet file is written last and in one step, so where it is, the cell is finished. It holds one row group, with
    checksums: a damaged file is noticed and scored again.
    """

    folder: Path

    def read(self, name: str) -> Cell | None:
        """A finished cell, or None. A file that cannot be read counts as missing and is written again."""
        try:
            table = pq.ParquetFile(self.folder / f"{name}.parquet", page_checksum_verification=True).read()
            about = json.loads(table.schema.metadata[b"lmops_lab"])
            scores = np.array(table["scores"].to_pylist(), dtype=np.float32)
            asked = np.array(table["query"].to_pylist(), dtype=np.int64)
            gold = np.array(table["gold"].to_pylist(), dtype=np.int64)
            cost = Cost(**about["cost"])
            at = about["method"], about["k"], about["seed"]
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
            return None
        real = asked >= 0
        return Cell(*at, scores[real], scores[~real], gold[real], asked[real], cost)

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
        write_text(self.folder / f"{name}.json", json.dumps(about, indent=1) + "\n")
        rows = len(cell.gold) + len(cell.content_free)
        without = np.full(len(cell.content_free), -1)
        columns = {"cell": pa.array([name] * rows)}
        columns |= {column: pa.array([known.get(column)] * rows, kind) for column, kind in SETTINGS.items()}
        columns |= {
            "query": pa.array(np.concatenate([cell.queries, without])),
            "gold": pa.array(np.concatenate([cell.gold, without])),
            "scores": pa.array(np.concatenate([cell.scores, cell.content_free]).tolist(), pa.list_(pa.float32())),
        }
        table = pa.table(columns).replace_schema_metadata({"lmops_lab": json.dumps(about)})
        with atomic_file(self.folder / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary, row_group_size=max(rows, 1), write_page_checksum=True)
