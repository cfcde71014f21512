"""What an experiment will do: every point with its tokens and its name, checked before any slow work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmops_lab.attention.context import BosPolicy, OwnWeight, log_own_weight
from lmops_lab.attention.grouping import group_by_count
from lmops_lab.icl.curve import ZERO_SHOT
from lmops_lab.icl.demonstrations import draw_queries
from lmops_lab.icl.draws import Draw, pool_order
from lmops_lab.icl.inputs import ChoiceQuestions, Questions, Row, ask
from lmops_lab.icl.pools import Point, Pool
from lmops_lab.icl.prompts import DOMAIN_TEXTS
from lmops_lab.icl.retrieval import Candidates
from lmops_lab.icl.selections import NO_SELECTION, Selection
from lmops_lab.icl.tasks import MULTIPLE_CHOICE, Example, Task
from lmops_lab.models import LanguageModel

# "2groups" is a factor on M and becomes a number once M is known; the attention itself knows the other words.
DOUBLE = "2groups"


@dataclass(frozen=True)
class Plan:
    """A checked experiment on one task with one model: its pools, and the points that cannot exist for some seed."""

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
        domain: how many random in-domain texts are scored at every point of a classification.
        answer_tokens: how long an answer in free text may be; 0: log-probabilities of given answers are wanted.
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
    selection: Selection = NO_SELECTION
    domain: int = DOMAIN_TEXTS
    answer_tokens: int = 0

    def __post_init__(self) -> None:
        if not self.ks or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in self.ks):
            raise ValueError(f"k is {list(self.ks)}; give one or more whole numbers from 0")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds are {list(self.seeds)}; give at least one, each once, none below 0")
        if self.group_size < 1:
            raise ValueError(f"group_size is {self.group_size}; a group holds at least 1 demonstration")
        for weight in self.own_weights:
            check_own_weight(weight)
        if self.domain < 0:
            raise ValueError(f"domain is {self.domain}; give the number of in-domain texts, 0 for none")
        if self.selection and (self.pool_groups is not None or not self.draw.nested):
            other = f"order {self.draw.order!r}" if self.pool_groups is None else f"pool_groups {self.pool_groups}"
            raise ValueError(f"selection {self.selection.way!r} says itself what stands where; {other} cannot, too")
        self.selection.check(self.ks, self.methods, self.group_size)
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
    if task.kind == MULTIPLE_CHOICE and "ensemble" in setting.methods:
        raise ValueError(
            f"task {task.name!r} is of kind {task.kind!r}, but 'ensemble' lets groups vote with distributions over "
            f"fixed labels; leave it out of the methods ({', '.join(setting.methods)})"
        )
    lm.bos_tokens(setting.bos)
    places = draw_queries(task.test, setting.queries)
    prompts, questions = ask(lm, task, places, setting.domain, setting.answer_tokens)
    room = lm.context_length - questions.own_tokens
    if room <= 0:
        asked = [number for number in range(len(questions.inputs)) if questions.place_of(number) >= 0]
        longest = questions.place_of(max(asked, key=lambda number: len(questions.inputs[number])))
        raise ValueError(f"test example {longest} alone passes the model's {lm.context_length} positions; shorten it")
    namer = _Namer(lm, task, setting, questions)
    pools = [Pool("none", (), (0,), 1, setting.bos, questions, (namer.zero_shot(),))] if 0 in setting.ks else []
    unfit: dict[int, list[int]] = {}  # k: seeds whose long prompt does not fit
    for seed, ks, drawn in _draws(task, setting):
        tokens = tuple(map(tuple, prompts.demonstrations(drawn)))
        candidates = None
        if setting.selection:
            texts = tuple(task.query(example.fields) for example in drawn)
            candidates = Candidates(setting.selection, tokens, texts)
        found, too_long = _pools(namer, seed, ks, tokens, candidates, room)
        pools += found
        for k in too_long:
            unfit.setdefault(k, []).append(seed)
    skipped = {("sequential", k): _reason(lm, setting, of) for k, of in sorted(unfit.items())}
    return Plan(setting.ks, setting.methods, setting.seeds, questions, tuple(pools), skipped)


def _pools(
    namer: "_Namer", seed: int, ks: tuple[int, ...], tokens: tuple[Row, ...], candidates: Candidates | None, room: int
) -> tuple[list[Pool], list[int]]:
    """The pools of one draw, and the k at which its long prompt does not fit into the model."""
    lm, setting, questions = namer.lm, namer.setting, namer.questions
    selection, size, bos = setting.selection, setting.group_size, setting.bos
    methods = [method for method in setting.methods if method != "sequential"]
    if candidates is not None:
        room -= candidates.longest(selection.carried)
    alone = candidates is not None and selection.alone
    if alone:  # whatever a query chooses, it is no longer than the longest candidates
        tokens = tuple(sorted(tokens, key=len, reverse=True)[: max(ks)])
    encoded = tokens if candidates is None or not selection.carried else tokens[: max(ks) - selection.carried]
    if methods:
        hint = f" or tail (now {selection.tail})" if selection.carried else ""
        _check_groups(encoded, seed, size, lm.context_length, room, hint)
    pools: list[Pool] = []
    fitting: tuple[int, ...] = ()
    if "sequential" in setting.methods:
        ends = np.cumsum([len(row) for row in tokens]) + len(lm.bos_tokens(bos))
        fitting = tuple(k for k in ks if ends[k - selection.carried - 1] <= room)
    unfit = [k for k in ks if k not in fitting] if "sequential" in setting.methods else []
    grouped, prompts = tuple(namer.grouped(methods, ks, seed)), tuple(namer.sequential(k, seed) for k in fitting)
    if alone:
        points = (*grouped, *prompts)
        return [Pool("alone", (), ks, size, bos, questions, points, candidates)] if points else [], unfit
    if grouped:
        cut = (len(tokens),) if selection.way == "groups" else tuple(k - selection.carried for k in ks)
        pools.append(Pool("groups", encoded, cut, size, bos, questions, grouped, candidates))
    if prompts:
        cut = tuple(k - selection.carried for k in fitting)
        pools.append(Pool("prompt", tokens[: max(cut)], cut, size, bos, questions, prompts, candidates))
    return pools, unfit


def _reason(lm: LanguageModel, setting: Setting, seeds: Sequence[int]) -> str:
    """Why a long prompt is left out, naming the seeds where it is not left out for all."""
    some = f" of seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    whose = some if len(seeds) < len(setting.seeds) else ""
    return f"the prompt{whose} passes the model's {lm.context_length} positions"


def _draws(task: Task, setting: Setting) -> list[tuple[int, tuple[int, ...], list[Example]]]:
    """Each encoding to be: the seed that drew it, the numbers of demonstrations cut from it, the demonstrations."""
    ks = tuple(k for k in setting.ks if k)
    if not ks:
        return []
    if setting.pool_groups is not None:
        return [(0, ks, setting.draw.demonstrations(task, setting.pool_groups * setting.group_size, 0))]
    if setting.selection:
        try:
            return [
                (seed, ks, setting.draw.demonstrations(task, setting.selection.candidates, seed))
                for seed in setting.seeds
            ]
        except ValueError as error:
            raise ValueError(f"candidates is {setting.selection.candidates}: {error}") from error
    # In another order than the drawn one, 8 demonstrations are not the first of 64: every k is a draw of its own.
    cuts = [ks] if setting.draw.nested else [(k,) for k in ks]
    return [(seed, cut, setting.draw.demonstrations(task, max(cut), seed)) for seed in setting.seeds for cut in cuts]


def _check_groups(tokens: Sequence[Row], seed: int, group_size: int, positions: int, room: int, hint: str) -> None:
    for number, group in enumerate(group_by_count(tokens, group_size)):
        size = sum(map(len, group)) + 1  # a BOS token may come on top
        if size > room:
            raise ValueError(
                f"group {number} of seed {seed} has {size} tokens, but the model has {positions} positions and the "
                f"longest query needs {positions - room}; lower group_size (now {group_size}){hint}"
            )


@dataclass(frozen=True)
class _Namer:
    """Says for each point what its scores depend on, and nothing that they do not: equal work has one name."""

    lm: LanguageModel
    task: Task
    setting: Setting
    questions: Questions

    def zero_shot(self) -> Point:
        return self._point(ZERO_SHOT, 0, 0, 1, {}, {})

    def sequential(self, k: int, seed: int) -> Point:
        depends, shown = self._drawn(seed)
        return self._point("sequential", k, seed, 1, depends, shown)

    def grouped(self, methods: Sequence[str], ks: Sequence[int], draw_seed: int) -> list[Point]:
        """Points of one pool, k by k, so that a method's points of one k lie side by side."""
        setting, size = self.setting, self.setting.group_size
        points = []
        pooled = setting.pool_groups is not None
        orders = {
            seed: pool_order(seed, setting.pool_groups or 0) for seed in (setting.seeds if pooled else (draw_seed,))
        }
        for k in ks:
            for seed, order in orders.items():
                depends, about = ({**what, "group_size": size} for what in self._drawn(seed))
                depends |= self._alignment(k, max(ks))
                chosen = order[: k // size] if pooled else None
                for method in methods:
                    # The other methods have no own weight; they are scored once, whatever weights are swept.
                    for weight in setting.own_weights if method == "structured" else (1,):
                        own = {"own_weight": weight} if method == "structured" else {}
                        shown = {**about, **{name: str(value) for name, value in own.items()}}
                        points.append(self._point(method, k, seed, weight, depends | own, shown, chosen))
        return points

    def _drawn(self, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the demonstrations depend on, and what is shown of it."""
        drawn = {"seed": seed, **self.setting.draw.settings}
        selected = self.setting.selection.settings
        return drawn | (selected if self.setting.selection else {}), drawn | selected

    def _alignment(self, k: int, most: int) -> dict[str, Any]:
        """Groups end where the longest one that is encoded with them does, which may be another k's."""
        setting = self.setting
        if setting.pool_groups is not None:
            return {"pool_groups": setting.pool_groups, "aligned_to": "pool"}
        if setting.selection and not setting.selection.carried:  # to those of the candidates, or of the query
            return {}
        encoded = k - setting.selection.carried
        return {"aligned_to": most - setting.selection.carried if encoded > setting.group_size else encoded}

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
        shared |= {"queries": list(self.questions.places), "versions": list(self.setting.versions)}
        domain = self.setting.domain
        if domain != DOMAIN_TEXTS and not isinstance(self.questions, ChoiceQuestions):
            shared["domain"] = domain
        if self.setting.answer_tokens:
            shared["answer_tokens"] = self.setting.answer_tokens
        # A point without a draw has no seed to show.
        settings = {"model": self.lm.name, "task": self.task.name, "bos": bos, **where, "seed": None, **shown}
        return Point(method, k, seed, weight, {**shared, **depends}, settings, groups)
