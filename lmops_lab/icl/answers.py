"""Free-text answers against their accepted aliases: exact match and token F1, as SQuAD and TriviaQA score them."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class AnswerScores(NamedTuple):
    """Scores of answers, each between 0 and 1: [questions]."""

    exact: NDArray[np.float64]
    f1: NDArray[np.float64]


def score_answers(predictions: Sequence[str], aliases: Sequence[Sequence[str]]) -> AnswerScores:
    """Exact match and F1 of every prediction against the best of its accepted answers.

    Raises:
        ValueError: other numbers of predictions and questions, or a question without an accepted answer.
    """
    if len(predictions) != len(aliases):
        raise ValueError(f"{len(predictions)} predictions for {len(aliases)} questions; give one each, in order")
    pairs = list(zip(predictions, aliases, strict=True))
    return AnswerScores(
        np.array([exact_match(p, accepted) for p, accepted in pairs], float),
        np.array([f1(p, accepted) for p, accepted in pairs], float),
    )


def exact_match(prediction: str, accepted: Sequence[str]) -> float:
    """1 where the normalised prediction is one of the normalised accepted answers, else 0.

    >>> exact_match("The Beatles!", ["beatles", "Fab Four"])
    1.0
    """
    return _best(prediction, accepted, lambda said, right: float(said == right))


def f1(prediction: str, accepted: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of words, of the accepted answer that fits best.

    Where one side has no words left, it is 1 if both have none and 0 otherwise (SQuAD 2.0).

    >>> f1("in the city of Paris", ["Paris", "Paris, France"])
    0.4
    """
    return _best(prediction, accepted, _word_f1)


def normalise(text: str) -> str:
    """Lower case without punctuation, the articles a, an and the, and extra spaces."""
    plain = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def first_line(text: str) -> str:
    """What a model says before its first line break: it goes on with demonstrations of its own after that."""
    return text.strip().partition("\n")[0].strip()


def _word_f1(said: str, right: str) -> float:
    said_words, right_words = said.split(), right.split()
    if not said_words or not right_words:
        return float(said_words == right_words)
    common = sum((Counter(said_words) & Counter(right_words)).values())
    return 2 * common / (len(said_words) + len(right_words))


def _best(prediction: str, accepted: Sequence[str], score: Callable[[str, str], float]) -> float:
    if isinstance(accepted, str) or not accepted:
        raise ValueError(f"accepted answers are {accepted!r}; give a list of at least one")
    return max(score(normalise(prediction), normalise(alias)) for alias in accepted)
