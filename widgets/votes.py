"""Blind pairwise votes: which pairs are shown in which order, and what the answers say."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, NamedTuple, get_args

import choix
import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

Choice = Literal["left", "right", "tie", "bad"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
_Z = float(norm.ppf(0.975))


@dataclass(frozen=True)
class Pair:
    """One question to the voter: two systems' results for the same item; `repeat` is a hidden second showing."""

    item: int
    left: str
    right: str
    repeat: bool = False


@dataclass(frozen=True)
class Vote:
    """An answer: to pair number `pair`, after `seconds` of looking."""

    pair: int
    choice: Choice
    seconds: float = 0.0


class Share(NamedTuple):
    """A share of cases with its Wilson 95 % interval; None where there is no case."""

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class WinRate:
    """How often `left` was preferred to `right` among the votes that chose one of them.

    Attributes:
        share: wins / (wins + losses), Wilson interval; ties and "both bad" are counted apart.
        more: about how many more deciding votes until the interval leaves one half, if the rate stays as it is.
            0: it has left it; None: no difference in sight.
    """

    left: str
    right: str
    wins: int
    losses: int
    ties: int
    bad: int
    share: Share
    more: int | None


@dataclass(frozen=True)
class Results:
    """What all votes say.

    Attributes:
        rates: one entry for each two systems.
        strength: Bradley-Terry scores, mean 0; a difference d means a chance of 1 / (1 + exp(-d)) to win.
        strength_low, strength_high: 95 % interval from resampled items.
        left_chosen: share of deciding votes for the left side; away from one half it is a position bias.
        consistency: share of hidden repeats that got the same answer.
    """

    votes: int
    rates: tuple[WinRate, ...]
    strength: Mapping[str, float]
    strength_low: Mapping[str, float]
    strength_high: Mapping[str, float]
    left_chosen: Share
    consistency: Share


def draw_pairs(systems: Sequence[str], items: int, *, seed: int = 0, repeats: float = 0.1) -> tuple[Pair, ...]:
    """All pairs of systems on all items, in random order and on random sides, some shown twice.

    Sides are balanced: each system of a pair is on the left in half of the items (up to one). A repeat swaps the sides
    and comes as late as possible after its first showing.

    Args:
        systems: names of what is compared; at least two.
        items: number of items that every system has a result for.
        seed: of the order, the sides and the choice of repeats.
        repeats: share of pairs shown a second time.
    """
    if len(systems) < 2 or len(set(systems)) < len(systems):
        raise ValueError(f"a vote needs two or more systems with different names, not {list(systems)}")
    if items < 1:
        raise ValueError("a vote needs at least one item; every system has none")
    if not 0 <= repeats <= 1:
        raise ValueError(f"repeats is a share between 0 and 1, not {repeats}")
    rng = np.random.default_rng(seed)
    first = []
    for a, b in combinations(systems, 2):
        swapped = rng.permutation(np.arange(items) % 2 == 1)
        first += [Pair(i, b, a) if swap else Pair(i, a, b) for i, swap in enumerate(swapped)]
    order = [first[i] for i in rng.permutation(len(first))]
    again = order[: math.ceil(repeats * len(order))] if repeats else []
    shuffled = [again[i] for i in rng.permutation(len(again))]
    # Repeats are spread over the second half, so that the voter neither meets them at once nor sees a block of them.
    half = len(order) - len(again)
    late = order[half:]
    mixed = [*late, *(Pair(p.item, p.right, p.left, repeat=True) for p in shuffled)]
    tail = [mixed[i] for i in rng.permutation(len(mixed))]
    return tuple(_after_first([*order[:half], *tail]))


