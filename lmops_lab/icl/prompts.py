"""From a task to token ids, by one rule for demonstrations and queries."""

from collections.abc import Sequence
from dataclasses import dataclass

from lmops_lab.icl.tasks import Example, Task
from lmops_lab.models import LanguageModel

# Inputs without content (Zhao et al. 2021, arXiv 2102.09690): what the model says about them is its bias.
CONTENT_FREE = ("N/A", "[MASK]", "")


@dataclass(frozen=True)
class PromptTokens:
    """A task in one model's tokens.

    A demonstration is always query tokens + label tokens + separator tokens, and a query is tokenised exactly like the
    query part of a demonstration, so no token straddles the border between them.
    """

    lm: LanguageModel
    task: Task
    labels: tuple[tuple[int, ...], ...]
    separator: tuple[int, ...]

    @classmethod
    def of(cls, lm: LanguageModel, task: Task) -> "PromptTokens":
        """Tokenise the labels as they follow the template.

        Raises:
            ValueError: a label that the tokenizer merges into the template, or two labels with the same tokens.
        """
        anchor = task.fill("x")
        before = lm.tokens(anchor)
        labels: dict[tuple[int, ...], str] = {}
        for word in task.verbalizer.values():
            joined = lm.tokens(f"{anchor} {word}")
            tokens = tuple(joined[len(before) :])
            if joined[: len(before)] != before or not tokens:
                raise ValueError(
                    f"the tokenizer merges label {word!r} into the template {task.template!r}; end it in ':'"
                )
            if tokens in labels:
                raise ValueError(
                    f"labels {labels[tokens]!r} and {word!r} have the same tokens {tokens}; make them differ"
                )
            labels[tokens] = word
        labelled = f"{anchor} {next(iter(task.verbalizer.values()))}"
        before, joined = lm.tokens(labelled), lm.tokens(labelled + task.separator)
        whole = joined[: len(before)] == before
        separator = joined[len(before) :] if whole else lm.tokens(task.separator)
        return cls(lm, task, tuple(labels), tuple(separator))

    def query(self, example: Example) -> list[int]:
        """Tokens of a query."""
        return self.lm.tokens(self.task.query(example.fields))

    def demonstration(self, example: Example) -> list[int]:
        """Tokens of a labelled demonstration."""
        label = self.labels[self.task.labels.index(example.label)]
        return [*self.query(example), *label, *self.separator]

    def content_free(self) -> list[list[int]]:
        """Tokens of the queries without content."""
        queries = [self.lm.tokens(self.task.fill(text)) for text in CONTENT_FREE]
        return [tokens for tokens in queries if tokens]  # a template of nothing but a field leaves nothing

    def demonstrations(self, examples: Sequence[Example]) -> list[list[int]]:
        """Tokens of many demonstrations."""
        return [self.demonstration(example) for example in examples]
