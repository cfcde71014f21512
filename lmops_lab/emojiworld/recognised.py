"""Whether a picture still shows what was asked for, by the independent recogniser: for judging, not for training."""

import functools
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lmops_lab.emojiworld.recogniser import WEIGHTS, Recogniser, load_recogniser, recognise
from lmops_lab.emojiworld.subjects import SUBJECTS, SYNONYMS
from lmops_lab.files import file_hash
from lmops_lab.rewards.embedded import EMBEDDED, FOLDER


@dataclass(frozen=True, eq=False)
class Recognised:
    """1 where the recogniser sees the subject that the prompt names, else 0. No rewriter is trained on it.

    Attributes:
        model: the recogniser.
        revision: hash of its weights.
    """

    model: Recogniser = field(repr=False)
    revision: str = ""
    reads_prompt: bool = True

    @classmethod
    def load(cls, name: str = EMBEDDED) -> "Recognised":
        """By the embedded recogniser ("emoji"), or one in a folder.

        Raises:
            FileNotFoundError: there is none.
        """
        folder = FOLDER / "recogniser" if name == EMBEDDED else Path(name).expanduser()
        return cls(load_recogniser(folder), file_hash(folder / WEIGHTS)[:16])

    @property
    def fingerprint(self) -> str:
        """What the scores depend on."""
        return f"recognised 1 {self.revision}"

    def __call__(self, images: list[Image.Image], prompts: list[str]) -> NDArray[np.float64]:
        """One score a picture, 0 or 1.

        Raises:
            ValueError: a prompt that names no subject of the emoji world.
        """
        wanted = [subject_named(prompt) for prompt in prompts]
        seen = [reading.subject for reading in recognise(self.model, images)]
        return np.array([float(left == right) for left, right in zip(seen, wanted, strict=True)])


@functools.lru_cache(maxsize=4_096)
def subject_named(prompt: str) -> str:
    """The subject that a prompt names first, by its name or a synonym; of two at one place, the longer.

    >>> subject_named("a kitten in space, masterpiece"), subject_named("a photo of two soccer balls")
    ('cat', 'soccer ball')

    Raises:
        ValueError: it names none.
    """
    found = []
    for subject in SUBJECTS:
        for word in (subject, *SYNONYMS.get(subject, ())):
            match = re.search(rf"\b{re.escape(word)}s?\b", prompt.lower())
            if match:
                found.append((match.start(), -len(word), subject))
    if not found:
        raise ValueError(
            f"the prompt {prompt[:60]!r} names no subject that the recogniser knows; it knows {', '.join(SUBJECTS)}"
        )
    return min(found)[2]
