"""Kill jobs at random moments and look at what is left: finished work, the result in the end, temporary files.

python -m tests.trust.faults 20 1            # kills of every job, seed
python -m tests.trust.faults 20 1 sweep      # of one
"""

import itertools
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lmops_lab.runs.jobs import LOCK
from tests.trust.victims import VICTIMS, Victim, prepare
from tests.trust.victims import run as run_victim

ROOT = Path(__file__).parents[2]
SECONDS = 300  # that an undisturbed job may take on a busy machine


@dataclass
class Kills:
    """What became of one job.

    Attributes:
        tried: kills that met a working process.
        survived: those after which everything was as promised.
        moments: seconds after the start of the process.
        problems: what was not as promised, in words.
    """

    name: str
    tried: int = 0
    survived: int = 0
    restarts: int = 0
    moments: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Killer:
    """Starts jobs in child processes that are forked from one with everything imported, so that kills meet work."""

    def __init__(self, home: Path) -> None:
        self.home = home / "home"
        self.scratch = home / "scratch"
        self.home.mkdir()
        self.scratch.mkdir()
        prepare(self.home)
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.trust.victims"])
        _start_server()
        self._expected: dict[str, tuple[Any, float]] = {}
        self._number = itertools.count()

    def start(self, name: str, folder: Path) -> BaseProcess:
        """Run a job in a process of its own."""
        process = self._context.Process(target=run_victim, args=(name, str(self.home), str(folder)))
        process.start()
        return process

    def fresh(self) -> Path:
        """An empty folder."""
        folder = self.scratch / f"{next(self._number):04}"
        folder.mkdir()
        return folder

    def undisturbed(self, victim: Victim) -> tuple[Any, float]:
        """What the job gives when nobody kills it, and how long it takes (the first run of all is the slowest)."""
        if victim.name not in self._expected:
            for _ in range(2):
                folder, start = self.fresh(), time.monotonic()
                self.finish(self.start(victim.name, folder), folder)
                taken = time.monotonic() - start
            self._expected[victim.name] = victim.result(folder), taken
        return self._expected[victim.name]

    def finish(self, process: BaseProcess, folder: Path) -> None:
        """Wait for a job to end well."""
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
        if process.exitcode != 0:
            log = folder.with_suffix(".log")
            said = log.read_text()[-2000:] if log.exists() else ""
            raise RuntimeError(f"the job ended with {process.exitcode}: {said}")

    def kill(self, victim: Victim, kills: int, seed: int) -> Kills:
        """Kill a job so many times at random moments, restarting it in between, until every chain has come to its end.

        After each kill the finished pieces are noted. When the job has come to its end, each of them has to be there
        untouched, the result has to be that of an undisturbed run, and no temporary file may be left.
        """
        draw = random.Random(f"{victim.name} {seed}")
        expected, seconds = self.undisturbed(victim)
        found = Kills(victim.name)
        while found.tried < kills:
            self._chain(victim, found, kills, expected, draw, seconds)
        return found

    def _chain(
        self, victim: Victim, found: Kills, kills: int, expected: Any, draw: random.Random, seconds: float
    ) -> None:
        """Kill and restart in one folder until a process comes to its end by itself."""
        folder = self.fresh()
        done: dict[str, str] = {}
        problems: list[str] = []
        tried = 0
        while found.tried + tried < kills:
            process, moment = self.start(victim.name, folder), draw.uniform(0, seconds)
            process.join(moment)
            if process.exitcode is not None:
                self.finish(process, folder)
                break
            process.kill()
            process.join()
            if process.exitcode == 0:  # it ended in that very moment
                break
            tried += 1
            found.moments.append(round(moment, 3))
            try:
                pieces = victim.pieces(folder)
                problems += [f"{name} was finished and is not what it was" for name in _lost(done, pieces)]
                done |= pieces
            except Exception as error:  # noqa: BLE001 - whatever cannot be read after a kill is a finding
                problems.append(f"unreadable after the kill at {moment:.3f} s: {type(error).__name__}: {error}")
        try:
            self.finish(self.start(victim.name, folder), folder)  # a run that finds all or the rest to do
            problems += [f"{name} was done twice or changed" for name in _lost(done, victim.pieces(folder))]
            if victim.result(folder) != expected:
                problems.append("the result is not that of an undisturbed run")
        except Exception as error:  # noqa: BLE001 - as above
            problems.append(f"it cannot go on: {type(error).__name__}: {error}")
        problems += [f"{path.relative_to(folder)} is left over" for path in leftovers(folder)]
        found.tried += tried
        found.restarts += tried + 1
        found.survived += 0 if problems else tried
        found.problems += problems


def _start_server() -> None:
    """Start the process that jobs are forked from, where it finds this project's tests whoever started this one."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), before]))
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _lost(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [name for name, identity in before.items() if after.get(name) != identity]


def leftovers(folder: Path) -> list[Path]:
    """Hidden and temporary files below a folder; the lock of a job's folder is meant to stay."""
    return [
        path
        for path in folder.rglob("*")
        if (path.name.startswith(".") or path.suffix in (".tmp", ".part") or path.name.endswith("-journal"))
        and path.name != LOCK
    ]


def kill_all(kills: int, seed: int, names: Sequence[str] = (), *, slow: bool = True) -> list[Kills]:
    """Kill every job (or these) so many times."""
    chosen = [v for v in VICTIMS.values() if (not names or v.name in names) and (slow or not v.slow)]
    with tempfile.TemporaryDirectory() as home:
        killer = Killer(Path(home))
        return [killer.kill(victim, kills, seed) for victim in chosen]


def table(rows: Sequence[Kills]) -> list[list[str]]:
    """The counts as rows, the first a header."""
    lines = [["job", "kills", "survived", "problems"]]
    return lines + [[r.name, str(r.tried), str(r.survived), "; ".join(r.problems[:2])] for r in rows]


def main() -> int:
    """Print the table; 1 if a kill was not survived."""
    kills, seed = (int(word) for word in sys.argv[1:3])
    rows = kill_all(kills, seed, sys.argv[3:])
    for line in table(rows):
        print("  ".join(f"{cell:24}" for cell in line).rstrip())  # noqa: T201
    return int(any(row.survived < row.tried for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
