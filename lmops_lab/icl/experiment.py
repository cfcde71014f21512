"""Run the points of an accuracy curve: draw, encode once, score against subsets, keep every finished point."""

import functools
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from lmops_lab.attention.cache import GroupCache
from lmops_lab.attention.context import BosPolicy, GroupedContext, OwnWeight
from lmops_lab.attention.encoding import empty_context, encode_token_groups
from lmops_lab.attention.grouping import Tokens
from lmops_lab.attention.methods import METHODS
from lmops_lab.files import cache_folder
from lmops_lab.icl.cells import Cell, CellStore, Cost
from lmops_lab.icl.curve import ZERO_SHOT, ICLCurve
from lmops_lab.icl.draws import Draw
from lmops_lab.icl.plan import DOUBLE, Plan, Point, Pool, Setting, make_plan
from lmops_lab.icl.tasks import Task
from lmops_lab.models import LanguageModel
from lmops_lab.shapes import LabelScores

# Every method but "sequential" (one long prompt) works on the same encoded groups.
DEFAULT_METHODS = ("structured", "sequential")


def icl_curve(
    lm: LanguageModel,
    task: Task,
    *,
    k: Sequence[int] = (0, 4, 16, 64, 256),
    methods: Sequence[str] = DEFAULT_METHODS,
    seeds: int | Sequence[int] = 3,
    queries: int = 200,
    group_size: int = 16,
    bos: BosPolicy = "none",
    own_weight: OwnWeight = "groups",
    draw: Draw = Draw(),  # noqa: B008 - frozen
    pool_groups: int | None = None,
    folder: Path | str | None = None,
    cache: GroupCache | None = None,
    progress: bool = True,
) -> ICLCurve:
    """Accuracy of a task against the number of demonstrations.

    Each seed draws its demonstrations once (nested over k). `structured` encodes them once in groups, and every k is a
    subset of those groups; `sequential` encodes one long prompt, and every k is that prompt cut back. Queries are the
    same everywhere. Every finished point is written to `folder` at once: stop with Ctrl-C, call again, and only what is
    missing runs.

    Args:
        k: numbers of demonstrations; 0 is the zero-shot point.
        methods: some of `METHODS`. Sequential points that pass the context window are skipped and listed in
            `curve.skipped`.
        seeds: how many draws (1, 2, ...), or the seeds themselves.
        queries: how many test examples are asked.
        group_size: demonstrations a group. Groups end where the longest group of the largest k ends, so a point beyond
            one group can shift in its last digits with the largest k.
        bos: where the BOS token sits (see `encode_groups`).
        own_weight: weight of the query's own attention: "groups" (M), "sqrt_groups", "2groups" or a number.
        draw: how a seed becomes demonstrations: balance, order, wrong labels (see `Draw`). In another order than the
            drawn one every k is encoded for itself.
        pool_groups: encode this many groups once for all seeds; each seed then chooses its groups among them (nested
            over k). The cheapest way to many seeds, whose draws overlap.
        folder: where finished points are kept; default the user's cache folder.
        cache: encoded groups to reuse; default none.

    Raises:
        ValueError: anything that cannot be run, before any slow work.
    """
    setting = settings(k, methods, seeds, queries, group_size, bos, (own_weight,), draw, pool_groups)
    plan = make_plan(lm, task, setting)
    store = CellStore(Path(folder) if folder else cache_folder() / "cells")
    cells: list[Cell] = []
    with tqdm(total=len(plan.points), desc=f"{task.name} curve", unit="point", disable=not progress) as bar:
        try:
            for cell in _run(lm, plan, store, cache, bar):
                cells.append(cell)
                bar.update()
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(f"{len(cells)} finished points are kept in {store.folder}; call again to continue")
            raise
    if not cells:
        raise ValueError(f"no point can be run: {plan.skipped}; use a smaller k or a structured method")
    order = {method: i for i, method in enumerate((ZERO_SHOT, *plan.methods))}
    cells.sort(key=lambda cell: (order[cell.method], cell.k, cell.seed))
    about = {
        "model": lm.fingerprint,
        "task": task.fingerprint,
        "task_name": task.name,
        "k": list(plan.ks),
        "methods": list(plan.methods),
        "seeds": list(plan.seeds),
        "queries": len(plan.questions.queries),
        "group_size": group_size,
        "bos": bos,
        "own_weight": own_weight,
        **draw.settings,
        "pool_groups": pool_groups,
        "device": str(lm.device),
        "number_format": lm.number_format.reason,
    }
    return ICLCurve(tuple(cells), task.labels, about, tuple((*at, why) for at, why in plan.skipped.items()))