def schedule_hash(pairs: Sequence[Pair], fingerprint: str = "") -> str:
    """Names a schedule: votes count only for the pairs (and contents) they were given for."""
    text = json.dumps([fingerprint, *([p.item, p.left, p.right, p.repeat] for p in pairs)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- what votes say ---


def results(pairs: Sequence[Pair], votes: Sequence[Vote], *, seed: int = 0, resamples: int = 200) -> Results:
    """Win rates, Bradley-Terry scores, position bias and consistency. Hidden repeats count for the last only.

    Args:
        pairs: the schedule.
        votes: answers so far, in any order.
        seed: of the resampling of items.
        resamples: how many.
    """
    systems = _systems(pairs)
    answers = {vote.pair: vote.choice for vote in votes}
    shown = [(pairs[i], choice) for i, choice in answers.items()]
    counted = [(pair, choice) for pair, choice in shown if not pair.repeat]
    point, low, high = _strengths(systems, counted, seed, resamples)
    sides = Counter(choice for _, choice in shown)
    return Results(
        votes=len(answers),
        rates=win_rates(pairs, votes),
        strength=dict(zip(systems, point, strict=True)),
        strength_low=dict(zip(systems, low, strict=True)),
        strength_high=dict(zip(systems, high, strict=True)),
        left_chosen=wilson(sides["left"], sides["left"] + sides["right"]),
        consistency=_consistency(shown),
    )


def win_rates(pairs: Sequence[Pair], votes: Sequence[Vote]) -> tuple[WinRate, ...]:
    """How often each system was preferred to each other one, first showings only."""
    first = [(pairs[vote.pair], vote.choice) for vote in votes if not pairs[vote.pair].repeat]
    return tuple(_rate(a, b, first) for a, b in combinations(_systems(pairs), 2))


def wilson(successes: int, n: int) -> Share:
    """A share with Wilson's 95 % interval, which holds for few cases and near 0 and 1.

    >>> wilson(7, 10)
    Share(value=0.7, low=0.39677..., high=0.89220..., n=10)
    """
    if n == 0:
        return Share(None, None, None, 0)
    bounds = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return Share(successes / n, float(bounds.low), float(bounds.high), n)


def votes_to_decide(wins: int, losses: int) -> int | None:
    """About how many more deciding votes until Wilson's interval leaves one half, at the present rate.

    The interval excludes one half once n >= z^2 / (4 (p - 1/2)^2). Looking after every vote and stopping at the first
    sign of a difference finds differences that are not there: fix the number of votes before, with this as a guide.

    >>> votes_to_decide(6, 4), votes_to_decide(60, 40), votes_to_decide(5, 5)
    (87, 0, None)
    """
    n = wins + losses
    if wins == losses:
        return None
    return max(0, math.ceil(_Z**2 / (4 * (wins / n - 0.5) ** 2)) - n)


def winner(pair: Pair, choice: Choice) -> str | None:
    """The preferred system, or None for a tie and for "both bad"."""
    return pair.left if choice == "left" else pair.right if choice == "right" else None


def describe(found: Results) -> dict[str, Any]:
    """Results as plain rows for a table: rates, strengths, and two sentences about the voter."""
    rates = [
        {
            "pair": f"{rate.left} against {rate.right}",
            "wins": f"{rate.wins} : {rate.losses}",
            "ties": rate.ties,
            "bad": rate.bad,
            "rate": share_text(rate.share),
            "value": [rate.share.value, rate.share.low, rate.share.high],
            "more": "no difference in sight" if rate.more is None else f"{rate.more:,}" if rate.more else "decided",
        }
        for rate in found.rates
    ]
    strengths = [
        {
            "system": name,
            "score": _score(found.strength[name]),
            "low": _score(found.strength_low[name]),
            "high": _score(found.strength_high[name]),
        }
        for name in sorted(found.strength, key=lambda name: -found.strength[name])
    ]
    left, again = found.left_chosen, found.consistency
    bias = "no deciding vote yet" if left.value is None else f"left side chosen: {share_text(left)}"
    if left.low is not None and left.high is not None and not left.low <= 0.5 <= left.high:
        bias += " - the side mattered"
    steady = "no hidden repeat was judged" if again.value is None else f"same answer to a repeat: {share_text(again)}"
    return {"votes": found.votes, "rates": rates, "strengths": strengths, "bias": bias, "consistency": steady}


def share_text(share: Share) -> str:
    """A share with its interval in words.

    >>> share_text(Share(0.7, 0.397, 0.892, 10))
    '70% [40%, 89%] of 10'
    """
    if share.value is None:
        return "no deciding vote"
    return f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}] of {share.n}"


