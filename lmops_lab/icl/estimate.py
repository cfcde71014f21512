"""What a sweep will take, before it runs: time from arithmetic and a measured speed, memory and disk from shapes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lmops_lab.icl.cells import CellStore
from lmops_lab.icl.pools import Point, Pool
from lmops_lab.icl.results import CELLS
from lmops_lab.icl.sweep import SweepPlan, Work, missing_points, needed_space
from lmops_lab.models import LanguageModel

# Share of a plain matrix product's speed that encoding and scoring reach; a guess until finished cells correct it.
_SHARE = 0.5
# Python, torch and transformers before any weights (bytes), and layers' worth of activations that live at once.
_BASE_BYTES = 600e6
_PASS_TOKENS, _PASS_WIDTHS = 1024, 24


@dataclass(frozen=True)
class Estimate:
    """What a sweep will take on this machine.

    Attributes:
        cells, missing: in the whole grid, and still to do.
        rows: lines of the table; calibrations multiply these, not the work.
        seconds: to do what is missing with one process of this machine's current number of threads.
        memory: bytes at the most, of each process.
        disk: bytes of the missing cells.
        encoded_tokens, scored_tokens: tokens of demonstrations, and of queries over all points.
        separate_tokens: tokens to encode if every point encoded its own demonstrations; where queries choose them,
            an average choice.
        basis: what the time rests on.
    """

    cells: int
    missing: int
    rows: int
    seconds: float
    memory: int
    disk: int
    encoded_tokens: int
    scored_tokens: int
    separate_tokens: int
    basis: str

    def report(self, workers: int = 1) -> str:
        """The estimate in words."""
        minutes = self.seconds / 60 / workers
        return "\n".join(
            [
                f"{self.cells} cells, {self.missing} to do, {self.rows} rows in the table",
                f"about {minutes:.1f} minutes"
                + (f" with {workers} workers as fast as this one" if workers > 1 else ""),
                f"  ({self.encoded_tokens} tokens to encode, {self.scored_tokens} to score; {self.basis})",
                f"  (sharing encodings saves {self.separate_tokens - self.encoded_tokens} tokens of encoding)",
                f"about {self.memory / 1e9:.1f} GB of memory a process, {self.disk / 1e6:.1f} MB on disk",
            ]
        )


def estimate(plan: SweepPlan, folder: Path) -> Estimate:
    """Time, memory and disk that the missing cells of a sweep need.

    The arithmetic counts multiplications: 2 a weight and token, and the attention. A short matrix product measures the
    machine; cells of the same models that are finished in the folder replace that measurement.
    """
    store, grid = CellStore(folder / CELLS), plan.grid
    missing = missing_points(plan, store)
    work = [(w, [p for p in w.pool.points if p.name in missing]) for w in plan.works]
    work = [(w, points) for w, points in work if points]
    speeds = {name: _speed(lm) for name, lm in plan.outlines.items()}
    wanted = dict.fromkeys(plan.outlines, 0.0)
    for w, points in work:
        lm = plan.outlines[w.model]
        wanted[w.model] += _flops_to_encode(lm, w.pool, points) + _flops_to_score(lm, w.pool, points)
    basis = "measured with a matrix product"
    factors = _factors(plan, store, missing, speeds)
    if factors:
        basis = "measured with the finished cells"
    usual = sum(factors.values()) / len(factors) if factors else 1.0
    seconds = sum(flops / speeds[name] * factors.get(name, usual) for name, flops in wanted.items())
    asked = [(w.pool.questions, w.pool.tail_tokens(), len(points)) for w, points in work]
    scored = round(sum(n * (sum(map(len, q.inputs)) + tail * len(q.inputs)) for q, tail, n in asked))
    return Estimate(
        cells=len(plan.points),
        missing=len(missing),
        rows=sum(
            len(w.pool.points) * len(set(w.pool.questions.calibrations) & {*grid.calibration}) for w in plan.works
        ),
        seconds=seconds,
        memory=max((_memory(plan.outlines[w.model], w) for w, _ in work), default=0),
        disk=needed_space(plan, missing),
        encoded_tokens=sum(sum(w.pool.rows(points)) for w, points in work),
        scored_tokens=scored,
        separate_tokens=sum(w.pool.anew(p) for w, points in work for p in points),
        basis=basis,
    )


def _flops_to_encode(lm: LanguageModel, pool: Pool, points: Sequence[Point]) -> float:
    """Multiplications and additions: two a weight and token, and the causal attention within each row."""
    width, layers = int(lm.model.config.hidden_size), int(lm.model.config.num_hidden_layers)
    return float(sum(2 * _weights(lm) * n + 2 * layers * width * n * n for n in pool.rows(points)))


def _flops_to_score(lm: LanguageModel, pool: Pool, points: Sequence[Point]) -> float:
    """The same for the own tokens of all queries, their attention to the context, and the vocabulary's scores."""
    config, asked = lm.model.config, pool.questions
    width, layers = int(config.hidden_size), int(config.num_hidden_layers)
    nodes = asked.nodes  # a label's last token is only read, not run
    own = sum(map(len, asked.inputs)) + sum(nodes) + pool.tail_tokens() * len(nodes)
    reading = 2 * int(config.vocab_size) * width * (len(nodes) + sum(nodes))
    seen = map(pool.seen, points)
    return float(sum(2 * _weights(lm) * own + 4 * layers * width * own * n + reading for n in seen))


def _weights(lm: LanguageModel) -> int:
    """Weights that every token is multiplied with: all but the embeddings."""
    config = lm.model.config
    tables = 1 if config.tie_word_embeddings else 2
    return int(lm.model.num_parameters()) - tables * int(config.vocab_size) * int(config.hidden_size)


def _speed(lm: LanguageModel, seconds: float = 0.15) -> float:
    """Operations a second of a matrix product shaped like the model's, times the share that a model reaches."""
    width = int(lm.model.config.hidden_size)
    left = torch.randn(_PASS_TOKENS, width, generator=torch.Generator().manual_seed(0)).to(lm.number_format.dtype)
    right = left.new_ones(width, 4 * width)
    left @ right
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        left @ right
        count += 1
    return _SHARE * count * 2 * _PASS_TOKENS * width * 4 * width / (time.perf_counter() - start)


def _factors(
    plan: SweepPlan, store: CellStore, missing: set[str], speeds: dict[str, float], most: int = 40
) -> dict[str, float]:
    """Seconds that scoring finished cells took, over what the arithmetic says of them, by model."""
    took, said = dict.fromkeys(speeds, 0.0), dict.fromkeys(speeds, 0.0)
    for work in plan.works:
        for point in [point for point in work.pool.points if point.name not in missing][:most]:
            cell = store.read(point.name)
            if cell is not None:
                took[work.model] += cell.cost.score_s
                said[work.model] += _flops_to_score(plan.outlines[work.model], work.pool, [point])
    return {name: took[name] / (said[name] / speeds[name]) for name in speeds if said[name] > 0}


def _memory(lm: LanguageModel, work: Work) -> int:
    """Bytes: the program, the weights, keys and values (twice: some subsets are copies), one forward pass."""
    itemsize = lm.model.dtype.itemsize
    rows = work.pool.rows(work.pool.points)
    held = max(rows, default=0) if work.pool.kind == "alone" else sum(rows)
    kept = 2 * held * lm.kv_bytes_per_token
    width = max(_PASS_TOKENS, max(rows, default=0)) * int(lm.model.config.hidden_size) * _PASS_WIDTHS * itemsize
    return int(_BASE_BYTES + lm.model.num_parameters() * itemsize + kept + width)
