"""Encodes a pool's demonstrations once and scores its points: the one place that needs the model's weights."""

import functools
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from lmops_lab.attention.cache import GroupCache
from lmops_lab.attention.context import BosPolicy, GroupedContext, OwnWeight
from lmops_lab.attention.encoding import empty_context, encode_token_groups
from lmops_lab.attention.grouping import Tokens, group_by_count
from lmops_lab.attention.methods import METHODS
from lmops_lab.icl.calibration import Scores
from lmops_lab.icl.cells import Cell, Cost
from lmops_lab.icl.choices import score_distinct
from lmops_lab.icl.plan import DOUBLE
from lmops_lab.icl.pools import Point, Pool
from lmops_lab.icl.retrieval import Ask, Chooser, together
from lmops_lab.models import LanguageModel
from lmops_lab.shapes import LabelScores


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
        self._chooser = Chooser(lm, pool.candidates, pool.questions) if pool.candidates else None

    def score(self, point: Point) -> Cell:
        """The cell of a point."""
        asks, encode_s, hits = self.asks(point)
        where = (point.method, point.k, point.seed, point.own_weight)
        return _score(self.pool, *where, self.lm, asks, encode_s, hits, self._alone)

    def asks(self, point: Point) -> tuple[Iterable[Ask], float, int]:
        """A point's inputs by their context; seconds to make what they share, and groups that came from the cache."""
        pool, chooser = self.pool, self._chooser
        inputs, everything = pool.questions.inputs, range(len(pool.questions.inputs))
        if chooser is None:
            context, encode_s, hits = self.context(point)
            return [Ask(everything, inputs, context)], encode_s, hits
        if pool.kind == "alone":
            return self._alone_each(point, chooser), chooser.seconds, 0
        if pool.tail:
            context, encode_s, hits = self.context(replace(point, k=point.k - pool.tail))
            rows = chooser.with_tails(skip=point.k - pool.tail)
            return [Ask(everything, rows, context)], encode_s + chooser.seconds, hits
        context, encode_s, hits = self._once("groups", group_by_count(pool.demonstrations, pool.group_size))
        chosen = together(chooser.groups(point.k // pool.group_size, pool.group_size))
        asks = (Ask(rows, [inputs[i] for i in rows], context.subset(groups)) for groups, rows in chosen.items())
        return asks, encode_s + chooser.seconds, hits

    def _alone_each(self, point: Point, chooser: Chooser) -> Iterator[Ask]:
        """Each choice of demonstrations with the inputs that made it; one context is held at a time."""
        pool, tokens = self.pool, chooser.candidates.tokens
        size = point.k if point.method == "sequential" else pool.group_size
        for choice, numbers in together(chooser.examples(point.k)).items():
            groups = group_by_count([tokens[i] for i in choice], size)
            context, encode_s, _ = _encode(self.lm, pool.bos, groups, None)
            yield Ask(numbers, [pool.questions.inputs[i] for i in numbers], context, encode_s)

    @functools.cached_property
    def _alone(self) -> list[Scores]:
        """Log-probabilities of answers without demonstrations, where a task's scores need them: the same everywhere."""
        if self.pool.questions.alone is None:
            return []
        prompt, answers = self.pool.questions.alone
        return [score_distinct(self.lm.score, [prompt], some)[0] for some in answers]

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
    asks: Iterable[Ask],
    encode_s: float,
    hits: int,
    alone: Sequence[Scores],
) -> Cell:
    asked = pool.questions
    found: list[Scores] = [np.empty(0)] * len(asked.inputs)
    score_s, tokens, held, groups = 0.0, 0, 0, 0
    for ask in asks:
        spent = _Timer()
        for numbers, rows, values in _values(lm, method, ask, asked.answers, own_weight):
            for number, row, value in zip(numbers, rows, values, strict=True):
                found[number] = value
                tokens += len(row) - len(asked.inputs[number]) + (ask.context.tokens if ask.context else 0)
        score_s += spent.seconds()
        encode_s += ask.encode_s
        if ask.context:
            held, groups = max(held, ask.context.nbytes), max(groups, ask.context.groups if k else 0)
    cost = Cost(encode_s, score_s, round(tokens / len(asked.inputs)), held, groups, hits)
    gold, places = (np.array(values, dtype=np.int64) for values in (asked.gold, asked.places))
    parts = {name: values.astype(np.float32) for name, values in asked.parts(found, alone).items()}
    return Cell(method, k, seed, gold=gold, queries=places, cost=cost, **parts)


def _values(
    lm: LanguageModel, method: str, ask: Ask, answers: Sequence[Sequence[Tokens]], own_weight: OwnWeight
) -> Iterator[tuple[Sequence[int], Sequence[Tokens], Scores]]:
    """Log-probabilities of the answers of inputs, those side by side that have the same answers in one pass."""

    def score(rows: Sequence[Tokens], labels: Sequence[Tokens]) -> LabelScores:
        return _log_probabilities(lm, method, rows, labels, ask.context, own_weight)

    pairs = zip(ask.numbers, ask.rows, strict=True)
    for said, alike in itertools.groupby(pairs, key=lambda pair: answers[pair[0]]):
        numbers, rows = zip(*alike, strict=True)
        yield numbers, rows, score_distinct(score, rows, said)


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