def settings(
    k: Sequence[int],
    methods: Sequence[str],
    seeds: int | Sequence[int],
    queries: int,
    group_size: int,
    bos: BosPolicy,
    own_weights: Sequence[OwnWeight],
    draw: Draw,
    pool_groups: int | None = None,
) -> Setting:
    """Settings of an experiment, in order and without repetition, with the versions that its numbers depend on.

    Raises:
        ValueError: an unknown method, or whatever `Setting` refuses.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods:
        raise ValueError(f"methods {list(methods)}: {unknown or 'none given'}; choose among {', '.join(METHODS)}")
    drawn = tuple(range(1, seeds + 1)) if isinstance(seeds, int) else tuple(int(seed) for seed in seeds)
    ks = tuple(sorted(set(k)))
    ways = tuple(dict.fromkeys(methods))
    weights = tuple(dict.fromkeys(own_weights))
    return Setting(ks, ways, drawn, queries, group_size, bos, weights, draw, tuple(_versions()), pool_groups)


@functools.cache
def _versions() -> list[str]:
    return [version(name) for name in ("lmops-lab", "torch", "transformers")]


def _run(lm: LanguageModel, plan: Plan, store: CellStore, cache: GroupCache | None, bar: "tqdm[Any]") -> Iterator[Cell]:
    """Yield every cell, from disk where it is finished; contexts are encoded only for pools with missing cells."""
    for pool in plan.pools:
        found = {point.name: store.read(point.name) for point in pool.points}
        yield from (cell for cell in found.values() if cell is not None)
        missing = [point for point in pool.points if found[point.name] is None]
        for point, cell in run_points(lm, pool, missing, cache, bar.set_postfix_str):
            keep(store, pool, point, cell)
            yield cell


def run_points(
    lm: LanguageModel, pool: Pool, points: Sequence[Point], cache: GroupCache | None = None, tell: Any = None
) -> Iterator[tuple[Point, Cell]]:
    """Score some points of a pool with one encoding of it.

    Args:
        tell: called with what is being done, in words.
    """
    encoded = Encoded(lm, pool, cache)
    for point in points:
        if tell:
            tell(f"{point.method}, seed {point.seed}, k = {point.k}")
        yield point, encoded.score(point)


def keep(store: CellStore, pool: Pool, point: Point, cell: Cell) -> None:
    """Write a finished cell with everything that says what it is."""
    store.write(point.name, cell, point.config, point.settings, pool.questions.names)


class Encoded:
    """The contexts of one pool, encoded when a point first needs them and shared by all that follow.

    A smaller k costs no encoding: it is the beginning of one group or prompt (whose keys do not depend on what
    follows), or some of the groups. Only its last, partly filled group is encoded for itself.
    """

    def __init__(self, lm: LanguageModel, pool: Pool, cache: GroupCache | None = None) -> None:
        self.lm = lm
        self.pool = pool
        self.cache = cache
        self._made: dict[str, tuple[GroupedContext, float, int]] = {}

    def score(self, point: Point) -> Cell:
        """The cell of a point."""
        context, encode_s, hits = self.context(point)
        return _score(self.pool, point.method, point.k, point.seed, point.own_weight, self.lm, context, encode_s, hits)

    def context(self, point: Point) -> tuple[GroupedContext | None, float, int]:
        """What a point's queries attend to; seconds it took to encode, and groups that came from the cache."""
        pool, k = self.pool, point.k
        if pool.kind == "none":
            spent = _Timer()
            return empty_context(self.lm, pool.bos), spent.seconds(), 0
        if pool.kind == "prompt":
            return self._cut("prompt", max(pool.ks), k)
        if k <= pool.group_size and point.groups is None:
            # Up to one group, the prompt is an ordinary few-shot prompt and is aligned as such.
            return self._cut("one group", max(n for n in pool.ks if n <= pool.group_size), k)
        # Every k shares the full groups; whichever points are missing, the same rows are encoded together.
        largest, size = len(pool.demonstrations), pool.group_size
        full = largest // size
        partly = [n for n in sorted({largest, *pool.ks}, reverse=True) if n % size and n > size]
        groups = [
            *(pool.demonstrations[i * size : (i + 1) * size] for i in range(full)),
            *(pool.demonstrations[n - n % size : n] for n in partly),
        ]
        context, encode_s, hits = self._once("groups", groups)
        if point.groups is not None:
            return context.subset(point.groups), encode_s, hits
        return context.subset([*range(k // size), *([full + partly.index(k)] if k % size else [])]), encode_s, hits

    def _cut(self, name: str, largest: int, k: int) -> tuple[GroupedContext, float, int]:
        demonstrations = self.pool.demonstrations
        whole, encode_s, hits = self._once(name, [demonstrations[:largest]])
        dropped = sum(map(len, demonstrations[k:largest]))
        return whole.cut(whole.group_tokens[0] - dropped, k), encode_s, hits

    def _once(self, name: str, groups: Sequence[Sequence[Tokens]]) -> tuple[GroupedContext, float, int]:
        if name not in self._made:
            self._made[name] = _encode(self.lm, self.pool.bos, groups, self.cache)
        return self._made[name]


def _encode(
    lm: LanguageModel, bos: BosPolicy, groups: Sequence[Sequence[Tokens]], cache: GroupCache | None
) -> tuple[GroupedContext, float, int]:
    spent, hits = _Timer(), cache.hits if cache else 0
    context = encode_token_groups(
        lm.model,
        groups,
        bos=bos,
        prefix=lm.bos_tokens(bos),
        model_name=lm.fingerprint,
        cache=cache,
        progress=False,
    )
    return context, spent.seconds(), (cache.hits if cache else 0) - hits


def _score(
    pool: Pool,
    method: str,
    k: int,
    seed: int,
    own_weight: OwnWeight,
    lm: LanguageModel,
    context: GroupedContext | None,
    encode_s: float,
    hits: int,
) -> Cell:
    asked = pool.questions
    spent = _Timer()
    scores = _log_probabilities(lm, method, asked.inputs, asked.labels, context, own_weight).numpy()
    cost = Cost(
        encode_s=encode_s,
        score_s=spent.seconds(),
        context_tokens=context.tokens if context else 0,
        kv_bytes=context.nbytes if context else 0,
        groups=context.groups if context and k else 0,
        group_hits=hits,
    )
    n, free = len(asked.queries), len(asked.queries) + len(asked.content_free)
    gold, places = (np.array(values, dtype=np.int64) for values in (asked.gold, asked.places))
    return Cell(method, k, seed, scores[:n], scores[n:free], gold, places, cost, scores[free:])


def _log_probabilities(
    lm: LanguageModel,
    method: str,
    queries: Sequence[Tokens],
    labels: Sequence[Tokens],
    context: GroupedContext | None,
    own_weight: OwnWeight,
) -> LabelScores:
    """Label log-probabilities [queries, labels] by a method: the one place that tells methods apart."""
    if method == "structured" and context is not None:
        weight = 2.0 * context.groups if own_weight == DOUBLE else own_weight
        return lm.score(queries, labels, context=context, own_weight=weight)
    # Zero-shot has no groups, whatever the method; a BOS token alone is an ordinary prompt.
    return lm.score(queries, labels, context=context, method=method if method in METHODS else "sequential")


class _Timer:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self.start
