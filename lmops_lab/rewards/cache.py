"""Scores and features of pictures, kept by what the pictures show."""

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from lmops_lab.files import cache_folder


def picture_hash(image: Image.Image) -> str:
    """Hash of what a picture shows, whatever file it came from: size and RGB values."""
    rgb = image.convert("RGB")
    return hashlib.sha256(f"{rgb.width}x{rgb.height} ".encode() + rgb.tobytes()).hexdigest()[:32]


@dataclass(frozen=True)
class RewardCache:
    """Scores in one SQLite file, which several processes may share. A file that is no database is started anew.

    Attributes:
        path: the file.
    """

    path: Path = field(default_factory=lambda: cache_folder() / "rewards.sqlite")

    def read(self, keys: Sequence[str]) -> list[float | None]:
        """The score of every key, or None."""
        with self._open() as database:
            rows = [
                database.execute("SELECT score FROM scores WHERE name = ?", (_name(key),)).fetchone() for key in keys
            ]
        return [None if row is None else float(row[0]) for row in rows]

    def write(self, scores: Mapping[str, float]) -> None:
        """Keep scores."""
        with self._open() as database:
            rows = [(_name(key), score) for key, score in scores.items()]
            database.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", rows)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        table = "CREATE TABLE IF NOT EXISTS scores (name TEXT PRIMARY KEY, score REAL)"
        database = sqlite3.connect(self.path, timeout=30)
        try:
            database.execute(table)
        except sqlite3.OperationalError:
            database.close()
            raise
        except sqlite3.DatabaseError:  # not a database
            database.close()
            self.path.unlink()
            database = sqlite3.connect(self.path, timeout=30)
            database.execute(table)
        try:
            with database:
                yield database
        finally:
            database.close()


def _name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]
