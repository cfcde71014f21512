"""Promptist's reward: what a rewritten prompt gains in aesthetics, less what it loses in relevance to the original."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lmops_lab.rewards.aesthetic import Aesthetic
from lmops_lab.rewards.relevance import RELEVANT, Relevance, threshold_of

RELEVANCE_WEIGHT = 20.0
Floats = NDArray[np.float64]


def relevance_term(cosines: Floats, threshold: float = RELEVANT, weight: float = RELEVANCE_WEIGHT) -> Floats:
    """min(0, 20 * (CLIP - 0.28)): 0 for relevant pictures, negative below the threshold.

    >>> relevance_term(np.array([0.35, 0.28, 0.23])).round(3).tolist()
    [0.0, 0.0, -1.0]
    """
    return np.minimum(0.0, weight * (np.maximum(0.0, cosines) - threshold))


def picture_rewards(
    cosines: Floats, aesthetics: Floats, plain: Floats, threshold: float = RELEVANT, weight: float = RELEVANCE_WEIGHT
) -> Floats:
    """The share of every picture in Promptist's reward: (A_n - A0) + min(0, 20 * (CLIP_n - 0.28)).

    Args:
        cosines: CLIP_n, of a rewritten prompt's pictures with the ORIGINAL text: [..., pictures].
        aesthetics: A_n, ratings of the same pictures: [..., pictures].
        plain: A0, mean rating of the original prompt's pictures: [...]. Draw them with the same seeds.

    Raises:
        ValueError: no pictures, or unequal numbers of cosines and ratings.
    """
    if cosines.shape != aesthetics.shape or cosines.shape[:-1] != plain.shape or not cosines.size:
        raise ValueError(
            f"there are {cosines.shape} cosines, {aesthetics.shape} ratings and {plain.shape} mean plain ratings; give "
            "one cosine and one rating a picture, at least one picture, and one mean a prompt"
        )
    return np.asarray(aesthetics - plain[..., None] + relevance_term(cosines, threshold, weight))


def promptist_reward(
    cosines: Floats, aesthetics: Floats, plain: Floats, threshold: float = RELEVANT, weight: float = RELEVANCE_WEIGHT
) -> Floats:
    """Promptist's reward of rewritten prompts: the mean of `picture_rewards` over pictures, [...].

    r = mean_n [ (A_n - A0) + min(0, 20 (CLIP_n - .28)) ]

    >>> promptist_reward(np.array([[0.30, 0.23]]), np.array([[6.0, 6.5]]), np.array([5.25])).round(3)
    array([0.5])
    """
    return np.asarray(picture_rewards(cosines, aesthetics, plain, threshold, weight).mean(-1))


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
    cosines: Floats
    aesthetics: Floats
    plain_aesthetics: Floats
    plain_cosines: Floats


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

    def __call__(self, images: list[Image.Image], prompts: list[str]) -> Floats:
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
        reward = promptist_reward(cosines, aesthetics, np.asarray(plain_aesthetics.mean()), threshold, self.weight)
        return PromptScores(
            float(reward), cosines, aesthetics, plain_aesthetics, self.relevance(theirs, [text] * len(theirs))
        )
