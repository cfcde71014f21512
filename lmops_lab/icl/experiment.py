"""Run the points of an accuracy curve: draw, encode once, score against subsets, keep every finished point."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm

from lmops_lab.attention.cache import GroupCache, computing_versions
from lmops_lab.attention.context import BosPolicy, OwnWeight
from lmops_lab.attention.methods import METHODS
from lmops_lab.files import cache_folder
from lmops_lab.icl.cells import Cell, CellStore
from lmops_lab.icl.curve import ZERO_SHOT, ICLCurve
from lmops_lab.icl.draws import Draw
from lmops_lab.icl.plan import Plan, Setting, make_plan
from lmops_lab.icl.pools import Point, Pool
from lmops_lab.icl.prompts import DOMAIN_TEXTS
from lmops_lab.icl.saving import token_counts
from lmops_lab.icl.scoring import Encoded
from lmops_lab.icl.selections import NO_SELECTION, Selection
from lmops_lab.icl.tasks import Task
from lmops_lab.models import LanguageModel

# Every method but "sequential" (one long prompt) works on the same encoded groups.
DEFAULT_METHODS = ("structured", "sequential")
T = TypeVar("T")


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
    selection: Selection = NO_SELECTION,
    domain: int = DOMAIN_TEXTS,
    pool_groups: int | None = None,
    folder: Path | str | None = None,
    cache: GroupCache | None = None,
    progress: bool = True,
) -> ICLCurve:
    """Accuracy of a task, with labels or of multiple choice, against the number of demonstrations.

    Each seed draws its demonstrations once (nested over k). `structured` encodes them once in groups, and every k is a
    subset of those groups; `sequential` encodes one long prompt, and every k is that prompt cut back. Queries are the
    same everywhere. Every finished point is written to `folder` at once: stop with Ctrl-C, call again, and only what is
    missing runs.

    Args:
        k: numbers of demonstrations; 0 is the zero-shot point.
        methods: some of `METHODS`, without "ensemble" for multiple choice. A sequential point is skipped for every seed
            whose prompt passes the context window, and listed in `curve.skipped`.
        seeds: how many draws (1, 2, ...), or the seeds themselves.
        queries: how many test examples are asked.
        group_size: demonstrations a group. Groups end where the longest group of the largest k ends, so a point beyond
            one group can shift in its last digits with the largest k.
        bos: where the BOS token sits (see `encode_groups`).
        own_weight: weight of the query's own attention: "groups" (M), "sqrt_groups", "2groups" or a number.
        draw: how a seed becomes demonstrations: balance, order, wrong labels (see `Draw`). In another order than the
            drawn one every k is encoded for itself.
        selection: how each query gets its demonstrations (see `Selection`); default all share those of the seed.
        domain: how many random in-domain texts domain-context calibration has, scored at every point beside the
            queries; 0 leaves that calibration out.
        pool_groups: encode this many groups once for all seeds; each seed then chooses its groups among them (nested
            over k). The cheapest way to many seeds, whose draws overlap.
        folder: where finished points are kept; default the user's cache folder.
        cache: encoded groups to reuse; default none.

    Raises:
        ValueError: anything that cannot be run, before any slow work.
    """
    setting = settings(k, methods, seeds, queries, group_size, bos, (own_weight,), draw, pool_groups, selection, domain)
    plan = make_plan(lm, task, setting)
    store = CellStore(Path(folder) if folder else cache_folder() / "cells")
    cells = collect(lambda bar: _run(lm, plan, store, cache, bar), plan, f"{task.name} curve", store.folder, progress)
    order = {method: i for i, method in enumerate((ZERO_SHOT, *plan.methods))}
    cells.sort(key=lambda cell: (order[cell.method], cell.k, cell.seed))
    about = {
        "model": lm.fingerprint,
        "task": task.fingerprint,
        "task_name": task.name,
        "k": list(plan.ks),
        "methods": list(plan.methods),
        "seeds": list(plan.seeds),
        "queries": len(plan.questions.places),
        "group_size": group_size,
        "bos": bos,
        "own_weight": own_weight,
        **draw.settings,
        **selection.settings,
        "domain": plan.questions.domain,
        "pool_groups": pool_groups,
        "device": str(lm.device),
        "number_format": lm.number_format.reason,
        "tokens": token_counts(plan.pools),
    }
    return ICLCurve(tuple(cells), plan.questions.names, about, tuple((*at, why) for at, why in plan.skipped.items()))


def collect(run: "Callable[[tqdm[Any]], Iterator[T]]", plan: Plan, name: str, place: Path, progress: bool) -> list[T]:
    """Every finished point of a plan, under a progress bar; Ctrl-C says what is kept, and where.

    Raises:
        ValueError: not one point of the plan can be run.
    """
    finished: list[T] = []
    with tqdm(total=len(plan.points), desc=name, unit="point", disable=not progress) as bar:
        try:
            for point in run(bar):
                finished.append(point)
                bar.update()
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(f"{len(finished)} finished points are kept in {place}; call again to continue")
            raise
    if not finished:
        raise ValueError(f"no point can be run: {plan.skipped}; use a smaller k or a structured method")
    return finished


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
    selection: Selection = NO_SELECTION,
    domain: int = DOMAIN_TEXTS,
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
    given = (ks, ways, drawn, queries, group_size, bos, weights, draw, tuple(_versions()))
    return Setting(*given, pool_groups, selection, domain)


def _versions() -> list[str]:
    return list(computing_versions())


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
