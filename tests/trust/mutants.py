"""Bugs made by hand, one at a time, in a copy of the project: do the tests of the default tier notice every one?

The list is `mutants.yaml`. `run()` copies the project, runs all named tests once as they are (they have to pass), then
applies one mutant after the other and runs its tests until the first failure. Each test run is a child process of its
own, forked from one that has loaded the heavy libraries but nothing of this project. Only a failing test counts as a
kill: a mutant that cannot be imported, or whose tests do not end, has survived.

    python -m tests.trust.mutants            # all of them
    python -m tests.trust.mutants "soft cap" # those with these words in their names
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from tqdm.auto import tqdm

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("mutants.yaml")
SECONDS = 600  # for the tests of one mutant
_LEFT_OUT = (".git", ".venv", "build", "runs", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info")

# pytest's exit codes: 0 all passed, 1 some failed; everything else is no verdict.
_PASSED, _FAILED = 0, 1

# Runs in the copy's folder. Reads one JSON list of tests a line, forks, runs pytest in the child, answers its exit code
# (-1: it did not end). Nothing of this project is imported before the fork.
_SERVER = """
import json, os, signal, sys, time
for name in ("torch", "transformers.models.auto.modeling_auto", "transformers.generation.utils", "choix", "pandas",
             "hypothesis.strategies", "scipy.stats", "pyarrow.parquet", "duckdb", "datasets", "IPython", "anywidget",
             "matplotlib.pyplot", "beartype", "jaxtyping", "statsmodels.stats.proportion", "papermill", "nbconvert"):
    try:
        __import__(name)
    except ImportError:
        pass
import pytest
sys.path.insert(0, os.getcwd())
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2)
        code = int(pytest.main(["-x", "-q", "--no-header", "-p", "no:randomly", *request["tests"]]))
        sys.stdout.flush()
        os._exit(code)
    end, code = time.monotonic() + request["seconds"], None
    while code is None and time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
        else:
            time.sleep(0.05)
    if code is None:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        code = -1
    print(json.dumps(code), flush=True)
"""


@dataclass(frozen=True)
class Mutant:
    """One bug: `old` stands once in `file` and becomes `new`; at least one of `tests` has to fail then."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, root: Path) -> str:
        """The file's text with the bug.

        Raises:
            ValueError: `old` does not stand in the file exactly once.
        """
        text = (root / self.file).read_text(encoding="utf-8")
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"mutant {self.name!r}: {self.old!r} stands {count} times in {self.file}; update the list")
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Result:
    """What became of a mutant: whether a test failed, after how many seconds, and the end of pytest's output."""

    name: str
    killed: bool
    seconds: float
    output: str


def mutants() -> list[Mutant]:
    """The list, in its order."""
    entries = yaml.safe_load(LIST.read_text(encoding="utf-8"))
    return [Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]


def run(progress: bool = True, chosen: Sequence[Mutant] | None = None) -> list[Result]:
    """Apply every mutant in turn; whether the tests that should notice do.

    Raises:
        RuntimeError: the tests do not pass without any mutant.
    """
    chosen = mutants() if chosen is None else list(chosen)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / "project"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        with _server(copy) as tests_of, tqdm(total=len(chosen) + 1, desc="mutants", disable=not progress) as bar:
            bar.set_postfix_str("none yet: all tests have to pass")
            code, output, _ = tests_of(sorted({test for mutant in chosen for test in mutant.tests}))
            if code != _PASSED:
                raise RuntimeError(f"the tests fail without any mutant (exit code {code}):\n{output}")
            bar.update()
            results = []
            for mutant in chosen:
                bar.set_postfix_str(mutant.name)
                results.append(_tried(mutant, copy, tests_of))
                bar.update()
    return results


def _tried(mutant: Mutant, copy: Path, tests_of: "Tests") -> Result:
    path = copy / mutant.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(mutant.apply(copy), encoding="utf-8")
    try:
        code, output, seconds = tests_of(mutant.tests)
    finally:
        path.write_text(whole, encoding="utf-8")
    return Result(mutant.name, code == _FAILED, seconds, output)


class Tests:
    """Runs tests in the copy; one call at a time."""

    __test__ = False

    def __init__(self, server: "subprocess.Popen[str]", log: Path) -> None:
        self.server = server
        self.log = log

    def __call__(self, tests: Sequence[str]) -> tuple[int, str, float]:
        """Exit code, end of the output, seconds."""
        start = time.monotonic()
        request = {"tests": list(tests), "log": str(self.log), "seconds": SECONDS * (1 + len(tests) // 4)}
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        code = json.loads(self.server.stdout.readline())
        output = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return code, output[-2000:], time.monotonic() - start


@contextmanager
def _server(copy: Path) -> Iterator[Tests]:
    # Without byte code on disk: a file changed twice within a second, to the same length, would keep the older one.
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        cwd=copy,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Tests(server, copy.parent / "log.txt")
    finally:
        server.stdin.close()
        server.wait()


def main(words: Sequence[str]) -> int:
    """Run all mutants, or those whose names hold the words; 0 if every one was killed."""
    chosen = [mutant for mutant in mutants() if all(word in mutant.name for word in words)]
    results = run(chosen=chosen)
    for result in results:
        sys.stdout.write(f"{'killed' if result.killed else 'SURVIVED':8}  {result.seconds:5.1f} s  {result.name}\n")
        if not result.killed:
            sys.stdout.write(result.output)
    killed = sum(result.killed for result in results)
    sys.stdout.write(f"{killed} of {len(results)} killed\n")
    return 0 if killed == len(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
