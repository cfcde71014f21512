"""What an experiment will do: every point with its tokens and its name, checked before any slow work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lmops_lab.attention.context import BosPolicy, OwnWeight, log_own_weight
from lmops_lab.attention.grouping import group_by_count
from lmops_lab.icl.cells import cell_name
from lmops_lab.icl.curve import ZERO_SHOT
from lmops_lab.icl.demonstrations import draw_queries
from lmops_lab.icl.draws import Draw
from lmops_lab.icl.prompts import PromptTokens
from lmops_lab.icl.tasks import Example, Task
from lmops_lab.models import LanguageModel

Row = tuple[int, ...]  # token ids

# "2groups" is a factor on M and becomes a number once M is known; the attention itself knows the other words.
DOUBLE = "2groups"


@dataclass(frozen=True)
class Questions:
    """What is asked at every point of a task, in one model's tokens.

    Attributes:
        queries: token ids of each query; content_free: of the inputs without content; domain: of random in-domain
            texts; labels: of each label.
        gold: index of each query's right label.
        places: index of each query in the task's test examples.
        names: label names in the order of the scores.
    """

    queries: tuple[Row, ...]
    content_free: tuple[Row, ...]
    domain: tuple[Row, ...]
    labels: tuple[Row, ...]
    gold: tuple[int, ...]
    places: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def inputs(self) -> tuple[Row, ...]:
        """All that is scored at a point: queries, then inputs without content, then in-domain texts."""
        return (*self.queries, *self.content_free, *self.domain)

    @property
    def own_tokens(self) -> int:
        """Positions that the longest input needs with its label."""
        return max(map(len, self.inputs)) + max(map(len, self.labels))


@dataclass(frozen=True)
class Point:
    """One cell to be: where it lies in the experiment, and the name that its content gives it.

    Attributes:
        groups: which groups of the pool it uses; None for the leading ones that k asks for.
        config: everything its scores depend on; `name` is its hash.
        settings: what a reader filters by (see `lmops_lab.icl.cells.SETTINGS`).
    """

    method: str
    k: int
    seed: int
    own_weight: OwnWeight
    config: Mapping[str, Any] = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)
    groups: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """Content hash."""
        return cell_name(self.config)


@dataclass(frozen=True)
class Pool:
    """Demonstrations that are encoded once, and every point that this one encoding serves.

    Plain data that can be sent to another process. What is encoded depends on `ks` alone, never on which points are
    still missing, so a continued experiment gives the very same numbers.

    Attributes:
        kind: "groups", "prompt" (one long prompt) or "none" (zero-shot).
        demonstrations: token ids of the largest k's demonstrations; smaller ones are a beginning or a subset.
        ks: every k that is cut from it.
    """

    kind: str
    demonstrations: tuple[Row, ...]
    ks: tuple[int, ...]
    group_size: int
    bos: BosPolicy
    questions: Questions
    points: tuple[Point, ...] = field(repr=False)

    @property
    def tokens(self) -> int:
        """Tokens of all demonstrations."""
        return sum(map(len, self.demonstrations))


@dataclass(frozen=True)
class Plan:
    """A checked experiment on one task with one model: its pools, and the points that cannot exist."""

    ks: tuple[int, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    questions: Questions
    pools: tuple[Pool, ...]
    skipped: Mapping[tuple[str, int], str]

    @property
    def points(self) -> list[Point]:
        """All points, in the order they run."""
        return [point for pool in self.pools for point in pool.points]


@dataclass(frozen=True)
class Setting:
    """Everything about an experiment but its model and its task. See `lmops_lab.icl_curve` for the meanings.

    Attributes:
        own_weights: one or more; all are scored against the same encoded groups.
        pool_groups: None: every seed draws its own demonstrations. A number: all seeds choose among this many groups,
            drawn and encoded once.
    """

    ks: tuple[int, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    queries: int
    group_size: int
    bos: BosPolicy
    own_weights: tuple[OwnWeight, ...]
    draw: Draw
    versions: tuple[str, ...]
    pool_groups: int | None = None

    def __post_init__(self) -> None:
        if not self.ks or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in self.ks):
            raise ValueError(f"k is {list(self.ks)}; give one or more whole numbers from 0")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds are {list(self.seeds)}; give at least one, each once, none below 0")
        if self.group_size < 1:
            raise ValueError(f"group_size is {self.group_size}; a group holds at least 1 demonstration")
        for weight in self.own_weights:
            check_own_weight(weight)
        if self.pool_groups is not None and not self.draw.nested:
            raise ValueError(
                f"order is {self.draw.order!r}, but with pool_groups seeds choose whole groups; give one of them up"
            )
        if self.pool_groups is not None:
            uneven = [k for k in self.ks if k % self.group_size]
            if uneven or max(self.ks) > self.pool_groups * self.group_size or "sequential" in self.methods:
                raise ValueError(
                    f"k = {list(self.ks)} from a pool of {self.pool_groups} groups of {self.group_size}: every k has "
                    f"to be whole groups, at most {self.pool_groups * self.group_size}, and without 'sequential'"
                )


def check_own_weight(weight: OwnWeight) -> None:
    """Refuse an own weight that is no word or positive number.

    Raises:
        ValueError: naming the weight and what is possible.
    """
    if weight != DOUBLE:
        log_own_weight(weight, 1)


def make_plan(lm: LanguageModel, task: Task, setting: Setting) -> Plan:
    """Check everything that can be checked without a forward pass, and name every point.

    The model's weights are not used: an outline of it (`lmops_lab.icl.outlines`) is enough.

    Raises:
        ValueError: anything that cannot be run.
    """
    lm.bos_tokens(setting.bos)
    prompts = PromptTokens.of(lm, task)
    places = draw_queries(task.test, setting.queries)
    asked = [task.test[i] for i in places]
    questions = Questions(
        tuple(tuple(prompts.query(example)) for example in asked),
        tuple(map(tuple, prompts.content_free())),
        tuple(map(tuple, prompts.domain())),
        prompts.labels,
        tuple(task.labels.index(example.label) for example in asked),
        tuple(places),
        task.labels,
    )
    room = lm.context_length - questions.own_tokens
    if room <= 0:
        longest = places[max(range(len(places)), key=lambda i: len(questions.queries[i]))]
        raise ValueError(f"test example {longest} alone passes the model's {lm.context_length} positions; shorten it")
    namer = _Namer(lm, task, setting, places)
    pools = [Pool("none", (), (0,), 1, setting.bos, questions, (namer.zero_shot(),))] if 0 in setting.ks else []
    skipped: dict[tuple[str, int], str] = {}
    grouped = [method for method in setting.methods if method != "sequential"]
    draws = _draws(task, setting)
    for seed, ks, drawn in draws:
        tokens = tuple(map(tuple, prompts.demonstrations(drawn)))
        if grouped:
            _check_groups(tokens, seed, setting.group_size, lm.context_length, room)
            points = tuple(namer.grouped(grouped, ks, draw_seed=seed))
            pools.append(Pool("groups", tokens, ks, setting.group_size, setting.bos, questions, points))
        if "sequential" in setting.methods:
            ends = np.cumsum([len(t) for t in tokens]) + len(lm.bos_tokens(setting.bos))
            fitting = tuple(k for k in ks if ends[k - 1] <= room)
            for k in sorted(set(ks) - set(fitting)):
                skipped["sequential", k] = f"the prompt passes the model's {lm.context_length} positions"
            if fitting:
                points = tuple(namer.sequential(k, seed) for k in fitting)
                held = tokens[: max(fitting)]
                pools.append(Pool("prompt", held, fitting, setting.group_size, setting.bos, questions, points))
    return Plan(setting.ks, setting.methods, setting.seeds, questions, tuple(pools), skipped)


def leave_one_out(pool: Pool) -> Pool:
    """The same encoded groups with one point that uses all of them and one for each group left out.

    Raises:
        ValueError: a pool without at least two full groups.
    """
    groups = -(-len(pool.demonstrations) // pool.group_size)
    if pool.kind != "groups" or groups < 2:
        raise ValueError(f"leaving one group out needs 2 groups or more; this pool has {groups} ({pool.kind})")
    whole = max(pool.points, key=lambda point: point.k)
    points = [replace(whole, groups=tuple(range(groups)))]
    for left in range(groups):
        kept = tuple(g for g in range(groups) if g != left)
        config = {**whole.config, "groups": list(kept)}
        points.append(replace(whole, k=_examples(pool, kept), groups=kept, config=config))
    return replace(pool, points=tuple(points))


def _examples(pool: Pool, groups: Sequence[int]) -> int:
    sizes = [len(g) for g in group_by_count(pool.demonstrations, pool.group_size)]
    return sum(sizes[g] for g in groups)


def _draws(task: Task, setting: Setting) -> list[tuple[int, tuple[int, ...], list[Example]]]:
    """Each encoding to be: the seed that drew it, the numbers of demonstrations cut from it, the demonstrations."""
    ks = tuple(k for k in setting.ks if k)
    if not ks:
        return []
    if setting.pool_groups is not None:
        return [(0, ks, setting.draw.demonstrations(task, setting.pool_groups * setting.group_size, 0))]
    # In another order than the drawn one, 8 demonstrations are not the first of 64: every k is a draw of its own.
    cuts = [ks] if setting.draw.nested else [(k,) for k in ks]
    return [(seed, cut, setting.draw.demonstrations(task, max(cut), seed)) for seed in setting.seeds for cut in cuts]


def _check_groups(tokens: Sequence[Row], seed: int, group_size: int, positions: int, room: int) -> None:
    for number, group in enumerate(group_by_count(tokens, group_size)):
        size = sum(map(len, group)) + 1  # a BOS token may come on top
        if size > room:
            raise ValueError(
                f"group {number} of seed {seed} has {size} tokens, but the model has {positions} positions and the "
                f"longest query needs {positions - room}; lower group_size (now {group_size})"
            )


@dataclass(frozen=True)
class _Namer:
    """Says for each point what its scores depend on, and nothing that they do not: equal work has one name."""

    lm: LanguageModel
    task: Task
    setting: Setting
    places: Sequence[int]

    def zero_shot(self) -> Point:
        return self._point(ZERO_SHOT, 0, 0, 1, {}, {})

    def sequential(self, k: int, seed: int) -> Point:
        about = {"seed": seed, **self.setting.draw.settings}
        return self._point("sequential", k, seed, 1, about, about)

    def grouped(self, methods: Sequence[str], ks: Sequence[int], draw_seed: int) -> list[Point]:
        """Points of one pool, k by k, so that a method's points of one k lie side by side."""
        setting, size = self.setting, self.setting.group_size
        points = []
        pooled = setting.pool_groups is not None
        orders = {
            seed: tuple(np.random.default_rng([seed, 2]).permutation(setting.pool_groups or 0).tolist())
            for seed in (setting.seeds if pooled else (draw_seed,))
        }
        for k in ks:
            for seed, order in orders.items():
                about: dict[str, Any] = {"seed": seed, **setting.draw.settings, "group_size": size}
                depends = {**about, "aligned_to": max(ks) if k > size else k}  # groups end where the longest one does
                chosen = None
                if pooled:
                    depends |= {"pool_groups": setting.pool_groups, "aligned_to": "pool"}
                    chosen = order[: k // size]
                for method in methods:
                    # The other methods have no own weight; they are scored once, whatever weights are swept.
                    for weight in setting.own_weights if method == "structured" else (1,):
                        own = {"own_weight": weight} if method == "structured" else {}
                        shown = {**about, **{name: str(value) for name, value in own.items()}}
                        points.append(self._point(method, k, seed, weight, depends | own, shown, chosen))
        return points

    def _point(
        self,
        method: str,
        k: int,
        seed: int,
        weight: OwnWeight,
        depends: Mapping[str, Any],
        shown: Mapping[str, Any],
        groups: tuple[int, ...] | None = None,
    ) -> Point:
        bos, where = self.setting.bos, {"method": method, "k": k}
        shared = {"model": self.lm.fingerprint, "task": self.task.fingerprint, "bos": bos, **where}
        config = {**shared, "queries": list(self.places), "versions": list(self.setting.versions), **depends}
        # A point without a draw has no seed to show.
        settings = {"model": self.lm.name, "task": self.task.name, "bos": bos, **where, "seed": None, **shown}
        return Point(method, k, seed, weight, config, settings, groups)
