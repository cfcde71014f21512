"""Votes on disk: one JSON line a vote, written at once, never rewritten, each with a check of all lines so far."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from lmops_lab.files import atomic_file, write_text
from widgets.votes import CHOICES, Vote

FORMAT = "lmops-lab votes 2"
_UNCHECKED = "lmops-lab votes 1"  # lines without checks; still read
_LONGEST_LINE = 4096  # bytes


class DamagedError(Exception):
    """A line that is not what the format says."""


class OtherVoteError(ValueError):
    """A sound file for another schedule."""


_DAMAGE = (KeyError, TypeError, IndexError, AttributeError, RecursionError, DamagedError, ValueError)


class Kept(NamedTuple):
    """What a vote file holds: the votes, whether identities were shown early, a warning where it was damaged."""

    votes: list[Vote]
    ended: bool
    warning: str


@dataclass(frozen=True)
class VoteFile:
    """Votes as JSON lines: a head that names the schedule, then one line a vote or undo, flushed to disk at once.

    Every line ends with a check of itself and of the line before, so that a changed, lost or doubled line is noticed.
    """

    path: Path
    schedule: str

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add a line; it is on the disk when this returns."""
        if not self.path.exists() or not self.path.stat().st_size:
            self._start()
        with self.path.open("ab+") as stream:
            stream.write(_line(entry, _last_line(stream)))
            stream.flush()
            os.fsync(stream.fileno())

    def add(self, vote: Vote) -> None:
        """Keep a vote."""
        self.append(asdict(vote))

    def undo(self) -> None:
        """Take the last vote back (a line of its own: nothing is ever rewritten)."""
        self.append({"undo": True})

    def end(self) -> None:
        """Keep that identities were shown: later votes would not be blind."""
        self.append({"end": True})

    def read(self, pairs: int) -> Kept:
        """The votes kept so far, and a warning where the file was damaged.

        A damaged file is moved aside whole (`votes.jsonl.damaged-1`) and a new one is started, with the votes before
        the damage.

        Raises:
            OtherVoteError: an undamaged file that belongs to another vote.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return Kept([], ended=False, warning="")
        votes, ended, problem = self._parsed(data, pairs)
        if not problem:
            return Kept(votes, ended, warning="")
        aside = self._aside()
        with atomic_file(aside) as temporary:
            temporary.write_bytes(data)
        self._rewrite([*map(asdict, votes), *([{"end": True}] if ended else [])])
        warning = (
            f"The vote file was damaged ({problem}). It is kept as {aside.name}; a new file was started"
            f" with the {len(votes)} votes before the damage."
        )
        return Kept(votes, ended, warning)

    def _parsed(self, data: bytes, pairs: int) -> tuple[list[Vote], bool, str]:
        """Votes, whether the vote was ended, and what is wrong with the first line that is not sound."""
        if not data:
            return [], False, "it is empty"
        lines = data.split(b"\n")
        votes: list[Vote] = []
        ended = unchecked = False
        for number, line in enumerate(lines[:-1], start=1):
            try:
                entry = json.loads(line)
                if number == 1:
                    unchecked = entry.get("format") == _UNCHECKED and "check" not in entry
                if not unchecked and line + b"\n" != _line(entry, lines[number - 2] if number > 1 else b""):
                    raise DamagedError
                if number == 1:
                    self._check_head(entry)
                elif "undo" in entry:
                    votes.pop()
                elif "end" in entry:
                    ended = True
                else:
                    votes.append(_vote(entry, pairs, expected=len(votes)))
            except OtherVoteError:
                raise
            except _DAMAGE as error:
                return votes, ended, f"line {number} is not a vote ({type(error).__name__})"
        return votes, ended, f"line {len(lines)} breaks off" if lines[-1] else ""

    def _start(self) -> None:
        self._rewrite([])

    def _rewrite(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Put a file with the head and these entries in the place of what is there, in one step."""
        lines = [b""]
        for entry in [{"format": FORMAT, "schedule": self.schedule}, *entries]:
            lines.append(_line(entry, lines[-1].rstrip(b"\n")))
        write_text(self.path, b"".join(lines).decode())

    def _check_head(self, head: Mapping[str, Any]) -> None:
        if head["format"] not in {FORMAT, _UNCHECKED}:
            raise DamagedError
        if head["schedule"] != self.schedule:
            raise OtherVoteError(
                f"{self.path} holds votes on other pairs ({head['schedule']}, not {self.schedule}); "
                "give another path, or the same systems, items, seed and repeats"
            )

    def _aside(self) -> Path:
        n = 1
        while (aside := self.path.with_name(f"{self.path.name}.damaged-{n}")).exists():
            n += 1
        return aside


def _line(entry: Mapping[str, Any], before: bytes) -> bytes:
    """An entry as it is written after the line `before`: with a check of both, and its line end."""
    plain = {name: value for name, value in entry.items() if name != "check"}
    check = hashlib.sha256(before + json.dumps(plain).encode()).hexdigest()[:12]
    return json.dumps({**plain, "check": check}).encode() + b"\n"


def _last_line(stream: BinaryIO) -> bytes:
    """The last line of a file, without its end."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _LONGEST_LINE))
    return stream.read().rstrip(b"\n").rpartition(b"\n")[2]


def _vote(entry: Mapping[str, Any], pairs: int, expected: int) -> Vote:
    vote = Vote(entry["pair"], entry["choice"], float(entry["seconds"]))
    if vote.pair != expected or not 0 <= vote.pair < pairs or vote.choice not in CHOICES:
        raise DamagedError
    return vote
