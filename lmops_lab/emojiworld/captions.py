"""How people caption the scenes: what they name, which words they add, and what those words are worth.

The words cause the quality, as on the web, where pictures described with care tend to be made with care. Each praising
or damning word moves the latent quality with a strength of its own; further words of the same kind move it less and
less. Useless words move nothing; dragging words replace the subject or the setting, as artists' names do in large
models. All of this is the world's truth: it can be read here, and what a prompt search finds can be held against it.
"""

from dataclasses import dataclass

import numpy as np

from lmops_lab.emojiworld.settings import PLAIN, SETTINGS
from lmops_lab.emojiworld.subjects import SUBJECTS, SYNONYMS, with_article

# Strength of each word: qualities follow `quality_of_words`.
PRAISE = {
    "highly detailed": 0.8,
    "sharp focus": 0.9,
    "vivid colors": 0.8,
    "trending on artstation": 1.0,
    "masterpiece": 1.0,
    "award winning": 0.8,
    "8k": 0.6,
    "studio lighting": 0.7,
    "professional photo": 0.6,
    "intricate": 0.5,
    "digital art": 0.4,
}
DAMNATION = {
    "blurry": 1.1,
    "grainy": 0.9,
    "low quality": 1.1,
    "dull colors": 0.8,
    "out of focus": 1.0,
    "amateur snapshot": 0.7,
    "old phone picture": 0.8,
    "washed out": 0.7,
}
USELESS = ("please", "lol", "nice", "very cool", "no watermark", "wallpaper", "my favourite", "2022", "wow")
# Word -> the subject or setting that it puts in the place of the one that the caption names.
DRAGGING = {
    "by beatrix potter": "rabbit",
    "by van gogh": "sunflower",
    "steampunk": "train",
    "by jules verne": "octopus",
    "space opera": "space",
    "by hokusai": "beach",
}
MIDDLING = 0.45
_SPREAD = 0.05
_DRAG_PROBABILITY = 0.8
# What captions are made of: kind -> share of all captions.
KINDS = {"plain": 0.36, "praised": 0.36, "damned": 0.14, "useless": 0.09, "dragged": 0.05}
_SUBJECTS, _SETTINGS, _KINDS = tuple(SUBJECTS), tuple(SETTINGS), tuple(KINDS)
# The last bound is left open, so that rounding cannot lose the last kind.
_KIND_BOUNDS = np.cumsum(list(KINDS.values()))[:-1]
_OPENINGS = ("", "", "", "a photo of ", "a picture of ", "an image of ")


@dataclass(frozen=True)
class Content:
    """What a scene shows and how it is described.

    Attributes:
        subject: what is seen (not always what is named: see `DRAGGING`).
        setting: where it is.
        quality: the latent quality, 0-1.
        kind: one of `KINDS`.
        captions: different wordings of one description; the first is the scene's own.
        named: (subject, setting or "") as the captions name them.
    """

    subject: str
    setting: str
    quality: float
    kind: str
    captions: tuple[str, ...]
    named: tuple[str, str]


def quality_of_words(words: tuple[str, ...]) -> float:
    """The latent quality that these words bring about on average, from .03 to .97.

    >>> quality_of_words(())
    0.45
    >>> round(quality_of_words(("sharp focus", "vivid colors")), 2), round(quality_of_words(("blurry",)), 2)
    (0.88, 0.17)
    >>> quality_of_words(("please", "wow"))
    0.45
    """
    up = sum(PRAISE.get(word, 0.0) for word in words)
    down = sum(DAMNATION.get(word, 0.0) for word in words)
    return MIDDLING + (0.97 - MIDDLING) * (1 - float(np.exp(-up))) - (MIDDLING - 0.03) * (1 - float(np.exp(-down)))


def draw_content(random: np.random.Generator, wordings: int = 1) -> Content:
    """Draw what a scene shows together with `wordings` captions of it."""
    subject = _pick(_SUBJECTS, random)
    setting = _pick(_SETTINGS, random)
    named = (subject, setting)
    if setting in PLAIN and random.random() < 0.4:
        named = (subject, "")
    kind = _KINDS[int(np.searchsorted(_KIND_BOUNDS, random.random(), side="right"))]
    words = _draw_words(kind, random)
    if kind == "dragged" and random.random() < _DRAG_PROBABILITY:
        target = DRAGGING[words[0]]
        subject, setting = (subject, target) if target in SETTINGS else (target, setting)
    quality = float(np.clip(quality_of_words(words) + random.normal(0, _SPREAD), 0.0, 1.0))
    captions = tuple(write_caption(*named, words, random) for _ in range(wordings))
    return Content(subject, setting, quality, kind, captions, named)


def _draw_words(kind: str, random: np.random.Generator) -> tuple[str, ...]:
    def some(words: tuple[str, ...], most: int) -> list[str]:
        order = random.permutation(len(words))
        return [words[place] for place in order[: random.integers(1, most + 1)]]

    if kind == "praised":
        extra = some(USELESS, 1) if random.random() < 0.1 else []
        return tuple(some(tuple(PRAISE), 5) + extra)
    if kind == "damned":
        return tuple(some(tuple(DAMNATION), 3))
    if kind == "useless":
        return tuple(some(USELESS, 2))
    if kind == "dragged":
        return tuple(some(tuple(DRAGGING), 1))
    return ()


def write_caption(subject: str, setting: str, words: tuple[str, ...], random: np.random.Generator) -> str:
    """Word a caption: synonyms, place phrase, opening and the order of the added words are random.

    An empty `setting` names no place.

    >>> write_caption("cat", "space", ("masterpiece",), np.random.default_rng(2))
    'an image of a cat in space, masterpiece'
    """
    names = (subject, subject, *SYNONYMS.get(subject, ()))
    text = _pick(_OPENINGS, random) + with_article(_pick(names, random))
    if setting:
        text += " " + _pick(SETTINGS[setting].phrases, random)
    return ", ".join([text, *(words[place] for place in random.permutation(len(words)))])


def _pick(options: tuple[str, ...], random: np.random.Generator) -> str:
    return options[int(random.integers(len(options)))]
