"""Open questions: a model's free answers and their exact match and F1."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tqdm.auto import tqdm

from lmops_lab.icl.answers import AnswerScores, first_line, score_answers
from lmops_lab.icl.tasks import GENERATION, Example, Task


@dataclass(frozen=True, eq=False)
class Answers:
    """What was asked, what was said, and what would have been right.

    Attributes:
        predictions: the first line of each answer.
        aliases: accepted answers of each question.
    """

    predictions: tuple[str, ...]
    aliases: tuple[tuple[str, ...], ...]

    def score(self) -> AnswerScores:
        """Exact match and F1 of every question."""
        return score_answers(self.predictions, self.aliases)


def answer_questions(
    task: Task, questions: Sequence[Example], generate: Callable[[str], str], *, progress: bool = True
) -> Answers:
    """Ask every question and keep the first line of what comes back.

    Args:
        task: an open-ended task.
        generate: continues a prompt with text (the prompt itself left out), for instance
            `lambda prompt: lm.generate(prompt, context=context, max_new_tokens=16)`.

    Raises:
        ValueError: a task of another kind, or no questions.
    """
    if task.kind != GENERATION:
        raise ValueError(f"task {task.name!r} is of kind {task.kind!r}, not {GENERATION!r}; it has labels to score")
    if not questions:
        raise ValueError(f"there is nothing to ask of task {task.name!r}; give at least one question")
    bar = tqdm(questions, desc="answer", unit="question", disable=not progress, leave=False)
    predictions = tuple(first_line(generate(task.query(question.fields))) for question in bar)
    return Answers(predictions, tuple(question.answers for question in questions))
