"""The shipped passages: short texts about invented places and people, half of them with a question that they answer."""

import json
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Passage:
    """A short text, and what can be asked about it.

    Attributes:
        question: None where the passage is there only to be read past.
        answers: accepted answers, the one in the passage's own words first.
        kind: "person", "place", "number", "year" or "thing": answers of one kind are plausible to each other's
            questions.
    """

    text: str
    question: str | None = None
    answers: tuple[str, ...] = ()
    kind: str | None = None


def load_passages() -> tuple[Passage, ...]:
    """All shipped passages in their order.

    >>> passages = load_passages()
    >>> len(passages), sum(passage.question is not None for passage in passages)
    (120, 60)
    """
    lines = files("lmops_lab").joinpath("data", "passages.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return tuple(Passage(**row | {"answers": tuple(row.get("answers", ()))}) for row in rows)
