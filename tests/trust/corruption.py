"""Damage every kind of stored file: one byte, a half, nothing, zeros - and see whether its reader notices.

python -m tests.trust.corruption 100 1           # changed bytes of each kind, seed
python -m tests.trust.corruption 100 1 context   # of one
"""

import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.trust.faults import leftovers
from tests.trust.stored import KINDS, MISSING, Kind

WAYS = ("byte", "half", "empty", "zeros")


@dataclass
class Damages:
    """What became of one kind of file.

    Attributes:
        tried: damaged files whose reading would differ, or that the reader refused.
        detected: those that were refused, kept aside or counted as missing.
        harmless: damaged files that still said exactly what was written (a changed byte in a field that nobody reads).
        silent: how damaged files were believed.
    """

    name: str
    tried: int = 0
    detected: int = 0
    harmless: int = 0
    silent: list[str] = field(default_factory=list)


def damage(data: bytes, way: str, draw: random.Random) -> tuple[bytes, str]:
    """Damaged bytes, and what was done in words."""
    if way == "half":
        return data[: len(data) // 2], "cut in half"
    if way == "empty":
        return b"", "emptied"
    if way == "zeros":
        return bytes(len(data)), "all zeros"
    place, change = draw.randrange(len(data)), draw.randrange(1, 256)
    return data[:place] + bytes([data[place] ^ change]) + data[place + 1 :], f"byte {place} ^ {change}"


def corrupt(kind: Kind, changed_bytes: int, seed: int) -> Damages:
    """Damage one kind of file in every way; a changed byte so many times."""
    draw = random.Random(f"{kind.name} {seed}")
    found = Damages(kind.name)
    with tempfile.TemporaryDirectory() as scratch:
        pristine = Path(scratch) / "pristine"
        pristine.mkdir()
        kind.write(pristine)
        files = sorted(path.relative_to(pristine) for path in pristine.glob(kind.files))
        assert files, kind.name
        shutil.copytree(pristine, Path(scratch) / "read")
        expected = kind.read(Path(scratch) / "read")
        assert expected != MISSING, kind.name
        tries = [(file, way) for file in files for way in WAYS[1:]]
        tries += [(draw.choice(files), "byte") for _ in range(changed_bytes)]
        for number, (file, way) in enumerate(tries):
            folder = Path(scratch) / str(number)
            shutil.copytree(pristine, folder)
            broken, words = damage((folder / file).read_bytes(), way, draw)
            (folder / file).write_bytes(broken)
            _judge(found, kind, folder, expected, f"{file.name}: {words}")
            shutil.rmtree(folder)
    return found


def _judge(found: Damages, kind: Kind, folder: Path, expected: Any, words: str) -> None:
    try:
        value = kind.read(folder)
    except kind.errors:
        found.tried += 1
        found.detected += 1
        return
    except Exception as error:  # noqa: BLE001 - an error that the reader does not document is a finding
        found.tried += 1
        found.silent.append(f"{words}: undocumented {type(error).__name__}: {error}")
        return
    if isinstance(value, str) and value == MISSING:
        found.tried += 1
        found.detected += 1
    elif value == expected:
        found.harmless += 1
    else:
        found.tried += 1
        found.silent.append(words)


def corrupt_all(changed_bytes: int, seed: int, names: Sequence[str] = ()) -> list[Damages]:
    """Damage every kind of file (or these)."""
    return [corrupt(kind, changed_bytes, seed) for kind in KINDS if not names or kind.name in names]


def table(rows: Sequence[Damages]) -> list[list[str]]:
    """The counts as rows, the first a header."""
    lines = [["stored file", "damaged", "detected", "harmless", "believed"]]
    return lines + [
        [r.name, str(r.tried + r.harmless), str(r.detected), str(r.harmless), "; ".join(r.silent[:2])] for r in rows
    ]


# Faults while writing. Each returns what is wrong afterwards, in words, "" where all is well.


def write_in_child(kind: Kind, folder: Path, prepare: Callable[[], None]) -> str:
    """Write in a process that something hinders; the error it gets, "" where it gets none."""
    parent, child = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_hindered, args=(kind, folder, prepare, child))
    process.start()
    answer = parent.recv() if parent.poll(60) else "it hangs"
    process.join(5)
    return answer


def _hindered(kind: Kind, folder: Path, prepare: Callable[[], None], answer: Any) -> None:
    prepare()
    try:
        kind.write(folder)
        answer.send("")
    except BaseException as error:  # noqa: BLE001 - the parent judges it
        answer.send(f"{type(error).__name__}: {error}")


def no_large_files(limit: int = 64) -> None:
    """Let this process write no file beyond some bytes, as a full disk does (works without being root)."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def check_after_failed_write(kind: Kind, folder: Path, expected: Any) -> list[str]:
    """What was there before stays readable, and nothing half-written stays."""
    problems = [f"{path.name} is left over" for path in leftovers(folder)]
    found = kind.read(folder)
    if found not in (expected, MISSING) or (found == MISSING and kind.name in ("context", "vote file")):
        problems.append(f"the older file is not what it was: {found!r:.80}")
    return problems


def write_repeatedly(kind: Kind, folder: Path, times: int) -> None:
    """What each of two writers does."""
    for _ in range(times):
        kind.write(folder)


def two_writers(kind: Kind, folder: Path, times: int = 20) -> list[str]:
    """Let two processes write the same file again and again; what is wrong afterwards."""
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_repeatedly, args=(kind, folder, times)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    problems = [f"a writer ended with {writer.exitcode}" for writer in writers if writer.exitcode]
    return problems + [f"{path.name} is left over" for path in leftovers(folder)]


def main() -> int:
    """Print the table; 1 if damage was believed."""
    changed, seed = (int(word) for word in sys.argv[1:3])
    rows = corrupt_all(changed, seed, sys.argv[3:])
    for line in table(rows):
        print("  ".join(f"{cell:20}" for cell in line).rstrip())  # noqa: T201
    return int(any(row.detected < row.tried for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
