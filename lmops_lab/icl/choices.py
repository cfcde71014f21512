"""Multiple-choice questions: every choice scored once; sum, mean and PMI read from the store."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm.auto import tqdm

from lmops_lab.attention.context import GroupedContext, OwnWeight
from lmops_lab.attention.grouping import Tokens
from lmops_lab.digests import digest_of, read_table
from lmops_lab.files import atomic_file
from lmops_lab.icl.calibration import Scores
from lmops_lab.icl.loaders import nearest
from lmops_lab.icl.prompts import PromptTokens
from lmops_lab.icl.tasks import MULTIPLE_CHOICE, Example, Task, template_fields
from lmops_lab.models import LanguageModel
from lmops_lab.shapes import LabelScores

FORMAT = "lmops-lab choices 2"
LENGTHS = ("sum", "mean", "characters", "pmi")

# How a curve's calibrations, as it calls them, are read from scored choices: the sum is as it comes from the model.
READINGS = {"raw": "sum", "mean": "mean", "characters": "characters", "pmi": "pmi"}


@dataclass(frozen=True, eq=False)
class ChoiceScores:
    """Log-probabilities of the choices of every question, NaN where a question has fewer choices than others.

    Attributes:
        scores: log p(choice | demonstrations, question) [questions, most choices], nats, summed over tokens.
        unconditional: log p(choice | the template's end alone), for PMI.
        tokens, characters: length of each choice.
        gold: number of the right choice [questions].
    """

    scores: Scores
    unconditional: Scores
    tokens: Scores
    characters: Scores
    gold: NDArray[np.int64]

    def read(self, length: str = "sum") -> Scores:
        """Scores to answer by [questions, most choices]; the largest is the answer, a missing choice is -inf.

        Args:
            length: "sum", "mean" over tokens, per "characters", or "pmi": log p(choice | question) - log p(choice).

        Raises:
            ValueError: an unknown length.
        """
        if length not in LENGTHS:
            raise ValueError(f"length is {length!r}; choose among {', '.join(LENGTHS)}{nearest(length, LENGTHS)}")
        values = {
            "sum": self.scores,
            "mean": self.scores / self.tokens,
            "characters": self.scores / self.characters,
            "pmi": self.scores - self.unconditional,
        }[length]
        return np.where(np.isnan(values), -np.inf, values)

    def correct(self, length: str = "sum") -> NDArray[np.bool_]:
        """Which questions are answered right [questions]."""
        return self.read(length).argmax(-1) == self.gold

    def save(self, path: Path | str) -> Path:
        """Write one Parquet file with a row a choice: question, choice, gold, scores, unconditional, tokens, ..."""
        path = Path(path)
        questions, choices = np.nonzero(~np.isnan(self.scores))
        columns = {name: getattr(self, name)[questions, choices] for name in _VALUES}
        table = pa.table({"question": questions, "choice": choices, "gold": self.gold[questions], **columns})
        about = {"lmops_lab": FORMAT, "digest": _digest(table)}
        with atomic_file(path) as temporary:
            pq.write_table(table.replace_schema_metadata(about), temporary)
        return path

    @classmethod
    def load(cls, path: Path | str) -> "ChoiceScores":
        """Read back what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that something else wrote, or a damaged one.
        """
        table = read_table(path, "score the questions again", ("question", "choice", "gold", *_VALUES))
        found = (table.schema.metadata or {}).get(b"lmops_lab", b"").decode()
        if found != FORMAT:
            raise ValueError(f"{str(path)!r} is no {FORMAT!r} file but {found!r}; score the questions again")
        numbers = all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in table.schema.types)
        if not numbers or table.schema.metadata.get(b"digest", b"").decode() != _digest(table):
            raise ValueError(f"{str(path)!r} is not what was written (wrong digest); score the questions again")
        questions, choices, gold = (table[name].to_numpy() for name in ("question", "choice", "gold"))
        whole = all(numbers.dtype.kind == "i" for numbers in (questions, choices, gold)) and len(questions)
        if not whole or not (0 <= questions.min() <= questions.max() < len(questions) and choices.min() >= 0):
            raise ValueError(f"{str(path)!r} numbers its questions and choices wrongly; score the questions again")
        if (questions.max() + 1) * (choices.max() + 1) > _MOST_CELLS:
            raise ValueError(f"{str(path)!r} has a choice {choices.max()}; score the questions again")
        arrays = {name: np.full((questions.max() + 1, choices.max() + 1), np.nan) for name in _VALUES}
        for name, array in arrays.items():
            array[questions, choices] = table[name].to_numpy()
        return cls(**arrays, gold=gold[choices == 0])


_MOST_CELLS = 10_000_000  # of a table [questions, most choices], so that one wrong number takes no memory
_VALUES = ("scores", "unconditional", "tokens", "characters")


def _digest(table: pa.Table) -> str:
    return digest_of(table.column_names, *(column.to_numpy() for column in table.columns))


def score_choices(
    lm: LanguageModel,
    task: Task,
    questions: Sequence[Example],
    *,
    context: GroupedContext | None = None,
    own_weight: OwnWeight = "groups",
    progress: bool = True,
) -> ChoiceScores:
    """Score every choice of every question: one forward pass a question, shared beginnings computed once.

    Where the template names {choice}, each choice has a prompt of its own, and what follows it is scored.

    Raises:
        ValueError: a task of another kind, no questions, or whatever `LanguageModel.score` refuses.
    """
    prompts = PromptTokens.of(lm, task, MULTIPLE_CHOICE)
    if not questions:
        raise ValueError(f"there is nothing to ask of task {task.name!r}; give at least one question")
    own_prompts = "choice" in template_fields(task.template)
    most = max(len(question.choices) for question in questions)
    scores, unconditional, tokens, characters = (np.full((len(questions), most), np.nan) for _ in range(4))
    premise = prompts.premise()
    for row, question in enumerate(tqdm(questions, desc="score", unit="question", disable=not progress, leave=False)):
        count = len(question.choices)
        answers = [list(prompts.answer(question, choice)) for choice in range(count)]
        if own_prompts:
            queries = [prompts.query(question, choice) for choice in range(count)]
            scores[row, :count] = _scored(lm, queries, [answers[0]], context, own_weight)[:, 0]
            # What follows is the same for all choices; so is its probability alone.
            unconditional[row, :count] = _scored(lm, [premise], [answers[0]], None, 1)[0, 0]
        else:
            scores[row, :count] = _scored(lm, [prompts.query(question)], answers, context, own_weight)[0]
            unconditional[row, :count] = _scored(lm, [premise], answers, None, 1)[0]
        tokens[row, :count] = [len(answer) for answer in answers]
        characters[row, :count] = [len(task.answer(question, choice)) for choice in range(count)]
    gold = np.array([int(question.label) for question in questions], np.int64)
    return ChoiceScores(scores, unconditional, tokens, characters, gold)


def _scored(
    lm: LanguageModel,
    queries: Sequence[list[int]],
    answers: Sequence[list[int]],
    context: GroupedContext | None,
    own_weight: OwnWeight,
) -> Scores:
    def score(rows: Sequence[Tokens], labels: Sequence[Tokens]) -> LabelScores:
        return lm.score(rows, labels, context=context, own_weight=own_weight)

    return score_distinct(score, queries, answers)


def score_distinct(
    score: Callable[[Sequence[Tokens], Sequence[Tokens]], LabelScores],
    queries: Sequence[Tokens],
    answers: Sequence[Tokens],
) -> Scores:
    """Log-probabilities [queries, answers]; equal answers are scored once, and a single one is no problem.

    Args:
        score: log-probabilities [queries, labels] of two or more different labels, all as token ids.
    """
    distinct = list(dict.fromkeys(map(tuple, answers)))
    # Scoring compares two labels or more; another one of a single token costs nothing.
    padded = distinct if len(distinct) > 1 else [*distinct, (0,) if distinct[0] != (0,) else (1,)]
    found = score(queries, padded).double().numpy()
    return found[:, [distinct.index(tuple(answer)) for answer in answers]]
