"""Broken files by the thousand: every parser of outside files answers with a documented error, soon, in little memory.

Each target is a parser with valid content as plain values. An input is that content with odd values put in at random
places and packed into a file, or a packed file with random bytes changed, or both. Inputs that reach lines of the
package which no input reached before join the pool that later ones are made of (coverage-guided, like AFL), so the
fuzzer finds its way past the first checks. Everything follows from the seed.

    python -m tests.trust.fuzzing 20000 1          # how many inputs, which seed
    python -m tests.trust.fuzzing 2000 1 picture   # parsers with this word in their name
"""

import contextlib
import copy
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from tests.trust.fuzz_targets import Target, targets

ROOT = Path(__file__).parents[2]
SECONDS, BYTES = 5.0, 2 * 2**30  # of processor time, so that a busy machine is no hang
_POOL = 200  # inputs of a target that are kept to make others of

_DEEP = 20_000
_TOKENS = [
    *(
        b"\x00",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xc3",
        b"\xed\xa0\x80",
        b'"\\ud800"',
        b"\\u0000",
        b"\r",
        b"\n",
        b"\t",
        b" ",
    ),
    *(b"1e999", b"NaN", b"-Infinity", b"-1", b"0", b"9" * 5000, b"null", b"true", b"{}", b"[]", b'""', b"~", b"no"),
    *(
        b'"',
        b"'",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b"|",
        b"#",
        b"%",
        b"\\",
        b"{text!r}",
        b"{0}",
        b"{text.__class__}",
    ),
    *(b"[" * _DEEP, b'{"a":' * _DEEP, b"- " * _DEEP, b"(" * 200, b"-" * 5000, b"{" * 5000),
    *(
        b"&a [*a]",
        b"*a",
        b"&a ",
        b"!!python/object/apply:os.system ['true']",
        b"!!binary x",
        b"!!set {a}",
        b"2024-99-99",
    ),
    *(b"? [a]\n: b\n", b"<<: *a\n", b"0x1F", b"1_000", b"12:30:45", b"---\n", b"...\n", b"%YAML 9.9\n"),
    *(b"../../etc/passwd", b"<script>alert(1)</script>", b"; rm -rf x", "\u202eabc\u0130".encode(), b"x" * 100_000),
]


def _laughs(levels: int) -> bytes:
    """The YAML file of a kilobyte that stands for billions of values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return ("\n".join(lines) + "\n").encode()


_TOKENS += [_laughs(9), _laughs(9) + b"template: *a8\ndata: *a8\nk: *a8\nnotebook: *a8\nmetrics: *a8\n"]


def _odd(draw: random.Random) -> Any:
    """A value that a careless parser does not expect."""
    simple = [None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", " "]
    words = [
        "\ud800",
        "\x00",
        "a" * 10_000,
        "{text}",
        "{",
        "{}",
        "{0}",
        "-1",
        "1e5",
        "../x",
        "/etc/passwd",
        "\n",
        "ﬀ\u202e",
    ]
    several: list[Any] = [[], {}, [[]], {"": ""}, [None], {"a": {"b": [1, {}]}}, [1, "a"], {"k": -1}, [{}] * 3]
    return copy.deepcopy(draw.choice(draw.choice([simple, words, several])))


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value inside."""
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _places(tree[key])


def _change(tree: Any, draw: random.Random) -> Any:
    """The tree with one value exchanged, removed, doubled, renamed or moved; or another tree altogether."""
    places = list(_places(tree))
    if not places or draw.random() < 0.01:
        return _odd(draw)
    at, key = draw.choice(places)
    match draw.randrange(6):
        case 0 | 1 | 2:
            at[key] = _odd(draw)
        case 3:
            del at[key]
        case 4 if isinstance(at, dict):
            at[draw.choice(["", "extra", "__class__", "K", str(key) + "x"])] = at.pop(key)
        case 4:
            at.insert(key, copy.deepcopy(at[key]))
        case _:
            other, there = draw.choice(places)
            if isinstance(other, dict) or there < len(other):
                at[key] = copy.deepcopy(other[there])
    return tree


def _spoil(data: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    """The bytes with one piece changed."""
    at = draw.randrange(len(data) + 1)
    end = min(len(data), at + draw.choice([1, 1, 2, 8, 100]))
    match draw.randrange(7):
        case 0:
            return data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]
        case 1:
            return data[:at] + data[end:]
        case 2:
            return data[:end] + data[at:end] * draw.choice([1, 2, 50]) + data[end:]
        case 3:
            return data[:at]
        case 4:
            other = draw.choice(others)
            return data[:at] + other[draw.randrange(len(other) + 1) :]
        case _:
            token = draw.choice(_TOKENS)
            return data[:at] + token + data[draw.choice([at, end]) :] if draw.random() < 0.9 else token


@dataclass
class Fuzzed:
    """What came of it.

    Attributes:
        inputs: how many were tried.
        unexpected: what should not have happened, each kind once: the target, the error, where, and the input.
        errors: documented errors, by target and type; "read" where the input was read after all.
        lines: lines of the package that were reached.
        slowest: seconds of the slowest input.
    """

    inputs: int = 0
    unexpected: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    lines: int = 0
    slowest: float = 0.0


