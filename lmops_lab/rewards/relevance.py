"""Relevance: how well pictures show a text, as the cosine between CLIP's two embeddings."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lmops_lab.rewards.clip import ClipEncoder

RELEVANT = 0.28  # CLIP ViT-L/14's cosine from which a picture counts as relevant
CONFIG_KEY = "relevant_cosine"  # the same of another CLIP, where its config.json tells it


@dataclass(frozen=True, eq=False)
class Relevance:
    """max(0, cos(CLIP(image), CLIP(text))), without the logit scale (Promptist, arXiv 2212.09611).

    Attributes:
        encoder: any CLIP.
    """

    encoder: ClipEncoder
    reads_prompt: bool = True

    @classmethod
    def load(cls, name: str = "emoji", *, device: str = "auto") -> "Relevance":
        """Relevance by a CLIP of that name (see `ClipEncoder.load`)."""
        return cls(ClipEncoder.load(name, device=device))

    @property
    def fingerprint(self) -> str:
        """What the scores depend on."""
        return f"relevance 1 {self.encoder.fingerprint}"

    @property
    def threshold(self) -> float:
        """The cosine from which a picture counts as relevant: what this CLIP's configuration says, or .28.

        Raises:
            ValueError: the configuration says something else than a cosine.
        """
        told = getattr(self.encoder.model.config, CONFIG_KEY, RELEVANT)
        if not isinstance(told, int | float) or not -1 <= told <= 1:
            raise ValueError(f"{CONFIG_KEY} of CLIP {self.encoder.name!r} is {told!r}; a cosine lies between -1 and 1")
        return float(told)

    def __call__(self, images: list[Image.Image], prompts: list[str]) -> NDArray[np.float64]:
        """One cosine a picture, between 0 and 1."""
        return np.maximum(0.0, self.cosines(images, prompts))

    def cosines(self, images: list[Image.Image], prompts: list[str]) -> NDArray[np.float64]:
        """The cosines before negative ones are set to 0."""
        left, right = self.encoder.image_features(images), self.encoder.text_features(prompts)
        return (left * right).sum(-1).double().numpy()


def threshold_of(relevance: object, given: float | None = None) -> float:
    """The threshold that was given, or the relevance reward's own, or .28 for one that has none."""
    return float(getattr(relevance, "threshold", RELEVANT)) if given is None else given
