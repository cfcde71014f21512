"""What the scenes show: sixty names, each with its emoji, drawn with the installed Noto Color Emoji font."""

import functools
import shutil
import subprocess
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONT_NAME = "Noto Color Emoji"
INSTALL_FONT = "apt install fonts-noto-color-emoji fontconfig"

# Chosen for silhouettes and colours that stay distinct at 40 pixels: of two emoji that look alike once blurred (fish
# and whale, orange ball and pumpkin, mouse and rabbit) only one is here.
SUBJECTS = {
    "cat": "🐱",
    "dog": "🐶",
    "rabbit": "🐰",
    "penguin": "🐧",
    "fox": "🦊",
    "panda": "🐼",
    "frog": "🐸",
    "elephant": "🐘",
    "lion": "🦁",
    "monkey": "🐵",
    "pig": "🐷",
    "owl": "🦉",
    "turtle": "🐢",
    "octopus": "🐙",
    "fish": "🐟",
    "crab": "🦀",
    "butterfly": "🦋",
    "bee": "🐝",
    "ladybug": "🐞",
    "unicorn": "🦄",
    "zebra": "🦓",
    "dinosaur": "🦖",
    "flamingo": "🦩",
    "apple": "🍎",
    "banana": "🍌",
    "strawberry": "🍓",
    "watermelon": "🍉",
    "pizza": "🍕",
    "hamburger": "🍔",
    "ice cream": "🍦",
    "birthday cake": "🎂",
    "mushroom": "🍄",
    "pineapple": "🍍",
    "carrot": "🥕",
    "avocado": "🥑",
    "grapes": "🍇",
    "sunflower": "🌻",
    "rose": "🌹",
    "cactus": "🌵",
    "fire": "🔥",
    "star": "⭐",
    "snowman": "⛄",
    "rocket": "🚀",
    "car": "🚗",
    "sailboat": "⛵",
    "train": "🚂",
    "house": "🏠",
    "castle": "🏰",
    "guitar": "🎸",
    "drum": "🥁",
    "camera": "📷",
    "clock": "⏰",
    "umbrella": "☂",
    "balloon": "🎈",
    "soccer ball": "⚽",
    "crown": "👑",
    "diamond": "💎",
    "gift": "🎁",
    "robot": "🤖",
    "ghost": "👻",
}

# Other words for the same subject, as people write them.
SYNONYMS = {
    "cat": ("kitten", "kitty"),
    "dog": ("puppy",),
    "rabbit": ("bunny",),
    "pig": ("piglet",),
    "dinosaur": ("t-rex",),
    "hamburger": ("burger",),
    "ice cream": ("ice cream cone",),
    "birthday cake": ("cake",),
    "fire": ("flame",),
    "rocket": ("spaceship",),
    "sailboat": ("boat",),
    "train": ("steam train", "locomotive"),
    "clock": ("alarm clock",),
    "soccer ball": ("football",),
    "gift": ("present",),
}
_NO_ARTICLE = ("grapes", "fire")
# The size at which the Debian package's bitmap font can be drawn, and the canvas that holds any of its glyphs.
_BITMAP_SIZE, _CANVAS = 109, (136, 128)


def with_article(name: str) -> str:
    """The name as it stands in a sentence.

    >>> with_article("cat"), with_article("owl"), with_article("grapes"), with_article("unicorn")
    ('a cat', 'an owl', 'grapes', 'a unicorn')
    """
    if name in _NO_ARTICLE:
        return name
    vowel = name[0] in "aeiou" and not name.startswith("uni")
    return f"{'an' if vowel else 'a'} {name}"


@functools.cache
def find_font() -> Path:
    """Where fontconfig keeps Noto Color Emoji.

    Raises:
        FileNotFoundError: fontconfig or the font is not installed.
    """
    if shutil.which("fc-match") is None:
        raise FileNotFoundError(f"fontconfig's 'fc-match' is not installed, so no font can be found; {INSTALL_FONT}")
    command = ["fc-match", "--format=%{family}\n%{file}", FONT_NAME]
    family, _, file = subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition("\n")  # noqa: S603
    if FONT_NAME not in family:
        raise FileNotFoundError(
            f"the font {FONT_NAME!r} is not installed (fontconfig offers {family!r}); {INSTALL_FONT}"
        )
    return Path(file.strip())


@functools.cache
def glyph(name: str) -> Image.Image:
    """A subject's emoji as a transparent image cut to its outline, the longer side about 128 pixels.

    Raises:
        ValueError: an unknown name.
        FileNotFoundError: the font is missing.
    """
    if name not in SUBJECTS:
        raise ValueError(f"there is no subject {name!r}; known are {', '.join(SUBJECTS)}")
    font = ImageFont.truetype(str(find_font()), _BITMAP_SIZE)
    canvas = Image.new("RGBA", _CANVAS)
    ImageDraw.Draw(canvas).text((0, 0), SUBJECTS[name], font=font, embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        raise ValueError(f"the font {find_font()} has no picture for {name!r} ({SUBJECTS[name]})")
    return canvas.crop(box)