class _Lines:
    """Which lines of the package run: a trace that looks at nothing else."""

    def __init__(self) -> None:
        self.seen: set[tuple[CodeType, int]] = set()
        self.ours: dict[str, bool] = {}

    def __call__(self, frame: FrameType, _event: str, _argument: object) -> Any:
        name = frame.f_code.co_filename
        if name not in self.ours:
            self.ours[name] = name.startswith((f"{ROOT}/lmops_lab/", f"{ROOT}/widgets/"))
        return self._line if self.ours[name] else None

    def _line(self, frame: FrameType, _event: str, _argument: object) -> Any:
        self.seen.add((frame.f_code, frame.f_lineno))
        return self._line


class _TooSlowError(BaseException):
    """An input took longer than it may."""


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """At most `BYTES` more memory than now, and an alarm that ends what takes too long."""
    import resource

    def alarm(_signal: int, _frame: object) -> None:
        raise _TooSlowError

    status = Path("/proc/self/status")
    before, handler = resource.getrlimit(resource.RLIMIT_DATA), signal.signal(signal.SIGPROF, alarm)
    if status.is_file():
        used = int(status.read_text().split("VmData:")[1].split()[0]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (used + BYTES, before[1]))
    try:
        yield
    finally:
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_DATA, before)


def run(count: int, seed: int, only: str = "") -> Fuzzed:
    """Try `count` broken inputs, the same number on every parser (up to one), or on those with a word in their name.

    Only in the main thread of a POSIX system: time is limited by an alarm.
    """
    found = Fuzzed()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, warnings.catch_warnings(), _limits():
        warnings.simplefilter("ignore")
        all_targets = [target for target in targets(Path(folder) / "seeds") if only in target.name]
        lines, kinds = _Lines(), set()
        for number, target in enumerate(all_targets):
            share = count // len(all_targets) + (number < count % len(all_targets))
            home = Path(folder) / f"{number}"
            home.mkdir()
            _fuzz(target, share, random.Random(f"{seed} {target.name}"), home, found, lines, kinds)
        found.lines = len(lines.seen)
    return found


def _fuzz(
    target: Target, count: int, draw: random.Random, home: Path, found: Fuzzed, lines: _Lines, kinds: set[Any]
) -> None:
    pool: list[tuple[Any, bytes]] = [(tree, target.pack(tree)) for tree in target.trees]
    for tree, data in pool:  # valid content is read, or the target itself is broken
        problem = _tried(target, data, home, lines, found)
        if problem or found.errors[f"{target.name}: read"] != pool.index((tree, data)) + 1:
            raise AssertionError(f"{target.name} does not read its own valid content {tree!r}:\n{problem}")
    for number in range(count):
        tree, data = draw.choice(pool)
        if tree is not None and draw.random() < 0.7:
            tree = copy.deepcopy(tree)
            for _ in range(draw.choice([1, 1, 2, 4])):
                tree = _change(tree, draw)
            with contextlib.suppress(Exception):  # what cannot be packed cannot be met either
                data = target.pack(tree)
            spoilt = draw.random() < 0.1
        else:
            tree, spoilt = None, True
        for _ in range(draw.choice([1, 1, 2, 4]) if spoilt else 0):
            data = _spoil(data, draw, [other for _, other in pool])
        before = len(lines.seen)
        problem = _tried(target, data, home, lines, found)
        found.inputs += 1
        if problem and (target.name, *problem[0]) not in kinds:
            kinds.add((target.name, *problem[0]))
            found.unexpected.append(f"{target.name}, input {number}: {problem[1]}\n  input: {data[:300]!r}")
        if len(lines.seen) > before and len(pool) < _POOL and len(data) < 100_000:
            pool.append((tree, data))


def _tried(target: Target, data: bytes, home: Path, lines: _Lines, found: Fuzzed) -> tuple[tuple[str, str], str] | None:
    """Read one input; None, or (what kind of problem, in words) where something undocumented happened."""
    path = home / target.file
    path.write_bytes(data)
    start = time.process_time()
    outer = sys.gettrace()
    try:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        sys.settrace(lines)
        try:
            target.read(path)
        finally:
            sys.settrace(outer)
            signal.setitimer(signal.ITIMER_PROF, 0)
    except (Exception, _TooSlowError) as error:  # noqa: BLE001 - which ones come is the question
        if type(error) not in target.errors:
            place = next(
                (f"{Path(f.filename).name}:{f.lineno}" for f in reversed(traceback.extract_tb(error.__traceback__))
                 if f.filename.startswith(str(ROOT)) and "trust" not in f.filename), "outside")  # fmt: skip
            return (type(error).__name__, place), f"{type(error).__name__} at {place}: {str(error)[:200]}"
        words = str(error)
        if len(words) > 20_000 + 5 * len(data):  # what the file says may be quoted, but not multiplied
            return (type(error).__name__, "long"), f"a message of {len(words)} characters: {words[:80]}"
        found.errors[f"{target.name}: {type(error).__name__}"] += 1
    else:
        found.errors[f"{target.name}: read"] += 1
    took = time.process_time() - start
    found.slowest = max(found.slowest, took)
    return (("slow", ""), f"it took {took:.1f} s") if took > SECONDS else None


def main() -> int:
    """Fuzz from the command line; 1 if anything unexpected happened."""
    found = run(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:4])
    for name, times in sorted(found.errors.items()):
        sys.stdout.write(f"{times:8,}  {name}\n")
    for problem in found.unexpected:
        sys.stdout.write(f"UNEXPECTED {problem}\n")
    sys.stdout.write(
        f"{found.inputs:,} inputs, {len(found.unexpected)} unexpected, {found.lines:,} lines of the package reached, "
        f"slowest {found.slowest:.2f} s\n"
    )
    return 1 if found.unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
