"""Large amounts: time and memory at n and n/4, so that growth shows. Slope 1 is linear, 2 quadratic.

python -m tests.trust.load         # the sizes of the list below
python -m tests.trust.load 10      # a tenth of them
"""

import gc
import json
import math
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lmops_lab.attention.context import GroupedContext
from lmops_lab.attention.files import load_context
from lmops_lab.digests import write_record
from lmops_lab.icl.cells import SETTINGS, Cell, CellStore, Cost
from lmops_lab.icl.curve import ICLCurve
from lmops_lab.icl.query import query
from lmops_lab.icl.results import CELLS, FORMAT, MANIFEST, Sweep
from lmops_lab.runs.jobs import JobStatus, _write_status, read_status
from tests.icl.synthetic import synthetic_curve
from widgets.icl_curve import ICLCurveExplorer
from widgets.prompt_comparison import PromptComparison
from widgets.vote_file import VoteFile
from widgets.votes import Pair, Vote, results

MOST_SLOPE = 1.15
# Seconds that work may take whatever its size (imports at first use, a figure): taken off before slopes are computed.
FIXED = 0.5
QUERIES = 20


@dataclass(frozen=True)
class Load:
    """A kind of work in sizes.

    Attributes:
        prepare: (folder, size) -> what the work needs; not timed.
        work: what is timed.
        size: items in full.
    """

    name: str
    unit: str
    size: int
    prepare: Callable[[Path, int], Any]
    work: Callable[[Any], object]


@dataclass(frozen=True)
class Grown:
    """What a work took at a quarter of its size and in full: seconds, and megabytes beyond what was there before."""

    name: str
    unit: str
    size: int
    quarter_s: float
    full_s: float
    quarter_mb: float
    full_mb: float

    @property
    def slope(self) -> float:
        """Growth between the two sizes as a power of the size, fixed costs taken off."""
        ends = [max(seconds - FIXED, 1e-3) for seconds in (self.quarter_s, self.full_s)]
        return math.log(ends[1] / ends[0]) / math.log(4)

    @property
    def linear(self) -> bool:
        """Whether four times as much takes no longer than the slope allows, plus the fixed cost."""
        return self.full_s <= self.quarter_s * 4**MOST_SLOPE + FIXED


def _cells(folder: Path, size: int) -> Path:
    """A sweep's folder with so many finished cells."""
    random = np.random.default_rng(0)
    store, shown = CellStore(folder / CELLS), {}
    gold, asked = np.arange(QUERIES) % 2, np.arange(QUERIES)
    for number in range(size):
        scores = random.normal(size=(QUERIES, 2)).astype(np.float32)
        free = random.normal(size=(3, 2)).astype(np.float32)
        k, seed, method = 2 ** (number % 10), number // 50 + 1, f"method {number // 10 % 5}"
        settings = {"model": "m", "task": "t", "method": method, "k": k, "seed": seed}
        name = f"{number:024x}"
        store.write(name, Cell(method, k, seed, scores, free, gold, asked, Cost(0.1, 0.1, 9, 9, 1)), {}, settings, "ab")
        shown[name] = {column: settings.get(column) for column in SETTINGS}
    grid = {"k": [1], "task": ["reviews"], "queries": QUERIES, "calibration": ["raw", "contextual", "batch"]}
    about = {"format": FORMAT, "versions": [], "cell_format": "", "grid": grid, "cells": shown, "labels": {"t": "ab"}}
    write_record(folder / MANIFEST, about)
    return folder


def _read_cells(folder: Path) -> object:
    """The sweep's own table, and two questions in SQL."""
    by = "select method, k, calibration, avg(correct::int) from answers group by all order by all"
    return Sweep(folder).table(), query(by, [folder]), query("select sum(queries) from cells", [folder])


