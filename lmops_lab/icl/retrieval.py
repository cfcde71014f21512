"""Chooses demonstrations for each input of a curve's point, and says which inputs then share a context."""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lmops_lab.attention.context import GroupedContext
from lmops_lab.icl.calibration import Scores
from lmops_lab.icl.inputs import Questions, Row
from lmops_lab.icl.selection import (
    Indices,
    bm25_similarity,
    cosine_similarity,
    mean_hidden_states,
    nearest_examples,
    nearest_groups,
)
from lmops_lab.icl.selections import Selection
from lmops_lab.models import LanguageModel


class Ask(NamedTuple):
    """Inputs that are scored together because their context is the same.

    Attributes:
        numbers: which inputs.
        rows: their tokens, with the demonstrations that travel with them.
        context: what they attend to before that.
        encode_s: seconds that this context took, where it was encoded for them alone.
    """

    numbers: Sequence[int]
    rows: Sequence[Row]
    context: GroupedContext | None
    encode_s: float = 0.0


@dataclass(frozen=True)
class Candidates:
    """What a seed's selection chooses from.

    Attributes:
        tokens: token ids of each candidate as a demonstration.
        texts: each candidate as a query without its answer, as which it is compared with the inputs.
    """

    selection: Selection
    tokens: tuple[Row, ...]
    texts: tuple[str, ...]

    @property
    def mean_tokens(self) -> float:
        """Tokens of a candidate."""
        return sum(map(len, self.tokens)) / len(self.tokens)

    def longest(self, count: int) -> int:
        """Tokens of the longest `count` candidates together: no choice of so many has more."""
        return sum(sorted(map(len, self.tokens), reverse=True)[:count])


class Chooser:
    """The choices of all inputs; similarities are computed when they are first needed, and once."""

    def __init__(self, lm: LanguageModel, candidates: Candidates, questions: Questions) -> None:
        self.lm = lm
        self.candidates = candidates
        self.questions = questions

    @property
    def seconds(self) -> float:
        """How long it took to compare all inputs with all candidates."""
        return self._measured[1]

    def examples(self, k: int, skip: int = 0) -> Indices:
        """The k candidates of each input, the most similar one last, none of the first `skip`: [inputs, k]."""
        return nearest_examples(self._measured[0], k, exclude=range(skip))

    def groups(self, count: int, group_size: int) -> Indices:
        """The groups of `group_size` candidates that suit each input best, ascending: [inputs, count]."""
        total = len(self.candidates.tokens)
        members = [range(start, min(start + group_size, total)) for start in range(0, total, group_size)]
        return nearest_groups(self._measured[0], members, count)

    def with_tails(self, skip: int) -> list[Row]:
        """Every input's tokens after those of the similar candidates that travel with it."""
        chosen = self.examples(self.candidates.selection.carried, skip)
        return [
            (*(token for i in tail for token in self.candidates.tokens[i]), *row)
            for row, tail in zip(self.questions.inputs, chosen.tolist(), strict=True)
        ]

    @functools.cached_property
    def _measured(self) -> tuple[Scores, float]:
        """Similarity [inputs, candidates], and the seconds that it took."""
        start = time.perf_counter()
        texts = list(dict.fromkeys(self.questions.texts))
        pool = self.candidates.texts
        if self.candidates.selection.measure == "bm25":
            found = bm25_similarity(texts, pool)
        else:
            states = (mean_hidden_states(self.lm, some, progress=False) for some in (texts, pool))
            found = cosine_similarity(*states)
        rows = [texts.index(text) for text in self.questions.texts]
        return found[rows], time.perf_counter() - start


def together(chosen: Indices) -> dict[tuple[int, ...], list[int]]:
    """Inputs by what they chose: choice -> numbers of its inputs."""
    inputs: dict[tuple[int, ...], list[int]] = {}
    for number, choice in enumerate(chosen.tolist()):
        inputs.setdefault(tuple(choice), []).append(number)
    return inputs
