"""Scores and features of pictures, kept by what the pictures show."""

import contextlib
import hashlib
import sqlite3
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from lmops_lab.files import cache_folder

_NOT_DAMAGED = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
}


def picture_hash(image: Image.Image) -> str:
    """Hash of what a picture shows, whatever file it came from: size and RGB values."""
    rgb = image.convert("RGB")
    return hashlib.sha256(f"{rgb.width}x{rgb.height} ".encode() + rgb.tobytes()).hexdigest()[:32]


@dataclass(frozen=True)
class RewardCache:
    """Scores in one SQLite file, which several processes may share.

    Every score has a check of its own, for SQLite has none: a damaged score counts as missing, and a file that is no
    whole database is started anew.

    Attributes:
        path: the file.
    """

    path: Path = field(default_factory=lambda: cache_folder() / "rewards.sqlite")

    def read(self, keys: Sequence[str]) -> list[float | None]:
        """The score of every key, or None."""
        found: dict[str, float] = {}
        names = [_name(key) for key in keys]
        try:
            with self._open() as database:
                for name in names:
                    row = database.execute("SELECT score, mark FROM checked WHERE name = ?", (name,)).fetchone()
                    if row is not None and isinstance(row[0], float) and row[1] == _mark(name, row[0]):
                        found[name] = row[0]
        except sqlite3.DatabaseError as error:
            self._drop(error)
            return [None] * len(names)
        return [found.get(name) for name in names]

    def write(self, scores: Mapping[str, float]) -> None:
        """Keep scores."""
        rows = [(name, float(score), _mark(name, score)) for key, score in scores.items() if (name := _name(key))]
        try:
            self._insert(rows)
        except sqlite3.DatabaseError as error:
            self._drop(error)
            self._insert(rows)

    def _drop(self, error: sqlite3.DatabaseError) -> None:
        """Remove a damaged file; raise the error where it is busy, or its disk full or unreadable."""
        if error.sqlite_errorcode & 0xFF in _NOT_DAMAGED:
            raise error
        self.path.unlink(missing_ok=True)

    def _insert(self, rows: Sequence[tuple[str, float, bytes]]) -> None:
        with self._open() as database:
            database.executemany("INSERT OR REPLACE INTO checked VALUES (?, ?, ?)", rows)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        table = "CREATE TABLE IF NOT EXISTS checked (name TEXT PRIMARY KEY, score REAL, mark BLOB)"
        database = sqlite3.connect(self.path, timeout=30)
        try:
            database.execute(table)
        except sqlite3.DatabaseError as error:  # not a database
            database.close()
            self._drop(error)
            database = sqlite3.connect(self.path, timeout=30)
            database.execute(table)
        database.text_factory = bytes  # a damaged text need not be text
        try:
            with database:
                yield database
        finally:
            database.close()


def _mark(name: str, score: float) -> bytes:
    return hashlib.sha256(name.encode() + struct.pack("<d", score)).digest()[:8]


def _name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]