def _many_cells(_: Path, size: int) -> ICLCurve:
    """A curve of so many cells: seeds grow, points do not."""
    ks = tuple(2**power for power in range(1, 11))
    return synthetic_curve(ks=ks, methods=("structured", "sequential"), seeds=max(2, size // 19), queries=QUERIES)


def _images(_: Path, size: int) -> dict[str, list[Image.Image]]:
    random = np.random.default_rng(0)
    rows = size // 8
    noise = [Image.fromarray(random.integers(0, 255, (96, 96, 3), np.uint8)) for _ in range(32)]
    return {f"prompt {row}": [noise[(row + column) % 32] for column in range(8)] for row in range(rows)}


def _compare(rows: dict[str, list[Image.Image]]) -> object:
    return PromptComparison(list(rows), list(rows.values())).fallback()


def _votes(folder: Path, size: int) -> tuple[VoteFile, tuple[Pair, ...]]:
    pairs = tuple(Pair(n, *(("a", "b") if n % 2 else ("b", "a"))) for n in range(size))
    file = VoteFile(folder / "votes.jsonl", "pairs")
    file._rewrite([vars(Vote(n, "left" if n % 3 else "tie", 1.5)) for n in range(size)])
    return file, pairs


def _count(given: tuple[VoteFile, tuple[Pair, ...]]) -> object:
    file, pairs = given
    return results(pairs, file.read(len(pairs)).votes)


def _context(folder: Path, megabytes: int) -> tuple[Path, GroupedContext]:
    columns = megabytes * 1_000_000 // (2 * 4 * 2 * 8 * 64)
    sides = [tuple(torch.randn(8, columns, 64) for _ in range(2)) for _ in range(2)]
    return folder / "c.safetensors", GroupedContext(*sides, 0, (columns,), (1,), columns, "none", "m")


def _save_and_load(given: tuple[Path, GroupedContext]) -> object:
    path, context = given
    context.save(path)
    return load_context(path, "m")


def _job(folder: Path, readers: int) -> tuple[Path, int]:
    _write_status(folder, JobStatus("running", 1, 9, host="elsewhere"))
    return folder, readers


def _watch(folder: Path, go: Any, answers: Any) -> None:
    go.wait()
    seen = [read_status(folder) for _ in range(50)]
    answers.put((sum(status is None for status in seen), [status.done for status in seen if status]))


def watch_together(given: tuple[Path, int]) -> None:
    """Let processes read a job's status together while it is being written.

    Raises:
        AssertionError: a reader saw a status that is none, or one older than it had seen.
    """
    folder, readers = given
    context = multiprocessing.get_context("fork")
    go, answers = context.Event(), context.SimpleQueue()
    watchers = [context.Process(target=_watch, args=(folder, go, answers)) for _ in range(readers)]
    for watcher in watchers:
        watcher.start()
    go.set()
    done = 1
    while any(watcher.is_alive() for watcher in watchers) and done < 100_000:
        done += 1
        _write_status(folder, JobStatus("running", done, 10**6, host="elsewhere"))
        if done % 50 == 0:
            while not answers.empty():
                _check(*answers.get())
    for watcher in watchers:
        watcher.join()
    while not answers.empty():
        _check(*answers.get())


def _check(missing: int, seen: list[int]) -> None:
    assert missing == 0, f"{missing} readings found no status"
    assert seen == sorted(seen), "a reader went back in time"


LOADS = (
    Load("table and SQL", "cells", 10_000, _cells, _read_cells),
    Load("curve explorer", "cells", 10_000, _many_cells, lambda curve: ICLCurveExplorer(curve).fallback()),
    Load("prompt comparison", "images", 2_000, _images, _compare),
    Load("votes", "votes", 100_000, _votes, _count),
    Load("context file", "MB", 1_000, _context, _save_and_load),
    Load("readers of a job", "readers", 100, _job, watch_together),
)


def measure(load: Load, size: int) -> tuple[float, float]:
    """Seconds and megabytes of one size, in a process of its own, so that memory is that of this size alone."""
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=_measured, args=(load, size, answers))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{load.name} of {size} {load.unit} ended with {process.exitcode}")
    return answers.get()


def _measured(load: Load, size: int, answers: Any) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        given = load.prepare(Path(folder), size)
        gc.collect()
        before, start = _peak(), time.process_time()
        wall = time.perf_counter()
        load.work(given)
        # Of the processor where one process does it all, so that a busy machine is no growth.
        spent = time.process_time() - start if load.unit != "readers" else time.perf_counter() - wall
        answers.put((spent, _peak() - before))


def _peak() -> float:
    """Largest resident memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def grow(load: Load, part: int = 1) -> Grown:
    """Measure a work at a quarter and in full, each a part of its size."""
    full = max(16, load.size // part)
    small, large = measure(load, full // 4), measure(load, full)
    return Grown(load.name, load.unit, full, small[0], large[0], small[1], large[1])


def table(rows: Sequence[Grown]) -> list[list[str]]:
    """The measurements as rows, the first a header."""
    lines = [["work", "size", "s at a quarter", "s", "MB at a quarter", "MB", "slope"]]
    for r in rows:
        seconds, memory = (f"{r.quarter_s:.2f}", f"{r.full_s:.2f}"), (f"{r.quarter_mb:.0f}", f"{r.full_mb:.0f}")
        slope = f"{r.slope:.2f}" if r.quarter_s > 2 * FIXED else "-"  # below, the fixed cost is most of it
        lines.append([r.name, f"{r.size:,} {r.unit}", *seconds, *memory, slope])
    return lines


def main() -> int:
    """Print the table and, last, its numbers as JSON; 1 if something grows faster than its size."""
    part = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    names = sys.argv[2:]
    rows = [grow(load, part) for load in LOADS if not names or load.name in names]
    for line in table(rows):
        print("  ".join(f"{cell:18}" for cell in line).rstrip())  # noqa: T201
    print(json.dumps({row.name: round(row.full_s, 3) for row in rows}))  # noqa: T201
    return int(not all(row.linear for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
