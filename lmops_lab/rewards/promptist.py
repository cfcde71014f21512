"""Promptist's reward: what a rewritten prompt gains in aesthetics, less what it loses in relevance to the original."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lmops_lab.rewards.aesthetic import Aesthetic
from lmops_lab.rewards.relevance import RELEVANT, Relevance, threshold_of

RELEVANCE_WEIGHT = 20.0


def relevance_term(
    cosines: NDArray[np.float64], threshold: float = RELEVANT, weight: float = RELEVANCE_WEIGHT
) -> NDArray[np.float64]:
    """min(0, 20 * (CLIP - 0.28)): 0 for relevant pictures, negative below the threshold.

    >>> relevance_term(np.array([0.35, 0.28, 0.23])).round(3).tolist()
    [0.0, 0.0, -1.0]
    """
    return np.minimum(0.0, weight * (np.maximum(0.0, cosines) - threshold))


def promptist_reward(
    cosines: NDArray[np.float64],
    aesthetics: NDArray[np.float64],
    plain_aesthetics: NDArray[np.float64],
    threshold: float = RELEVANT,
    weight: float = RELEVANCE_WEIGHT,
) -> float:
    """Promptist's reward of one rewritten prompt: mean_n [(A_n - A0) + min(0, 20 * (CLIP_n - 0.28))].

    Args:
        cosines: CLIP_n, of the rewritten prompt's pictures with the ORIGINAL text: [pictures].
        aesthetics: A_n of the same pictures: [pictures].
        plain_aesthetics: ratings of the original prompt's pictures; A0 is their mean. Draw them with the same seeds.

    Raises:
        ValueError: no pictures, or unequal numbers of cosines and ratings.

    >>> promptist_reward(np.array([0.30, 0.23]), np.array([6.0, 6.5]), np.array([5.0, 5.5])).__round__(3)
    0.5
    """
    if cosines.shape != aesthetics.shape or cosines.ndim != 1 or not len(cosines) or not len(plain_aesthetics):
        raise ValueError(
            f"there are {cosines.shape} cosines, {aesthetics.shape} ratings and {plain_aesthetics.shape} plain "
            "ratings; give one cosine and one rating a picture, and at least one picture of each prompt"
        )
    return float((aesthetics - plain_aesthetics.mean() + relevance_term(cosines, threshold, weight)).mean())


@dataclass(frozen=True)
class PromptScores:
    """A rewritten prompt's reward and what it is made of, paired with the original's pictures.

    Attributes:
        reward: Promptist's r.
        cosines: relevance of the rewritten prompt's pictures to the original text: [pictures].
        aesthetics, plain_aesthetics: ratings of the rewritten and the original prompt's pictures: [pictures].
        plain_cosines: relevance of the original prompt's pictures to their own text: [pictures].
    """

    reward: float
    cosines: NDArray[np.float64]
    aesthetics: NDArray[np.float64]
    plain_aesthetics: NDArray[np.float64]
    plain_cosines: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PromptistReward:
    """Promptist's combined reward with its constants.

    As a plain reward `f(images, prompts)` it returns the part of each picture that does not need the original's
    pictures: A_n + min(0, 20 * (CLIP_n - 0.28)). Differences of it between prompts on the same seeds are the reward
    when the original's own pictures are relevant.

    Attributes:
        relevance, aesthetic: scorers; share one `ClipEncoder` between them, so that pictures are encoded once.
        threshold: default what `relevance` says of its CLIP: 0.28 belongs to CLIP ViT-L/14, another has other cosines.
    """

    relevance: Relevance
    aesthetic: Aesthetic
    threshold: float | None = None
    weight: float = RELEVANCE_WEIGHT
    reads_prompt: bool = True

    @property
    def fingerprint(self) -> str:
        """What the scores depend on."""
        parts = f"{self.relevance.fingerprint} {self.aesthetic.fingerprint}"
        return f"promptist 1 {threshold_of(self.relevance, self.threshold)} {self.weight} {parts}"

    def __call__(self, images: list[Image.Image], prompts: list[str]) -> NDArray[np.float64]:
        """A_n + min(0, 20 * (CLIP_n - 0.28)) of every picture."""
        cosines = self.relevance(images, prompts)
        return self.aesthetic(images) + relevance_term(
            cosines, threshold_of(self.relevance, self.threshold), self.weight
        )

    def compare(self, text: str, plain: Sequence[Image.Image], rewritten: Sequence[Image.Image]) -> PromptScores:
        """The reward of a rewritten prompt.

        Args:
            text: the ORIGINAL text, which the pictures of both prompts are held against.
            plain, rewritten: pictures of the original and of the rewritten prompt, drawn with the same seeds.

        Raises:
            ValueError: unequal numbers of pictures, or none.
        """
        if len(plain) != len(rewritten) or not plain:
            raise ValueError(
                f"there are {len(plain)} plain and {len(rewritten)} rewritten pictures; draw both prompts with the "
                "same seeds, at least one"
            )
        ours, theirs = list(rewritten), list(plain)
        cosines = self.relevance(ours, [text] * len(ours))
        aesthetics, plain_aesthetics = self.aesthetic(ours), self.aesthetic(theirs)
        threshold = threshold_of(self.relevance, self.threshold)
        reward = promptist_reward(cosines, aesthetics, plain_aesthetics, threshold, self.weight)
        return PromptScores(reward, cosines, aesthetics, plain_aesthetics, self.relevance(theirs, [text] * len(theirs)))
