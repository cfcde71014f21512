"""Run the points of an accuracy curve: draw, encode once, score against subsets, keep every finished point."""

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from tqdm.auto import tqdm

from lmops_lab.attention.cache import GroupCache
from lmops_lab.attention.context import BosPolicy, GroupedContext, OwnWeight, log_own_weight
from lmops_lab.attention.encoding import empty_context, encode_token_groups
from lmops_lab.attention.grouping import Tokens, group_by_count
from lmops_lab.files import cache_folder
from lmops_lab.icl.cells import Cell, CellStore, Cost, cell_name
from lmops_lab.icl.curve import ZERO_SHOT, ICLCurve
from lmops_lab.icl.demonstrations import draw_demonstrations, draw_queries
from lmops_lab.icl.prompts import PromptTokens
from lmops_lab.icl.tasks import Task
from lmops_lab.models import LanguageModel

METHODS = ("structured", "sequential")


@dataclass(frozen=True)
class _Plan:
    """A checked experiment, ready to run."""

    lm: LanguageModel
    prompts: PromptTokens
    ks: tuple[int, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    group_size: int
    bos: BosPolicy
    own_weight: OwnWeight
    balanced: bool
    queries: tuple[int, ...]

    def config(self, method: str, k: int, seed: int) -> dict[str, Any]:
        """Everything a cell's scores depend on."""
        shared: dict[str, Any] = {"model": self.lm.fingerprint, "task": self.prompts.task.fingerprint, "bos": self.bos}
        shared |= {"queries": list(self.queries), "method": method, "k": k, "versions": _versions()}
        if method == ZERO_SHOT:
            return shared
        shared |= {"seed": seed, "balanced": self.balanced}
        if method == "sequential":
            return shared
        largest = max(self.ks) if k > self.group_size else k  # groups are aligned to the longest of the largest k
        return shared | {"group_size": self.group_size, "own_weight": self.own_weight, "aligned_to": largest}


def icl_curve(
    lm: LanguageModel,
    task: Task,
    *,
    k: Sequence[int] = (0, 4, 16, 64, 256),
    methods: Sequence[str] = METHODS,
    seeds: int | Sequence[int] = 3,
    queries: int = 200,
    group_size: int = 16,
    bos: BosPolicy = "none",
    own_weight: OwnWeight = "groups",
    balanced: bool = True,
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
        methods: "structured", "sequential" or both. Sequential points that pass the context window are skipped and
            listed in `curve.skipped`.
        seeds: how many draws (1, 2, ...), or the seeds themselves.
        queries: how many test examples are asked.
        group_size: demonstrations a group. Groups end where the longest group of the largest k ends, so a point beyond
            one group can shift in its last digits with the largest k.
        bos: where the BOS token sits (see `encode_groups`).
        own_weight: weight of the query's own attention ("groups": M).
        balanced: draw every label equally often.
        folder: where finished points are kept; default the user's cache folder.
        cache: encoded groups to reuse; default none.

    Raises:
        ValueError: anything that cannot be run, before any slow work.
    """
    plan = _plan(lm, task, k, methods, seeds, queries, group_size, bos, own_weight, balanced)
    store = CellStore(Path(folder) if folder else cache_folder() / "cells")
    total = sum(1 if n == 0 else len(plan.seeds) * len(plan.methods) for n in plan.ks)
    cells: list[Cell] = []
    skipped: dict[tuple[str, int], str] = {}
    with tqdm(total=total, desc=f"{task.name} curve", unit="point", disable=not progress) as bar:
        try:
            for cell in _run(plan, store, cache, skipped, bar):
                cells.append(cell)
                bar.update()
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(f"{len(cells)} finished points are kept in {store.folder}; call again to continue")
            raise
    if not cells:
        raise ValueError(f"no point can be run: {skipped}; use a smaller k or a structured method")
    order = {method: i for i, method in enumerate((ZERO_SHOT, *plan.methods))}
    cells.sort(key=lambda cell: (order[cell.method], cell.k, cell.seed))
    about = {
        "model": lm.fingerprint,
        "task": task.fingerprint,
        "task_name": task.name,
        "k": list(plan.ks),
        "methods": list(plan.methods),
        "seeds": list(plan.seeds),
        "queries": len(plan.queries),
        "group_size": group_size,
        "bos": bos,
        "own_weight": own_weight,
        "balanced": balanced,
        "device": str(lm.device),
        "number_format": lm.number_format.reason,
    }
    return ICLCurve(tuple(cells), task.labels, about, tuple((*at, why) for at, why in skipped.items()))


def _plan(
    lm: LanguageModel,
    task: Task,
    ks: Sequence[int],
    methods: Sequence[str],
    seeds: int | Sequence[int],
    queries: int,
    group_size: int,
    bos: BosPolicy,
    own_weight: OwnWeight,
    balanced: bool,
) -> _Plan:
    """Check everything that can be checked without a forward pass."""
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods:
        raise ValueError(f"methods {list(methods)}: {unknown or 'none given'}; choose among {', '.join(METHODS)}")
    if not ks or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in ks):
        raise ValueError(f"k is {list(ks)}; give one or more whole numbers from 0")
    seeds = tuple(range(1, seeds + 1)) if isinstance(seeds, int) else tuple(int(seed) for seed in seeds)
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds are {list(seeds)}; give at least one, each once, none below 0")
    if group_size < 1:
        raise ValueError(f"group_size is {group_size}; a group holds at least 1 demonstration")
    log_own_weight(own_weight, 1)
    lm.bos_tokens(bos)
    prompts = PromptTokens.of(lm, task)
    asked = draw_queries(task.test, queries)
    longest = max(asked, key=lambda i: len(prompts.query(task.test[i])))
    room = lm.context_length - _own_tokens(prompts, asked)
    if room <= 0:
        raise ValueError(f"test example {longest} alone passes the model's {lm.context_length} positions; shorten it")
    if max(ks) > 0:
        for seed in seeds:
            drawn = draw_demonstrations(task.train, max(ks), seed, balanced=balanced)
            lengths = [len(tokens) for tokens in prompts.demonstrations(drawn)]
            for number, group in enumerate(group_by_count([range(n) for n in lengths], group_size)):
                size = sum(map(len, group)) + 1
                if "structured" in methods and size > room:
                    raise ValueError(
                        f"group {number} of seed {seed} has {size} tokens, but the model has {lm.context_length} "
                        f"positions and the longest query needs {lm.context_length - room}; lower group_size "
                        f"(now {group_size})"
                    )
    return _Plan(
        lm,
        prompts,
        tuple(sorted(set(ks))),
        tuple(dict.fromkeys(methods)),
        seeds,
        group_size,
        bos,
        own_weight,
        balanced,
        tuple(asked),
    )


def _own_tokens(prompts: PromptTokens, asked: Sequence[int]) -> int:
    """Positions that the longest query, content-free ones included, needs with its label."""
    queries = [prompts.query(prompts.task.test[i]) for i in asked]
    return max(map(len, [*queries, *prompts.content_free()])) + max(map(len, prompts.labels))


@functools.cache
def _versions() -> list[str]:
    return [version(name) for name in ("lmops-lab", "torch", "transformers")]


def _run(
    plan: _Plan, store: CellStore, cache: GroupCache | None, skipped: dict[tuple[str, int], str], bar: "tqdm[NoReturn]"
) -> Iterator[Cell]:
    """Yield every cell, from disk where it is finished; contexts are encoded only for seeds with missing cells."""
    positive = [k for k in plan.ks if k > 0]
    if 0 in plan.ks:
        name = cell_name(plan.config(ZERO_SHOT, 0, 0))
        cell = store.read(name)
        if cell is None:
            spent = _Timer()
            context = empty_context(plan.lm, plan.bos)
            cell = _score(plan, ZERO_SHOT, 0, 0, context, spent.seconds(), 0)
            store.write(name, cell, plan.config(ZERO_SHOT, 0, 0))
        yield cell
    for seed in plan.seeds:
        for method in plan.methods:
            names = {k: cell_name(plan.config(method, k, seed)) for k in positive}
            found = {k: store.read(name) for k, name in names.items()}
            missing = [k for k in positive if found[k] is None]
            yield from (cell for cell in found.values() if cell is not None)
            if missing:
                bar.set_postfix_str(f"encoding, {method}, seed {seed}")
            contexts = _structured if method == "structured" else _sequential
            for k, context, encode_s, hits in contexts(plan, seed, missing, cache) if missing else ():
                if context is None:
                    skipped[method, k] = f"the prompt passes the model's {plan.lm.context_length} positions"
                    continue
                bar.set_postfix_str(f"scoring, {method}, seed {seed}, k = {k}")
                cell = _score(plan, method, k, seed, context, encode_s, hits)
                store.write(names[k], cell, plan.config(method, k, seed))
                yield cell


_Made = tuple[int, GroupedContext | None, float, int]  # k, context, seconds to encode, groups read from the cache


def _structured(plan: _Plan, seed: int, ks: Sequence[int], cache: GroupCache | None) -> Iterator[_Made]:
    """Contexts of grouped demonstrations.

    Up to one group, the prompt is an ordinary few-shot prompt and is aligned as such. Beyond, all k share full groups;
    only a last, partly filled group is encoded per k.
    """
    largest = max(plan.ks)
    tokens = plan.prompts.demonstrations(
        draw_demonstrations(plan.prompts.task.train, largest, seed, balanced=plan.balanced)
    )
    size = plan.group_size
    for k in (k for k in ks if k <= size):
        yield (k, *_encode(plan, [tokens[:k]], cache))
    many = [k for k in ks if k > size]
    if not many:
        return
    full = group_by_count(tokens[: largest - largest % size], size)
    rests = {k: tokens[k - k % size : k] for k in sorted({largest, *many}, reverse=True) if k % size}
    pool, encode_s, hits = _encode(plan, [*full, *rests.values()], cache)
    place = {k: len(full) + i for i, k in enumerate(rests)}
    for k in many:
        groups = [*range(k // size), *([place[k]] if k in place else [])]
        yield k, pool.subset(groups), encode_s, hits


def _sequential(plan: _Plan, seed: int, ks: Sequence[int], cache: GroupCache | None) -> Iterator[_Made]:
    """One long prompt, cut back to every k that leaves room for the queries."""
    tokens = plan.prompts.demonstrations(
        draw_demonstrations(plan.prompts.task.train, max(ks), seed, balanced=plan.balanced)
    )
    ends = np.cumsum([len(t) for t in tokens])
    own = _own_tokens(plan.prompts, plan.queries) + len(plan.lm.bos_tokens(plan.bos))
    fitting = [k for k in ks if ends[k - 1] + own <= plan.lm.context_length]
    yield from ((k, None, 0.0, 0) for k in ks if k not in fitting)
    if not fitting:
        return
    whole, encode_s, hits = _encode(plan, [tokens[: max(fitting)]], cache)
    begin = whole.group_tokens[0] - int(ends[max(fitting) - 1])  # the BOS token of the policy "group"
    for k in fitting:
        yield k, whole.cut(int(ends[k - 1]) + begin, k), encode_s, hits


def _encode(
    plan: _Plan, groups: Sequence[Sequence[Tokens]], cache: GroupCache | None
) -> tuple[GroupedContext, float, int]:
    spent, hits = _Timer(), cache.hits if cache else 0
    context = encode_token_groups(
        plan.lm.model,
        groups,
        bos=plan.bos,
        prefix=plan.lm.bos_tokens(plan.bos),
        model_name=plan.lm.fingerprint,
        cache=cache,
        progress=False,
    )
    return context, spent.seconds(), (cache.hits if cache else 0) - hits


def _score(
    plan: _Plan,
    method: str,
    k: int,
    seed: int,
    context: GroupedContext | None,
    encode_s: float,
    hits: int,
) -> Cell:
    task, prompts = plan.prompts.task, plan.prompts
    examples = [task.test[i] for i in plan.queries]
    asked = [prompts.query(example) for example in examples]
    spent = _Timer()
    scores = plan.lm.score(
        [*asked, *prompts.content_free()],
        list(prompts.labels),
        context=context,
        own_weight=plan.own_weight if method == "structured" else 1.0,
    ).numpy()
    cost = Cost(
        encode_s=encode_s,
        score_s=spent.seconds(),
        context_tokens=context.tokens if context else 0,
        kv_bytes=context.nbytes if context else 0,
        groups=context.groups if context and k else 0,
        group_hits=hits,
    )
    gold = np.array([task.labels.index(example.label) for example in examples], dtype=np.int64)
    n = len(asked)
    return Cell(method, k, seed, scores[:n], scores[n:], gold, np.array(plan.queries, dtype=np.int64), cost)


class _Timer:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self.start
