"""One widget of each kind, filled with hostile text: run as a program, it prints a hash of each static page.

The program is given the folder of a job that has ended, so that every process watches the same one. A page that
depended on the order of a set, on an address or on the clock would differ between two processes.
"""

import hashlib
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from lmops_lab.icl.cells import Cell, CellStore, Cost
from lmops_lab.icl.results import CELLS
from lmops_lab.runs.jobs import Reporter, one_writer
from tests.icl.synthetic import synthetic_curve
from tests.widgets.samples import HOSTILE, grid
from widgets import BlindVote, GroupAttention, ICLCurveExplorer, PromptComparison, SweepMonitor

# What the file of a Parquet table can hold: no surrogate, which is no character.
WRITABLE = tuple(text.replace("\ud800", "") for text in HOSTILE)


def prompt_comparison(_: Path) -> PromptComparison:
    return PromptComparison(
        {f"{i}{text}": text for i, text in enumerate(HOSTILE)},
        grid(len(HOSTILE), 2, 32),
        seeds=["<script>seed</script>", "2"],
        scores={"<i>score": np.arange(2.0 * len(HOSTILE)).reshape(-1, 2)},
        provenance={"<b>who": "</style><script>x</script>"},
    )


def blind_vote(_: Path) -> BlindVote:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "v.jsonl"
        systems = {f"{text}{i}": list(HOSTILE[i:] + HOSTILE[:i]) for i, text in enumerate(HOSTILE[:4])}
        widget = BlindVote(systems, path, prompts=list(HOSTILE))
        for choice in ("left", "right", "tie"):
            widget.vote(choice)
        widget.reveal()
    return widget


def icl_curve(_: Path) -> ICLCurveExplorer:
    curve = synthetic_curve("<script>name", labels=WRITABLE[:4], ks=(8, 64), queries=30)
    curve = replace(curve, about={**curve.about, "model": "</style><script>m</script>"})
    widget = ICLCurveExplorer(curve, ["raw", "batch"])
    widget.selected = [1, 8]
    return widget


def group_attention(_: Path) -> GroupAttention:
    shares = np.random.default_rng(0).dirichlet(np.ones(len(HOSTILE) + 1), (3, 2))
    widget = GroupAttention(shares, HOSTILE)
    widget.selected = [0, 0]
    return widget


def end_a_job(folder: Path) -> None:
    """Leave a job of a few cells whose names and log are hostile."""
    with one_writer(folder), Reporter(folder, total=9) as report:
        gold = np.zeros(4, dtype=np.int64)
        for number, text in enumerate(WRITABLE):
            scores = np.tile(np.array([number % 2, 0.5], dtype=np.float32), (4, 1))
            cell = Cell(text, 8, number, scores, scores[:0], gold, np.arange(4), Cost(0.0, 0.0, 0, 0, 0))
            CellStore(folder / CELLS).write(f"cell{number}", cell, {"settings": {"model": text, "task": text}})
            report.finished_one(f"error: {text}")


def sweep_monitor(folder: Path) -> SweepMonitor:
    return SweepMonitor(folder, every=0)


WIDGETS: dict[str, Callable[[Path], object]] = {
    "prompt_comparison": prompt_comparison,
    "blind_vote": blind_vote,
    "icl_curve": icl_curve,
    "group_attention": group_attention,
    "sweep_monitor": sweep_monitor,
}


def main(folder: str) -> None:
    for name, make in WIDGETS.items():
        widget = make(Path(folder))
        text = widget.fallback() + repr(widget)
        print(name, hashlib.sha256(text.encode()).hexdigest())  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
