"""Finished points of a curve on disk: one Parquet file each, found by the content it depends on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lmops_lab.files import atomic_file

FORMAT = "lmops-lab cell 1"


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
    """A folder of finished cells."""

    folder: Path

    def read(self, name: str) -> Cell | None:
        """A finished cell, or None. A file that cannot be read counts as missing and is written again."""
        path = self.folder / f"{name}.parquet"
        try:
            table = pq.read_table(path)
            about = json.loads(table.schema.metadata[b"lmops_lab"])
            scores = np.array(table["scores"].to_pylist(), dtype=np.float32)
            asked = np.array(table["query"].to_pylist(), dtype=np.int64)
            gold = np.array(table["gold"].to_pylist(), dtype=np.int64)
            cost = Cost(**about["cost"])
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
            return None
        real = asked >= 0
        return Cell(
            about["method"],
            about["k"],
            about["seed"],
            scores[real],
            scores[~real],
            gold[real],
            asked[real],
            cost,
        )

    def write(self, name: str, cell: Cell, config: Mapping[str, Any]) -> None:
        """Store a cell atomically, with the configuration it came from."""
        free = len(cell.content_free)
        table = pa.table(
            {
                "query": np.concatenate([cell.queries, np.full(free, -1)]),
                "gold": np.concatenate([cell.gold, np.full(free, -1)]),
                "scores": np.concatenate([cell.scores, cell.content_free]).tolist(),
            }
        )
        about = {
            "format": FORMAT,
            "method": cell.method,
            "k": cell.k,
            "seed": cell.seed,
            "cost": asdict(cell.cost),
            "config": dict(config),
        }
        table = table.replace_schema_metadata({"lmops_lab": json.dumps(about)})
        with atomic_file(self.folder / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary)
