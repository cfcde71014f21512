"""Where the scenes take place: twelve settings, each a painter of a 64 x 64 background and the words for it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIZE = 64
# Shapes are drawn this many times larger and scaled down: smooth edges.
_OVER = 3
_BIG = SIZE * _OVER
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Setting:
    """A place: the words people write for it and how it is painted.

    Attributes:
        phrases: what follows the subject in a caption.
        paint: draws the background, different for each state of the random generator.
    """

    phrases: tuple[str, ...]
    paint: Callable[[np.random.Generator], Image.Image]


def _gradient(*stops: tuple[float | int, Colour]) -> Image.Image:
    """A vertical gradient through (height from the top in 0-1, colour) stops."""
    rows = np.linspace(0, 1, _BIG)
    heights = [stop[0] for stop in stops]
    channels = [np.interp(rows, heights, [stop[1][c] for stop in stops]) for c in range(3)]
    column = np.stack(channels, -1).astype(np.uint8)  # [rows, 3]
    return Image.fromarray(np.repeat(column[:, None], _BIG, 1))


def _shift(colour: Colour, random: np.random.Generator, amount: int = 10) -> Colour:
    moved = np.clip(np.array(colour) + random.integers(-amount, amount + 1), 0, 255)
    return int(moved[0]), int(moved[1]), int(moved[2])


def _plain(light: Colour, dark: Colour) -> Callable[[np.random.Generator], Image.Image]:
    """A studio backdrop of one colour, a little darker towards the floor."""

    def paint(random: np.random.Generator) -> Image.Image:
        return _gradient((0, _shift(light, random)), (1, _shift(dark, random)))

    return paint


def _circle(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: Colour) -> None:
    draw.ellipse([_OVER * (x - radius), _OVER * (y - radius), _OVER * (x + radius), _OVER * (y + radius)], fill=fill)


def _space(random: np.random.Generator) -> Image.Image:
    image = _gradient((0, (8, 6, 32)), (1, (34, 14, 70)))
    draw = ImageDraw.Draw(image)
    for x, y in random.uniform(0, SIZE, (26, 2)):
        _circle(draw, x, y, random.uniform(0.5, 1.0), (255, 255, 235))
    return image


def _grass(random: np.random.Generator) -> Image.Image:
    image = _gradient((0, (120, 200, 250)), (0.5, (190, 230, 255)), (0.51, (110, 200, 70)), (1, (40, 135, 40)))
    draw = ImageDraw.Draw(image)
    for x in np.arange(0, SIZE, 2.6) + random.uniform(0, 2.6):
        tip = random.uniform(44, 53)
        blade = [(x - 1.2, SIZE), (x + random.uniform(-2, 2), tip), (x + 1.2, SIZE)]
        draw.polygon([(_OVER * a, _OVER * b) for a, b in blade], fill=_shift((30, 120, 35), random))
    return image


def _sunset(random: np.random.Generator) -> Image.Image:
    image = _gradient(
        (0, (70, 35, 110)), (0.35, (215, 75, 100)), (0.68, (255, 170, 70)), (0.7, (95, 40, 75)), (1, (40, 20, 55))
    )
    draw = ImageDraw.Draw(image)
    x = random.choice([random.uniform(6, 16), random.uniform(48, 58)])
    draw.pieslice([_OVER * (x - 10), _OVER * 35, _OVER * (x + 10), _OVER * 55], 180, 360, fill=(255, 235, 130))
    return image


def _beach(random: np.random.Generator) -> Image.Image:
    image = _gradient(
        (0, (110, 200, 250)),
        (0.4, (200, 235, 255)),
        (0.41, (20, 130, 200)),
        (0.62, (60, 200, 215)),
        (1, (60, 200, 215)),
    )
    draw = ImageDraw.Draw(image)
    phase, shore = random.uniform(0, 6), random.uniform(40, 43)
    line = [(x, shore + 1.5 * np.sin(x / 8 + phase)) for x in range(SIZE + 1)]
    for lift, colour in ((-1.6, (250, 252, 255)), (0.0, (240, 215, 150))):
        edge = [(_OVER * x, _OVER * (y + lift)) for x, y in line]
        draw.polygon([*edge, (_BIG, _BIG), (0, _BIG)], fill=colour)
    return image


def _snow(random: np.random.Generator) -> Image.Image:
    image = _gradient((0, (120, 150, 185)), (0.6, (175, 198, 222)), (0.61, (245, 249, 255)), (1, (215, 228, 242)))
    draw = ImageDraw.Draw(image)
    for x, y in random.uniform(0, SIZE, (24, 2)):
        _circle(draw, x, y, random.uniform(0.9, 1.5), (255, 255, 255))
    return image


def _underwater(random: np.random.Generator) -> Image.Image:
    image = _gradient((0, (60, 205, 225)), (0.5, (10, 120, 180)), (1, (4, 45, 105)))
    draw = ImageDraw.Draw(image)
    for x, y in random.uniform(2, SIZE - 2, (9, 2)):
        radius = random.uniform(1.2, 2.6)
        box = [_OVER * (x - radius), _OVER * (y - radius), _OVER * (x + radius), _OVER * (y + radius)]
        draw.ellipse(box, outline=(200, 245, 255), width=2)
    return image


def _desert(random: np.random.Generator) -> Image.Image:
    image = _gradient((0, (250, 215, 150)), (0.6, (255, 238, 200)), (1, (255, 238, 200)))
    draw = ImageDraw.Draw(image)
    phase = random.uniform(0, 6)
    for height, colour in ((36, (222, 160, 90)), (46, (205, 130, 60))):
        dune = [(_OVER * x, _OVER * (height + 3.5 * np.sin(x / 10 + phase + height))) for x in range(SIZE + 1)]
        draw.polygon([*dune, (_BIG, _BIG), (0, _BIG)], fill=colour)
    return image


def _city(random: np.random.Generator) -> Image.Image:
    image = _gradient((0, (18, 20, 48)), (1, (70, 50, 95)))
    draw = ImageDraw.Draw(image)
    for x in range(0, SIZE, 8):
        top = int(random.integers(14, 40))
        draw.rectangle([_OVER * x, _OVER * top, _OVER * (x + 7), _BIG], fill=_shift((30, 32, 44), random, 6))
        for y in range(top + 3, SIZE, 5):
            for dx in (1, 4):
                if random.random() < 0.45:
                    draw.rectangle(
                        [_OVER * (x + dx), _OVER * y, _OVER * (x + dx + 2) - 1, _OVER * (y + 2) - 1],
                        fill=(235, 190, 85),
                    )
    return image


SETTINGS = {
    "blue": Setting(("on a blue background", "in front of a blue wall"), _plain((75, 135, 245), (40, 90, 205))),
    "yellow": Setting(("on a yellow background", "in front of a yellow wall"), _plain((255, 222, 70), (240, 185, 30))),
    "pink": Setting(("on a pink background", "in front of a pink wall"), _plain((255, 170, 205), (240, 125, 175))),
    "green": Setting(("on a green background", "in front of a green wall"), _plain((85, 205, 130), (40, 160, 95))),
    "space": Setting(("in space", "in outer space", "among the stars"), _space),
    "grass": Setting(("in the grass", "on a meadow"), _grass),
    "sunset": Setting(("at sunset", "at dusk"), _sunset),
    "beach": Setting(("at the beach", "on the beach", "by the sea"), _beach),
    "snow": Setting(("in the snow", "in winter"), _snow),
    "underwater": Setting(("underwater", "under the sea"), _underwater),
    "desert": Setting(("in the desert", "on a sand dune"), _desert),
    "city": Setting(("in the city at night", "in a big city"), _city),
}
# Where a picture without a named place is taken.
PLAIN = ("blue", "yellow", "pink", "green")


def paint(name: str, random: np.random.Generator) -> NDArray[np.uint8]:
    """A setting's background without the subject: [64, 64, 3].

    Raises:
        ValueError: an unknown setting.
    """
    if name not in SETTINGS:
        raise ValueError(f"there is no setting {name!r}; known are {', '.join(SETTINGS)}")
    return np.asarray(SETTINGS[name].paint(random).resize((SIZE, SIZE), Image.Resampling.BOX))
