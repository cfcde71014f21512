"""Preference scores in the style of PickScore: a CLIP fine-tuned on which of two pictures people chose."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lmops_lab.rewards.clip import ClipEncoder

# PickScore (arXiv 2305.01569) saves the model alone; tokenizer and preprocessing are those of the CLIP it began as.
PICKSCORE, PICKSCORE_PROCESSOR = "yuvalkirstain/PickScore_v1", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


@dataclass(frozen=True, eq=False)
class Preference:
    """logit_scale * cos(CLIP(text), CLIP(image)): PickScore's score, by plain transformers.

    Attributes:
        encoder: the fine-tuned CLIP.
    """

    encoder: ClipEncoder
    reads_prompt: bool = True

    @classmethod
    def load(
        cls, name: str = PICKSCORE, *, processor: str | None = PICKSCORE_PROCESSOR, device: str = "auto"
    ) -> "Preference":
        """Load a preference model.

        Args:
            name: PickScore's Hub id, or any other CLIPModel trained this way.
            processor: where tokenizer and preprocessing are; None: beside the model.
        """
        return cls(ClipEncoder.load(name, processor=processor, device=device))

    @property
    def fingerprint(self) -> str:
        """What the scores depend on."""
        return f"preference 1 {self.encoder.fingerprint}"

    def __call__(self, images: list[Image.Image], prompts: list[str]) -> NDArray[np.float64]:
        """One score a picture; differences between pictures of one prompt are log-odds (nats)."""
        left, right = self.encoder.image_features(images), self.encoder.text_features(prompts)
        return self.encoder.logit_scale * (left * right).sum(-1).double().numpy()

    def probabilities(self, images: Sequence[Image.Image], prompt: str) -> NDArray[np.float64]:
        """Probability that people choose each of these pictures for the prompt (softmax of the scores): [images].

        Raises:
            ValueError: no pictures.
        """
        if not images:
            raise ValueError("there are no pictures to choose among")
        scores = self(list(images), [prompt] * len(images))
        odds = np.exp(scores - scores.max())
        return odds / odds.sum()
