"""Rivals of a trained rewriter under its interface: any callable from texts to rewrites.

A method that learns nothing but looks for modifiers, or only adds some, shows what a trained rewriter is worth. The
searches ask the reward of the very prompt they rewrite, which a rewriter cannot: they are bounds as much as rivals.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lmops_lab.attention.context import GroupedContext
from lmops_lab.models import LanguageModel
from lmops_lab.rewriting.loading import MARKER
from lmops_lab.rewriting.reward import PromptReward, score_rewrites
from lmops_lab.rewriting.rewriter import Rewriter, clean_text

Method = Callable[[Sequence[str]], Sequence[str]]
"""A rewriting method: texts in, one rewrite each out. A `Rewriter` is one."""


def user_input(texts: Sequence[str]) -> list[str]:
    """No rewriting: the user's own text."""
    return [clean_text(text) for text in texts]


def with_modifiers(text: str, modifiers: Sequence[str]) -> str:
    """A text followed by modifiers, comma-separated."""
    return ", ".join([text, *modifiers])


@dataclass(frozen=True)
class FixedSuffix:
    """The same modifiers after every text."""

    modifiers: tuple[str, ...]

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """One rewrite a text."""
        return [with_modifiers(clean_text(text), self.modifiers) for text in texts]


@dataclass(frozen=True)
class RandomModifiers:
    """`count` modifiers drawn anew for every text; the draw depends on the text and the seed."""

    modifiers: tuple[str, ...]
    count: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse more modifiers than there are."""
        if not 0 < self.count <= len(self.modifiers):
            raise ValueError(f"count is {self.count}, there are {len(self.modifiers)} modifiers to draw from")

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """One rewrite a text."""
        made = []
        for text in map(clean_text, texts):
            rng = np.random.default_rng([self.seed, *text.encode()])
            made.append(with_modifiers(text, [str(m) for m in rng.choice(self.modifiers, self.count, replace=False)]))
        return made


@dataclass(frozen=True, eq=False)
class BestOfN:
    """The best of a rewriter's first `n` candidates by the reward."""

    rewriter: Rewriter
    reward: PromptReward
    n: int = 8

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """One rewrite a text."""
        found = self.rewriter.rewrite_many(texts, self.n)
        pairs = [(r.user, c.text) for r in found for c in r.candidates if c.text and not c.repeats_marker]
        scores = score_rewrites(self.reward, [user for user, _ in pairs], [text for _, text in pairs])
        best: dict[str, tuple[float, str]] = {}
        for (user, text), score in zip(pairs, scores, strict=True):
            best[user] = max(best.get(user, (-np.inf, user)), (float(score), text), key=lambda item: item[0])
        return [best.get(r.user, (0.0, r.user))[1] for r in found]


@dataclass(frozen=True, eq=False)
class GreedySearch:
    """Adds to every text the modifier that raises the reward most, until none does or `most` are there."""

    modifiers: tuple[str, ...]
    reward: PromptReward
    most: int = 4

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """One rewrite a text; all texts step together so that rewards are asked in large batches."""
        users = [clean_text(text) for text in texts]
        chosen: list[tuple[str, ...]] = [() for _ in users]
        best = score_rewrites(self.reward, users, users)
        growing = set(range(len(users)))
        for _ in range(self.most):
            tries = [(i, (*chosen[i], m)) for i in sorted(growing) for m in self.modifiers if m not in chosen[i]]
            if not tries:
                break
            scores = _scores(self.reward, users, tries)
            grew = set()
            for (i, words), score in zip(tries, scores, strict=True):
                if score > best[i]:
                    best[i], chosen[i] = score, words
                    grew.add(i)
            growing = grew
        return [with_modifiers(user, words) for user, words in zip(users, chosen, strict=True)]


