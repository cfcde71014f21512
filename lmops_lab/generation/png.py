"""PNG files that carry their own recipe."""

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, PngImagePlugin

from lmops_lab.files import atomic_file
from lmops_lab.generation.recipe import FORMAT, Recipe
from lmops_lab.outside import parse_json
from lmops_lab.rewards.cache import picture_hash

CHUNK = "lmops_lab"  # keyword of a picture's text chunk


@dataclass(frozen=True)
class Provenance:
    """How a PNG was made, as its own text chunk tells.

    Attributes:
        key: the name under which a store finds the picture.
        flagged: the safety checker's verdict; None where the pipeline has none.
        pixels: hash of the pixels when they were written.
        intact: whether the file still holds these pixels.
    """

    recipe: Recipe
    key: str
    flagged: bool | None
    pixels: str
    intact: bool


def provenance(path: Path | str) -> Provenance:
    """How a picture was made: prompt, seed, pipeline, settings and versions, read from the PNG itself.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a picture, or a picture that carries no recipe.
    """
    return read_picture(Path(path))[0]


def write_picture(path: Path, recipe: Recipe, image: Image.Image, flagged: bool | None) -> None:
    """Write a PNG with its whole recipe, atomically."""
    about = {
        "format": FORMAT,
        "key": recipe.key,
        "flagged": flagged,
        "pixels": picture_hash(image),
        "recipe": recipe.to_dict(),
    }
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(CHUNK, json.dumps(about))  # ASCII only, so any viewer of text chunks can show it
    with atomic_file(path) as temporary:
        image.convert("RGB").save(temporary, format="PNG", pnginfo=chunks)


def read_picture(path: Path) -> tuple[Provenance, Image.Image]:
    """A PNG's provenance and its pixels.

    Raises:
        FileNotFoundError, ValueError: see `provenance`.
    """
    try:
        with Image.open(path) as opened:
            opened.load()
            text = getattr(opened, "text", {}).get(CHUNK)
            image = opened.convert("RGB")
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no picture at {str(path)!r}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as a picture: {error}") from error
    if text is None:
        raise ValueError(
            f"{str(path)!r} carries no recipe (no text chunk {CHUNK!r}): it was not written by this package, or a "
            "program that drops text chunks saved it again"
        )
    try:
        about = parse_json(text, "it")
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']!r}, this version reads {FORMAT!r}")  # noqa: TRY301
        recipe = Recipe.from_dict(about["recipe"])
        flagged, pixels = about["flagged"], about["pixels"]
        if not isinstance(flagged, bool | None) or not isinstance(pixels, str):  # 0 equals False and is none
            raise TypeError(f"flagged is {flagged!r}, pixels is {pixels!r}")  # noqa: TRY301
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the recipe in {str(path)!r} cannot be read: {error}") from error
    return Provenance(recipe, recipe.key, flagged, pixels, pixels == picture_hash(image)), image
