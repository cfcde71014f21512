"""Text in labels: any script an installed font can draw, wrapped, never cut."""

import functools
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from fontTools.ttLib import TTCollection, TTFont, TTLibError  # type: ignore[import-untyped]
from matplotlib import font_manager
from PIL import ImageDraw, ImageFont

SIZE = 13  # pixels


@functools.cache
def _fonts() -> tuple[Path, ...]:
    """DejaVu Sans, which matplotlib ships, then every installed font; "Last Resort" has only placeholders."""
    own = Path(font_manager.findfont("DejaVu Sans"))
    installed = {Path(entry.fname) for entry in font_manager.fontManager.ttflist if "Last Resort" not in entry.name}
    return (own, *sorted(installed - {own}))


@functools.cache
def _characters(path: Path) -> frozenset[int]:
    """Code points that a font draws with outlines; colour bitmaps have sizes of their own and do not count."""
    try:
        font = TTCollection(path, lazy=True).fonts[0] if path.suffix == ".ttc" else TTFont(path, lazy=True)
        return frozenset() if "CBDT" in font else frozenset(font.getBestCmap() or ())
    except (OSError, TTLibError, KeyError):
        return frozenset()


@functools.cache
def _font_for(character: str) -> Path | None:
    for path in _fonts():
        if ord(character) in _characters(path):
            return path
    return None


@functools.cache
def _loaded(path: Path) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, SIZE)


def drawable(text: str) -> str:
    """The text with every character that no installed font draws spelled out, for example ":fox face:"."""
    spelled = []
    for character in " ".join(text.split()):
        if character == "\ufe0f" or unicodedata.category(character) in ("Cc", "Cf"):
            continue  # variation selectors and joiners show nothing by themselves
        if _font_for(character):
            spelled.append(character)
        else:
            spelled.append(f":{unicodedata.name(character, f'U+{ord(character):04X}').lower()}:")
    return "".join(spelled)


def _runs(text: str) -> list[tuple[Path, str]]:
    """Stretches that one font draws."""
    runs: list[tuple[Path, str]] = []
    for character in text:
        path = _font_for(character) or _fonts()[0]
        if runs and runs[-1][0] == path:
            runs[-1] = path, runs[-1][1] + character
        else:
            runs.append((path, character))
    return runs


def text_width(text: str) -> float:
    """Pixels that a drawable text takes in one line."""
    return sum(_loaded(path).getlength(run) for path, run in _runs(text))


def line_height() -> int:
    """Pixels from line to line."""
    return round(SIZE * 1.35)


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` pixels that together hold the whole text; words wider than a line are broken."""
    lines, line = [], ""
    for word in drawable(text).split(" "):
        longer = f"{line} {word}".strip()
        if text_width(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        line = ""
        for character in word:
            if line and text_width(line + character) > width:
                lines.append(line)
                line = ""
            line += character
    return [*lines, line]


def draw_lines(draw: ImageDraw.ImageDraw, at: tuple[int, int], lines: Sequence[str]) -> None:
    """Draw lines below each other, black, from the upper left corner `at`."""
    for number, line in enumerate(lines):
        x, y = float(at[0]), at[1] + number * line_height()
        for path, run in _runs(line):
            draw.text((x, y + SIZE), run, fill="black", font=_loaded(path), anchor="ls")
            x += _loaded(path).getlength(run)