@dataclass(frozen=True, eq=False)
class EvolutionarySearch:
    """Evolves sets of modifiers for every text.

    The better half of a population lives; its children are crossed and changed in one place (added or dropped).
    """

    modifiers: tuple[str, ...]
    reward: PromptReward
    population: int = 8
    generations: int = 4
    most: int = 5
    seed: int = 0

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """One rewrite a text, the best that was ever seen."""
        users = [clean_text(text) for text in texts]
        rng = np.random.default_rng(self.seed)
        alive = [[(), *(self._drawn(rng) for _ in range(self.population - 1))] for _ in users]
        known: dict[tuple[int, tuple[str, ...]], float] = {}
        for generation in range(self.generations + 1):
            new = [(i, words) for i, people in enumerate(alive) for words in people if (i, words) not in known]
            new = list(dict.fromkeys(new))
            known.update(zip(new, _scores(self.reward, users, new), strict=True))
            for i, people in enumerate(alive):
                best = sorted(set(people), key=lambda words: -known[i, words])[: max(2, self.population // 2)]
                if generation < self.generations:
                    children = [self._child(best, rng) for _ in range(self.population - len(best))]
                    alive[i] = [*best, *children]
                else:
                    alive[i] = best
        return [with_modifiers(user, people[0]) for user, people in zip(users, alive, strict=True)]

    def _drawn(self, rng: np.random.Generator) -> tuple[str, ...]:
        count = int(rng.integers(1, min(self.most, len(self.modifiers)) + 1))
        return tuple(str(m) for m in rng.choice(self.modifiers, count, replace=False))

    def _child(self, parents: Sequence[tuple[str, ...]], rng: np.random.Generator) -> tuple[str, ...]:
        left, right = (parents[int(rng.integers(len(parents)))] for _ in range(2))
        words = [m for m in dict.fromkeys([*left, *right]) if rng.random() < 0.5 or (m in left and m in right)]
        other = str(rng.choice(self.modifiers))
        if rng.random() < 0.5 and words:
            words.pop(int(rng.integers(len(words))))
        if other not in words and rng.random() < 0.7:
            words.insert(int(rng.integers(len(words) + 1)), other)
        return tuple(words[: self.most])


def best_suffix(
    texts: Sequence[str], modifiers: Sequence[str], reward: PromptReward, *, most: int = 4
) -> tuple[FixedSuffix, float]:
    """The fixed suffix that greedy search finds on training texts, and its mean reward there."""
    users = [clean_text(text) for text in texts]
    chosen: tuple[str, ...] = ()
    best = float(np.mean(score_rewrites(reward, users, users)))
    for _ in range(most):
        options = [(*chosen, m) for m in modifiers if m not in chosen]
        means = [
            float(np.mean(score_rewrites(reward, users, [with_modifiers(user, words) for user in users])))
            for words in options
        ]
        if not means or max(means) <= best:
            break
        best, chosen = max(means), options[int(np.argmax(means))]
    return FixedSuffix(chosen), best


@dataclass(frozen=True, eq=False)
class InContext:
    """A language model that was shown a few rewritings and continues the list: no training at all.

    With `context` the demonstrations are encoded groups (structured prompting), so there can be hundreds; otherwise
    they stand in the prompt. Rewrites are chosen among `options` by their log-probability: for every text, the
    modifier sets that the demonstrations use, each after the text.

    Attributes:
        model: any language model of the workbench.
        demonstrations: (text, rewrite) pairs.
        context: `demonstration_context(model, demonstrations, group_size)`.
        options: how many of the demonstrations' most frequent modifier sets are compared.
    """

    model: LanguageModel = field(repr=False)
    demonstrations: Sequence[tuple[str, str]] = field(repr=False)
    context: GroupedContext | None = None
    options: int = 16

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """One rewrite a text."""
        from lmops_lab.rewriting.content import split_or_tags

        sets: dict[tuple[str, ...], int] = {}
        for _, rewrite in self.demonstrations:
            words = split_or_tags(rewrite).modifiers
            sets[words] = sets.get(words, 0) + 1
        suffixes = [words for words in sorted(sets, key=lambda words: -sets[words]) if words][: self.options]
        if not suffixes:
            raise ValueError("no demonstration has modifiers, so there is nothing to choose from; give rewritings")
        shown = "" if self.context else "".join(demonstration_text(*pair) for pair in self.demonstrations)
        made = []
        for text in map(clean_text, texts):
            scores = self.model.score(
                [f"{shown}{text}{MARKER}"],
                [" " + with_modifiers(text, words) for words in suffixes],
                context=self.context,
                length="mean",
            )
            made.append(with_modifiers(text, suffixes[int(scores[0].argmax())]))
        return made


def demonstration_text(text: str, rewrite: str) -> str:
    """One rewriting as a language model is shown it."""
    return f"{text}{MARKER} {rewrite}\n\n"


def demonstration_context(
    model: LanguageModel, demonstrations: Sequence[tuple[str, str]], *, group_size: int = 8, **options: Any
) -> GroupedContext:
    """Rewritings encoded in groups: structured prompting with prompt rewriting as its task."""
    from lmops_lab.attention.encoding import encode_groups

    return encode_groups(
        model, [demonstration_text(*pair) for pair in demonstrations], group_size=group_size, **options
    )


def _scores(reward: PromptReward, users: list[str], tries: list[tuple[int, tuple[str, ...]]]) -> list[float]:
    if not tries:
        return []
    texts = [with_modifiers(users[i], words) for i, words in tries]
    return [float(score) for score in score_rewrites(reward, [users[i] for i, _ in tries], texts)]
