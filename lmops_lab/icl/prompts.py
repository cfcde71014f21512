"""From a task to token ids, by one rule for demonstrations and queries."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmops_lab.icl.tasks import CLASSIFICATION, MULTIPLE_CHOICE, Example, Task, template_fields
from lmops_lab.models import LanguageModel

# Inputs without content (Zhao et al. 2021, arXiv 2102.09690): what the model says about them is its bias.
CONTENT_FREE = ("N/A", "[MASK]", "")

# Random in-domain texts of domain-context calibration (Fei et al. 2023, arXiv 2305.19148).
DOMAIN_TEXTS = 20


@dataclass(frozen=True)
class PromptTokens:
    """A task in one model's tokens.

    A demonstration is always query tokens + answer tokens + separator tokens, and a query is tokenised exactly like the
    query part of a demonstration, so no token straddles the border between them.

    Attributes:
        labels: tokens of every label, as they follow a query; none where a task has no fixed labels.
        separator: tokens after each demonstration.
    """

    lm: LanguageModel
    task: Task
    labels: tuple[tuple[int, ...], ...]
    separator: tuple[int, ...]

    @classmethod
    def of(cls, lm: LanguageModel, task: Task, kind: str = CLASSIFICATION) -> "PromptTokens":
        """Tokenise what all examples share.

        Args:
            kind: the kind of task that the caller can work with.

        Raises:
            ValueError: a task of another kind, a label that the tokenizer merges into the template, or two labels with
                the same tokens.
        """
        if task.kind != kind:
            raise ValueError(
                f"task {task.name!r} is of kind {task.kind!r}, not {kind!r}; accuracy curves and label scores need "
                "'classification', score_choices 'multiple-choice', answer_questions 'generation'"
            )
        labels = _label_tokens(lm, task) if kind == CLASSIFICATION else ()
        if kind == CLASSIFICATION:
            labelled = f"{task.fill('x')} {next(iter(task.verbalizer.values()))}"
        else:
            labelled = task.demonstration(task.train[0]).removesuffix(task.separator)
        before, joined = lm.tokens(labelled), lm.tokens(labelled + task.separator)
        whole = joined[: len(before)] == before
        separator = joined[len(before) :] if whole else lm.tokens(task.separator)
        return cls(lm, task, labels, tuple(separator))

    def query(self, example: Example, choice: int | None = None) -> list[int]:
        """Tokens of a query; `choice` is the number of the choice that fills {choice} (default the right one)."""
        filled = ""
        if self.task.kind == MULTIPLE_CHOICE:
            filled = example.choices[int(example.label) if choice is None else choice]
        return self.lm.tokens(self.task.query(example.fields, filled))

    def answer(self, example: Example, choice: int | None = None) -> tuple[int, ...]:
        """Tokens of the right answer, or of choice number `choice`, as they follow the query.

        Where the tokenizer would merge the end of an example's own text with its answer, the answer is tokenised alone.
        """
        if self.task.kind == CLASSIFICATION:
            return self.labels[self.task.labels.index(example.label)]
        filled = ""
        if self.task.kind == MULTIPLE_CHOICE:
            filled = example.choices[int(example.label) if choice is None else choice]
        query, words = self.task.query(example.fields, filled), self.task.answer(example, choice)
        before, joined = self.lm.tokens(query), self.lm.tokens(f"{query} {words}")
        if joined[: len(before)] == before and len(joined) > len(before):
            return tuple(joined[len(before) :])
        return tuple(self.lm.tokens(f" {words}"))

    def demonstration(self, example: Example) -> list[int]:
        """Tokens of a labelled demonstration."""
        return [*self.query(example), *self.answer(example), *self.separator]

    def demonstrations(self, examples: Sequence[Example]) -> list[list[int]]:
        """Tokens of many demonstrations."""
        return [self.demonstration(example) for example in examples]

    def with_tail(self, tail: Sequence[Example], example: Example) -> list[int]:
        """Tokens of a query that brings its own demonstrations: the last of `tail` stands next to the query."""
        return [*(token for shown in tail for token in self.demonstration(shown)), *self.query(example)]

    def content_free(self) -> list[list[int]]:
        """Tokens of the queries without content."""
        return [self.lm.tokens(text) for text in self.content_free_texts()]

    def content_free_texts(self) -> list[str]:
        """The queries without content as text; a template of nothing but a field leaves nothing of an empty one."""
        return [text for text in map(self.task.fill, CONTENT_FREE) if self.lm.tokens(text)]

    def domain(self, count: int = DOMAIN_TEXTS, seed: int = 0) -> list[list[int]]:
        """Tokens of queries made of random in-domain words: what the model says about the domain, not about a text."""
        return [self.lm.tokens(text) for text in self.domain_texts(count, seed)]

    def domain_texts(self, count: int = DOMAIN_TEXTS, seed: int = 0) -> list[str]:
        """Queries made of random in-domain words, as text.

        Every field gets words drawn from that field of the training examples (no query is looked at), as many as it
        has on average (arXiv 2305.19148).
        """
        rng = np.random.default_rng([seed, 3])
        names = [name for name in template_fields(self.task.template) if name != "choice"]
        words = {name: [e.fields[name].split() for e in self.task.train] for name in names}
        pools = {name: [word for text in texts for word in text] for name, texts in words.items()}
        sizes = {name: max(1, round(len(pools[name]) / len(words[name]))) for name in names}
        queries = []
        for _ in range(count):
            drawn = {name: " ".join(rng.choice(pools[name] or [""], size=sizes[name])) for name in names}
            queries.append(self.task.query(drawn))
        return queries

    def premise(self) -> list[int]:
        """Tokens of the template's end without any field ("Sentiment:"), the model's BOS token where nothing is left.

        After it a label has the probability that pointwise mutual information divides by (Holtzman et al. 2021,
        arXiv 2104.08315).
        """
        return self.lm.tokens(self.task.template.rpartition("}")[2].strip()) or self.lm.bos_tokens("shared")


def _label_tokens(lm: LanguageModel, task: Task) -> tuple[tuple[int, ...], ...]:
    anchor = task.fill("x")
    before = lm.tokens(anchor)
    labels: dict[tuple[int, ...], str] = {}
    for word in task.verbalizer.values():
        joined = lm.tokens(f"{anchor} {word}")
        tokens = tuple(joined[len(before) :])
        if joined[: len(before)] != before or not tokens:
            raise ValueError(f"the tokenizer merges label {word!r} into the template {task.template!r}; end it in ':'")
        if tokens in labels:
            raise ValueError(f"labels {labels[tokens]!r} and {word!r} have the same tokens {tokens}; make them differ")
        labels[tokens] = word
    return tuple(labels)
