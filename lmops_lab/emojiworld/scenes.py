"""From a scene's content to its 64 x 64 picture: the quality drives focus, grain, contrast, colour and framing."""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from lmops_lab.emojiworld.captions import Content, draw_content
from lmops_lab.emojiworld.settings import SIZE, paint
from lmops_lab.emojiworld.subjects import glyph

# Turning is the slowest part of drawing: whole steps of two degrees can be kept for the next scene.
_TILT_STEP, _TURNED = 2, 96


@dataclass(frozen=True)
class Scene:
    """One example of the world: a picture and everything that is true of it.

    Attributes:
        content: subject, setting, quality and captions.
        image: [64, 64, 3], RGB.
    """

    content: Content
    image: NDArray[np.uint8]


def draw_scene(seed: int, index: int, wordings: int = 1) -> Scene:
    """The scene number `index` of the world `seed`: always the same one, whatever else was drawn.

    Raises:
        FileNotFoundError: the emoji font is not installed.
        ValueError: a negative seed or index.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed {seed} and index {index} must not be negative")
    # Two streams: the number of wordings does not change the picture.
    content = draw_content(np.random.default_rng([seed, index, 0]), wordings)
    random = np.random.default_rng([seed, index, 1])
    return Scene(content, render(content.subject, content.setting, content.quality, random))


def render(subject: str, setting: str, quality: float, random: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a subject in a setting with a latent quality from 0 (worst) to 1 (best): [64, 64, 3].

    Raises:
        ValueError: a quality outside 0-1, an unknown subject or setting.
    """
    if not 0 <= quality <= 1:
        raise ValueError(f"the latent quality {quality} is outside 0-1")
    image = Image.fromarray(paint(setting, random))
    _place(image, subject, quality, random)
    return _photograph(image, quality, random)


def _place(image: Image.Image, subject: str, quality: float, random: np.random.Generator) -> None:
    """Framing: a good picture shows its subject large, upright and in the middle, a bad one small, tilted and aside."""
    poor = 1 - quality
    length = 47 - 14 * poor + random.uniform(-1.5, 1.5)
    tilt = _TILT_STEP * round(random.normal(0, 1.5 + 9 * poor) / _TILT_STEP)
    emoji = _resized(subject, round(length), tilt)
    room = [1.5 + 9 * poor, 1.5 + 7 * poor]
    x, y = [(SIZE - side) / 2 + random.uniform(-r, r) for side, r in zip(emoji.size, room, strict=True)]
    image.paste(emoji, (round(x), round(y + 1)), emoji)


def _resized(subject: str, length: int, tilt: int) -> Image.Image:
    picture = _tilted(subject, tilt)
    # The outline's own longer side, not that of the tilted box, is what should be `length` long.
    scale = length / _TURNED
    width, height = [max(1, round(side * scale)) for side in picture.size]
    return picture.resize((width, height), Image.Resampling.LANCZOS)


@functools.lru_cache(maxsize=4_000)
def _tilted(subject: str, tilt: int) -> Image.Image:
    """A subject turned by `tilt` degrees, at twice the size at which it is shown."""
    picture = glyph(subject)
    scale = _TURNED / max(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    return picture.rotate(tilt, Image.Resampling.BICUBIC, expand=True) if tilt else picture


def _photograph(image: Image.Image, quality: float, random: np.random.Generator) -> NDArray[np.uint8]:
    """Colour, contrast, focus and grain, each following the quality with a little play of its own."""
    colour, contrast, focus, grain = np.clip(quality + random.normal(0, 0.04, 4), 0, 1)
    image = ImageEnhance.Color(image).enhance(0.3 + 1.05 * float(colour))
    # Around a fixed grey, not the picture's own mean: a dull picture of space turns grey, not just flat.
    grey = Image.new("RGB", image.size, (118, 118, 118))
    image = Image.blend(grey, image, 0.58 + 0.54 * float(contrast))
    radius = 1.75 * max(0.0, 0.88 - float(focus)) ** 1.2
    if radius > 0.05:
        image = image.filter(ImageFilter.GaussianBlur(radius))
    pixels = np.asarray(image).astype(np.float32)
    strength = 11 * max(0.0, 0.8 - float(grain)) ** 1.5
    # Grain two pixels wide, a little of it coloured: finer noise would be lost in any autoencoder.
    coarse = random.normal(0, 1, (SIZE // 2, SIZE // 2, 1)) + 0.4 * random.normal(0, 1, (SIZE // 2, SIZE // 2, 3))
    pixels += strength * coarse.repeat(2, 0).repeat(2, 1).astype(np.float32)
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
