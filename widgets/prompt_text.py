"""Two prompts word by word, and how much of a prompt a CLIP text encoder reads."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

Piece = tuple[Literal["same", "added", "removed"], str]

CLIP_LIMIT = 77
_WORD = re.compile(r"\s+|\w+|[^\w\s]")


def word_diff(before: str, after: str) -> list[Piece]:
    """What was kept, added and removed on the way from one prompt to another, word by word.

    The kept and added pieces joined give `after`; the kept and removed ones give `before`, letter for letter.

    >>> word_diff("a rabbit in space", "a white rabbit in space")
    [('same', 'a'), ('added', ' white'), ('same', ' rabbit in space')]
    """
    old, new = _WORD.findall(before), _WORD.findall(after)
    pieces: list[Piece] = []
    for kind, i, j, m, n in SequenceMatcher(None, old, new).get_opcodes():
        if kind == "equal":
            pieces.append(("same", "".join(new[m:n])))
            continue
        if j > i:
            pieces.append(("removed", "".join(old[i:j])))
        if n > m:
            pieces.append(("added", "".join(new[m:n])))
    return pieces


@dataclass(frozen=True)
class Budget:
    """How many tokens a prompt takes of those that the encoder reads.

    Attributes:
        tokens: all tokens of the prompt, begin and end token included.
        limit: how many the encoder reads.
        cut: the text that it does not read; empty where all fits.
    """

    tokens: int
    limit: int
    cut: str


def token_budget(tokenizer: Callable[..., Any], text: str, limit: int = CLIP_LIMIT) -> Budget:
    """Count a prompt's tokens against the text encoder's window and name what falls off its end.

    Args:
        tokenizer: a transformers tokenizer (or anything that returns `input_ids` and has `decode`).
        text: the prompt.
        limit: tokens that the encoder reads, begin and end token included (77 for CLIP).
    """
    ids = list(tokenizer(text, truncation=False, verbose=False)["input_ids"])
    own = list(tokenizer(text, truncation=False, verbose=False, add_special_tokens=False)["input_ids"])
    room = limit - (len(ids) - len(own))
    cut = str(tokenizer.decode(own[room:])).strip() if len(own) > room else ""  # type: ignore[attr-defined]
    return Budget(len(ids), limit, cut)