def _systems(pairs: Sequence[Pair]) -> list[str]:
    return sorted({name for pair in pairs for name in (pair.left, pair.right)})


def _rate(a: str, b: str, counted: Sequence[tuple[Pair, Choice]]) -> WinRate:
    own = [(pair, choice) for pair, choice in counted if {pair.left, pair.right} == {a, b}]
    won = Counter(winner(pair, choice) for pair, choice in own)
    kinds = Counter(choice for _, choice in own)
    wins, losses = won[a], won[b]
    more = votes_to_decide(wins, losses)
    return WinRate(a, b, wins, losses, kinds["tie"], kinds["bad"], wilson(wins, wins + losses), more)


def _strengths(
    systems: Sequence[str], counted: Sequence[tuple[Pair, Choice]], seed: int, resamples: int
) -> tuple[list[float], list[float], list[float]]:
    """Bradley-Terry scores by choix, ties as half a win for each."""
    size = len(systems)
    items = sorted({pair.item for pair, _ in counted})
    place = {name: i for i, name in enumerate(systems)}
    at = {item: i for i, item in enumerate(items)}
    wins = np.zeros((len(items), size, size))
    for pair, choice in counted:
        left, right = place[pair.left], place[pair.right]
        if choice != "bad":
            wins[at[pair.item], left, right] += {"left": 1.0, "tie": 0.5, "right": 0.0}[choice]
            wins[at[pair.item], right, left] += {"left": 0.0, "tie": 0.5, "right": 1.0}[choice]
    if not wins.sum():
        return [0.0] * size, [-math.inf] * size, [math.inf] * size
    rng = np.random.default_rng(seed)
    drawn = np.array([_bradley_terry(_resample(wins, rng)) for _ in range(resamples)])  # [R, systems]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return list(map(float, _bradley_terry(wins.sum(0)))), list(map(float, low)), list(map(float, high))


def _resample(wins: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Wins summed over items drawn with replacement."""
    items = len(wins)
    weights = np.bincount(rng.integers(items, size=items), minlength=items)
    return np.tensordot(weights.astype(np.float64), wins, 1)  # [systems, systems]


def _bradley_terry(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Maximum-likelihood scores, mean 0.

    A tenth of a win each way between any two systems keeps scores finite where one side always wins. (choix's own
    regularisation of this method need not converge there.)
    """
    size = len(wins)
    return choix.ilsr_pairwise_dense(wins + 0.1 * (1 - np.eye(size)), max_iter=1000, tol=1e-6)


def _consistency(shown: Sequence[tuple[Pair, Choice]]) -> Share:
    """Repeats answered as the first time; the side does not matter, the preferred system does."""
    first = {
        (pair.item, frozenset((pair.left, pair.right))): (winner(pair, choice), choice == "bad")
        for pair, choice in shown
        if not pair.repeat
    }
    again = [
        first[key] == (winner(pair, choice), choice == "bad")
        for pair, choice in shown
        if pair.repeat and (key := (pair.item, frozenset((pair.left, pair.right)))) in first
    ]
    return wilson(sum(again), len(again))


def _after_first(pairs: list[Pair]) -> list[Pair]:
    """Swap each repeat that comes before its first showing with that showing."""
    place = {(p.item, frozenset((p.left, p.right))): i for i, p in enumerate(pairs) if not p.repeat}
    for i, pair in enumerate(pairs):
        if pair.repeat and (j := place[pair.item, frozenset((pair.left, pair.right))]) > i:
            pairs[i], pairs[j] = pairs[j], pairs[i]
    return pairs


def _score(value: float) -> str:
    return f"{value:+.2f}" if abs(value) < 1e6 else "unknown"
