"""Votes on disk: one JSON line a vote, written at once, never rewritten."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lmops_lab.files import write_text
from widgets.votes import CHOICES, Vote

FORMAT = "lmops-lab votes 1"


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
    """Votes as JSON lines: a head that names the schedule, then one line a vote or undo, flushed to disk at once."""

    path: Path
    schedule: str

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add a line; it is on the disk when this returns."""
        if not self.path.exists() or not self.path.stat().st_size:
            self._start()
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(dict(entry)) + "\n")
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
        self.path.rename(aside)
        self._start()
        for vote in votes:
            self.add(vote)
        if ended:
            self.end()
        warning = (
            f"The vote file was damaged ({problem}). It is kept as {aside.name}; a new file was started"
            f" with the {len(votes)} votes before the damage."
        )
        return Kept(votes, ended, warning)

    def _parsed(self, data: bytes, pairs: int) -> tuple[list[Vote], bool, str]:
        """Votes, whether the vote was ended, and what is wrong with the first line that is not sound."""
        lines = data.split(b"\n")
        votes: list[Vote] = []
        ended = False
        for number, line in enumerate(lines[:-1], start=1):
            try:
                entry = json.loads(line)
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
        write_text(self.path, json.dumps({"format": FORMAT, "schedule": self.schedule}) + "\n")

    def _check_head(self, head: Mapping[str, Any]) -> None:
        if head["format"] != FORMAT:
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


def _vote(entry: Mapping[str, Any], pairs: int, expected: int) -> Vote:
    vote = Vote(entry["pair"], entry["choice"], float(entry["seconds"]))
    if vote.pair != expected or not 0 <= vote.pair < pairs or vote.choice not in CHOICES:
        raise DamagedError
    return vote
