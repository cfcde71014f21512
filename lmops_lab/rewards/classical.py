"""A held-out score from image processing alone: sharpness, contrast and colourfulness.

Nothing in it was learned, and no rewriter is trained on it: where a trained reward rises and this one falls, the reward
is being exploited.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from skimage.color import rgb2gray
from skimage.filters import median
from skimage.measure import blur_effect

_LEAST_SIDE = 16  # pixels; the blur measure averages over 11
# Contrast and colourfulness at which a picture counts as full: black-and-white stripes have an RMS contrast of .5, and
# Hasler and Suesstrunk call pictures from about 109 on "extremely colourful".
_FULL_CONTRAST, _FULL_COLOUR = 0.5, 109.0


def sharpness(pixels: NDArray[np.uint8]) -> float:
    """1 - perceived blur (Crete et al. 2007), after a 3 x 3 median that keeps edges and removes grain: 0 to 1."""
    grey = median(rgb2gray(pixels), np.ones((3, 3)))
    if np.ptp(grey) < 1 / 255:
        return 0.0  # one flat colour has no edge that could be sharp
    return float(1 - blur_effect(grey))


def contrast(pixels: NDArray[np.uint8]) -> float:
    """RMS contrast: standard deviation of the luminance, 0 to .5."""
    return float(rgb2gray(pixels).std())


def colourfulness(pixels: NDArray[np.uint8]) -> float:
    """Colourfulness of Hasler and Suesstrunk (2003), from 0 (grey) to more than 109 (extremely colourful)."""
    red, green, blue = np.moveaxis(pixels.astype(np.float64), -1, 0)
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = np.hypot(red_green.std(), yellow_blue.std())
    return float(spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))


@dataclass(frozen=True)
class Classical:
    """Mean of sharpness, contrast and colourfulness, each brought to 0-1; prompts are not read."""

    fingerprint: str = "classical 1"
    reads_prompt: bool = False

    def __call__(self, images: list[Image.Image], prompts: list[str] | None = None) -> NDArray[np.float64]:  # noqa: ARG002
        """One score a picture, 0 to 1."""
        parts = self.parts(images)
        scaled = [parts["sharpness"], parts["contrast"] / _FULL_CONTRAST, parts["colourfulness"] / _FULL_COLOUR]
        return np.mean([np.clip(part.to_numpy(np.float64), 0, 1) for part in scaled], axis=0)

    def parts(self, images: list[Image.Image]) -> pd.DataFrame:
        """The three measures of every picture, in their own units.

        Raises:
            ValueError: a picture below 16 pixels.
        """
        rows = []
        for number, image in enumerate(images):
            if min(image.size) < _LEAST_SIDE:
                raise ValueError(f"picture {number} has {image.size} pixels; {_LEAST_SIDE} are needed on both sides")
            pixels = np.asarray(image.convert("RGB"))
            rows.append((sharpness(pixels), contrast(pixels), colourfulness(pixels)))
        return pd.DataFrame(rows, columns=["sharpness", "contrast", "colourfulness"])
