"""What is asked at every point of a curve, in one model's tokens, for tasks with labels and with choices."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmops_lab.icl.calibration import CALIBRATIONS, Scores
from lmops_lab.icl.choices import READINGS
from lmops_lab.icl.prompts import PromptTokens
from lmops_lab.icl.tasks import GENERATION, MULTIPLE_CHOICE, Task, template_fields
from lmops_lab.models import LanguageModel

Row = tuple[int, ...]  # token ids


@dataclass(frozen=True)
class Questions:
    """What is asked of a classification: queries, then inputs without content, then random in-domain texts.

    Attributes:
        inputs: token ids of all that is scored at a point.
        answers: token ids of what each input is scored with, the same labels for all of them.
        texts: each input as text, by which demonstrations may be chosen for it.
        gold: index of each query's right label.
        places: index of each query in the task's test examples.
        names: label names in the order of the scores.
        content_free, domain: how many inputs without content and in-domain texts there are.
    """

    inputs: tuple[Row, ...]
    answers: tuple[tuple[Row, ...], ...]
    texts: tuple[str, ...]
    gold: tuple[int, ...]
    places: tuple[int, ...]
    names: tuple[str, ...]
    content_free: int = 0
    domain: int = 0

    @property
    def own_tokens(self) -> int:
        """Positions that the longest input needs with its answer."""
        return max(len(row) + max(map(len, answers)) for row, answers in zip(self.inputs, self.answers, strict=True))

    @property
    def nodes(self) -> list[int]:
        """Tokens of its answers that are run after each input; a last token is only read."""
        return [sum(len(answer) - 1 for answer in answers) for answers in self.answers]

    @property
    def numbers(self) -> int:
        """Numbers that a cell stores."""
        return len(self.inputs) * len(self.names)

    @property
    def calibrations(self) -> tuple[str, ...]:
        """Names of the calibrations that its cells have the inputs for."""
        has = {"contextual": self.content_free, "domain": self.domain}
        return tuple(name for name in CALIBRATIONS if has.get(name, 1))

    @property
    def alone(self) -> tuple[Row, tuple[tuple[Row, ...], ...]] | None:
        """A prompt and answers to score after it once, without demonstrations, where the scores need that."""
        return None

    def place_of(self, number: int) -> int:
        """Test example that input number `number` belongs to, -1 for an input that is none."""
        return self.places[number] if number < len(self.places) else -1

    def parts(self, values: Sequence[NDArray[np.floating]], alone: Sequence[NDArray[np.floating]]) -> dict[str, Scores]:
        """Fields of a cell.

        Args:
            values: log-probabilities of each input's answers, nats.
            alone: the same for the answers of `alone`.
        """
        del alone
        scores = np.stack(values)
        end = len(self.places) + self.content_free
        return {
            "scores": scores[: len(self.places)],
            "content_free": scores[len(self.places) : end],
            "domain": scores[end:],
        }


@dataclass(frozen=True)
class ChoiceQuestions(Questions):
    """What is asked of a multiple-choice task: one input a question, or one a choice where each has its own prompt.

    Attributes:
        counts: choices of each question.
        characters: length of each choice of each question.
        premise: what a choice follows where it is scored alone, for PMI.
    """

    counts: tuple[int, ...] = ()
    characters: tuple[tuple[int, ...], ...] = ()
    premise: Row = ()

    @property
    def numbers(self) -> int:
        """Numbers that a cell stores: scores, scores alone, and two lengths."""
        return 4 * len(self.places) * len(self.names)

    @property
    def calibrations(self) -> tuple[str, ...]:
        """What can be read from stored scores of choices."""
        return tuple(READINGS)

    @property
    def own_prompts(self) -> bool:
        """Whether every choice has a prompt of its own; what follows it is then the same for all."""
        return len(self.inputs) > len(self.places)

    @property
    def alone(self) -> tuple[Row, tuple[tuple[Row, ...], ...]] | None:
        """The template's end, and every question's answers after it."""
        return self.premise, tuple(self.answers[start] for start in self._starts)

    def place_of(self, number: int) -> int:
        """Test example whose question or choice input number `number` is."""
        return self.places[int(np.searchsorted(self._starts, number, side="right")) - 1]

    def parts(self, values: Sequence[NDArray[np.floating]], alone: Sequence[NDArray[np.floating]]) -> dict[str, Scores]:
        """Fields of a cell, NaN where a question has fewer choices than others."""
        shape = len(self.places), len(self.names)
        names = ("scores", "unconditional", "tokens", "characters")
        found = {name: np.full(shape, np.nan) for name in names}
        for row, (start, count) in enumerate(zip(self._starts, self.counts, strict=True)):
            if self.own_prompts:
                found["scores"][row, :count] = [values[start + choice][0] for choice in range(count)]
            else:
                found["scores"][row, :count] = values[start]
            found["unconditional"][row, :count] = alone[row]
            found["tokens"][row, :count] = [len(answer) for answer in self.answers[start]]
            found["characters"][row, :count] = self.characters[row]
        return {**found, "content_free": np.empty((0, shape[1])), "domain": np.empty((0, shape[1]))}

    @property
    def _starts(self) -> list[int]:
        if not self.own_prompts:
            return list(range(len(self.places)))
        return np.cumsum([0, *self.counts[:-1]]).tolist()


def ask(
    lm: LanguageModel, task: Task, places: Sequence[int], domain: int, answer_tokens: int = 0
) -> tuple[PromptTokens, Questions]:
    """A task's prompts, and the questions at these places of its test examples.

    Args:
        domain: how many random in-domain texts are asked as well, where labels are fixed.
        answer_tokens: room for answers in free text; 0 where log-probabilities of given answers are wanted.

    Raises:
        ValueError: a task whose answers are not of that sort, or whatever `PromptTokens.of` refuses.
    """
    if (task.kind == GENERATION) != (answer_tokens > 0):
        raise ValueError(
            f"task {task.name!r} is of kind {task.kind!r}: icl_curve and sweeps take given answers (labels, choices), "
            "open_curve(lm, task) of lmops_lab.icl.open_curve takes answers in free text, with exact match and F1"
        )
    prompts = PromptTokens.of(lm, task, task.kind)
    if task.kind == GENERATION:
        texts = [task.query(task.test[place].fields) for place in places]
        return prompts, Questions(
            inputs=tuple(tuple(lm.tokens(text)) for text in texts),
            answers=(((0,) * answer_tokens,),) * len(texts),
            texts=tuple(texts),
            gold=(0,) * len(texts),
            places=tuple(places),
            names=(),
        )
    if task.kind == MULTIPLE_CHOICE:
        return prompts, _choices(prompts, places)
    examples = [task.test[i] for i in places]
    free, random = prompts.content_free_texts(), prompts.domain_texts(domain)
    asked = [*(task.query(example.fields) for example in examples), *free, *random]
    return prompts, Questions(
        inputs=tuple(tuple(lm.tokens(text)) for text in asked),
        answers=(prompts.labels,) * len(asked),
        texts=tuple(asked),
        gold=tuple(task.labels.index(example.label) for example in examples),
        places=tuple(places),
        names=task.labels,
        content_free=len(free),
        domain=len(random),
    )


def _choices(prompts: PromptTokens, places: Sequence[int]) -> ChoiceQuestions:
    task = prompts.task
    own_prompts = "choice" in template_fields(task.template)
    inputs: list[Row] = []
    answers: list[tuple[Row, ...]] = []
    texts: list[str] = []
    characters = []
    for place in places:
        question = task.test[place]
        count = len(question.choices)
        # With a prompt for each choice, what follows is the same for all.
        said = tuple(prompts.answer(question, choice) for choice in range(count))
        inputs += [tuple(prompts.query(question, choice)) for choice in (range(count) if own_prompts else (0,))]
        answers += [said[:1]] * count if own_prompts else [said]
        texts += [task.query(question.fields)] * (count if own_prompts else 1)
        characters.append(tuple(len(task.answer(question, choice)) for choice in range(count)))
    most = max(map(len, characters))
    return ChoiceQuestions(
        inputs=tuple(inputs),
        answers=tuple(answers),
        texts=tuple(texts),
        gold=tuple(int(task.test[place].label) for place in places),
        places=tuple(places),
        names=tuple(map(str, range(most))),
        counts=tuple(map(len, characters)),
        characters=tuple(characters),
        premise=tuple(prompts.premise()),
    )
