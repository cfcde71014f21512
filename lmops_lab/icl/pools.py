"""Points of an experiment, and pools: demonstrations that are encoded once for many points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lmops_lab.attention.context import BosPolicy, OwnWeight
from lmops_lab.attention.grouping import group_by_count
from lmops_lab.icl.cells import cell_name
from lmops_lab.icl.inputs import Questions, Row
from lmops_lab.icl.retrieval import Candidates


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
        kind: "groups", "prompt" (one long prompt), "alone" (each input has a context of its own) or "none" (zero-shot).
        demonstrations: token ids of the largest k's demonstrations; smaller ones are a beginning or a subset.
        ks: every number of encoded demonstrations that is cut from it.
        candidates: what each input chooses from, where demonstrations are selected.
    """

    kind: str
    demonstrations: tuple[Row, ...]
    ks: tuple[int, ...]
    group_size: int
    bos: BosPolicy
    questions: Questions
    points: tuple[Point, ...] = field(repr=False)
    candidates: Candidates | None = field(default=None, repr=False)

    @property
    def tokens(self) -> int:
        """Tokens of all demonstrations."""
        return sum(map(len, self.demonstrations))

    @property
    def tail(self) -> int:
        """Demonstrations that travel with each input instead of being encoded before it."""
        return self.candidates.selection.carried if self.candidates else 0

    def tail_tokens(self) -> float:
        """How many tokens that is, on average."""
        return self.tail * self.candidates.mean_tokens if self.candidates else 0.0

    def rows(self, points: Sequence[Point]) -> list[int]:
        """Lengths in tokens of the rows that these points need encoded, averages where they depend on a choice."""
        lengths = []
        if points and self.candidates and self.candidates.selection.measure == "embedding":
            lengths += [len(row) for row in (*self.candidates.tokens, *self.questions.inputs)]
        if self.kind == "none":
            return []
        if self.kind == "alone":
            return lengths + [self.seen(point) for point in points for _ in self.questions.inputs]
        if self.kind == "prompt":
            return [*lengths, self.tokens]
        size = self.group_size
        small = [k for k in self.ks if k <= size]
        whole = self.candidates is not None and not self.tail  # every point chooses among all groups
        first = [p for p in points if p.k - self.tail <= size and p.groups is None and not whole]
        if first:
            lengths.append(sum(map(len, self.demonstrations[: max(small)])))
        if len(first) < len(points):
            largest = len(self.demonstrations)
            lengths += [sum(map(len, self.demonstrations[i - size : i])) for i in range(size, largest + 1, size)]
            partly = sorted({n for n in (largest, *self.ks) if n > size and n % size})
            lengths += [sum(map(len, self.demonstrations[n - n % size : n])) for n in partly]
        return lengths

    def seen(self, point: Point) -> int:
        """Tokens of demonstrations that an input of a point can attend to, an average where they are chosen."""
        if self.candidates is not None:
            return round(point.k * self.candidates.mean_tokens)
        if point.groups is not None:
            groups = group_by_count(self.demonstrations, self.group_size)
            return sum(len(row) for number in point.groups for row in groups[number])
        return sum(map(len, self.demonstrations[: point.k]))

    def anew(self, point: Point) -> int:
        """Tokens of demonstrations that this point would encode if it shared nothing with others, as in `rows`."""
        if self.kind == "alone":
            return self.seen(point) * len(self.questions.inputs)
        if self.candidates is not None and not self.tail:
            return self.tokens
        return sum(map(len, self.demonstrations[: point.k - self.tail])) if point.groups is None else self.seen(point)


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
