"""The recipe of a picture: everything its pixels depend on, and the hash that finds it again."""

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

FORMAT = "lmops-lab picture 1"
LARGEST_SEED = 2**63 - 1  # what torch.Generator.manual_seed takes on every platform

Number = int | float


@dataclass(frozen=True)
class Recipe:
    """Everything a picture's pixels depend on.

    Attributes:
        pipeline: the name that the pipeline was loaded by.
        revision: commit of a Hub pipeline, or "local-" and a hash of a folder's weights.
        scheduler: class name of the diffusers scheduler.
        steps: denoising steps.
        guidance: scale of classifier-free guidance; 1 is none.
        guidance_end: share of the steps, counted from the first, that are guided.
        width, height: pixels.
        dtype: number format of the weights; 16-bit formats give other pixels.
        versions: of the libraries that compute.
    """

    prompt: str
    negative_prompt: str
    seed: int
    pipeline: str
    revision: str
    scheduler: str
    steps: int
    guidance: float
    width: int
    height: int
    dtype: str
    versions: Mapping[str, str]
    guidance_end: float = 1.0

    @property
    def guided_steps(self) -> int:
        """Steps with guidance, at least one; the others cost half as much."""
        return max(1, round(self.guidance_end * self.steps))

    @functools.cached_property
    def key(self) -> str:
        """Hash that names the picture in a store: 32 hexadecimal digits.

        A local folder counts by its weights alone, so that moving it loses no picture; a Hub pipeline by id and commit.
        """
        content = asdict(self)
        if self.revision.startswith("local-"):
            del content["pipeline"]
        if self.guided_steps == self.steps:  # pictures of before there was a choice keep their names
            del content["guidance_end"]
        return hashlib.sha256(f"{FORMAT} {json.dumps(content, sort_keys=True)}".encode()).hexdigest()[:32]

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Recipe":
        """The inverse of `to_dict`.

        Raises:
            TypeError: missing or unknown fields, or a value of another type.
            ValueError: a number that no picture was drawn with.
        """
        kinds: dict[str, Any] = dict.fromkeys(("seed", "steps", "width", "height"), int)
        kinds |= {"guidance": Number, "guidance_end": Number}
        for name, value in data.items():
            kind = kinds.get(name, Mapping if name == "versions" else str)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise TypeError(f"{name} is {str(value)[:80]!r}")
            if kind is int and not 0 <= value <= LARGEST_SEED:
                raise ValueError(f"{name} is {str(value)[:80]}")
        recipe = cls(**data)
        if not 0 < recipe.guidance_end <= 1:
            raise ValueError(f"guidance_end is {recipe.guidance_end}; it is a share of the steps, above 0 and up to 1")
        return recipe


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that compute a picture, without their build ("2.13.0", not "2.13.0+cpu")."""
    return {name: version(name).partition("+")[0] for name in ("diffusers", "torch", "transformers")}


def check_prompt(prompt: str, where: str) -> None:
    """Refuse a text that no pipeline can be asked to draw.

    Raises:
        ValueError: an empty prompt, or characters that are no text.
    """
    if not prompt.strip():
        raise ValueError(f"{where} is {prompt!r}, an empty text; say what the picture shows")
    check_text(prompt, where)


def check_text(text: str, where: str) -> None:
    """Refuse lone surrogates, which no tokenizer and no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where} holds {text[error.start]!r} at character {error.start}, half of a surrogate pair; "
            "decode the text again, as UTF-8"
        ) from error


def check_seed(seed: object) -> int:
    """A seed that every machine takes.

    Raises:
        ValueError: not a whole number between 0 and 2^63 - 1.
    """
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise ValueError(f"seed is {seed!r}; give a whole number from 0")
    number = int(seed.__index__())
    if not 0 <= number <= LARGEST_SEED:
        raise ValueError(f"seed is {number}; give a whole number from 0 to 2^63 - 1")
    return number


def check_steps(steps: object, most: int) -> int:
    """A number of denoising steps.

    Raises:
        ValueError: not a whole number from 1 to what the scheduler was trained with.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= most:
        raise ValueError(f"steps is {steps!r}; give a whole number from 1 to {most}, for example 20")
    return steps


def check_guidance(guidance: object) -> float:
    """A scale of classifier-free guidance.

    Raises:
        ValueError: not a finite number from 0.
    """
    if isinstance(guidance, bool) or not isinstance(guidance, Number) or not math.isfinite(guidance):
        raise ValueError(f"guidance is {guidance!r}; give a number from 0, for example 7.5 (1: no guidance)")
    if guidance < 0:
        raise ValueError(f"guidance is {guidance}; give a number from 0, for example 7.5 (1: no guidance)")
    return float(guidance)


def check_guidance_end(share: object) -> float:
    """A share of the steps.

    Raises:
        ValueError: not a number above 0 and up to 1.
    """
    if isinstance(share, bool) or not isinstance(share, Number) or not 0 < share <= 1:
        raise ValueError(
            f"guidance_end is {share!r}; give the share of the steps that are guided, above 0 and at most 1"
        )
    return float(share)


def check_size(size: int | tuple[int, int], multiple: int) -> tuple[int, int]:
    """Width and height in pixels.

    Raises:
        ValueError: not positive multiples of what the pipeline's autoencoder needs.
    """
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2:
        raise ValueError(f"size is {size!r}; give one number or (width, height)")
    for side in sides:
        if isinstance(side, bool) or not isinstance(side, int) or side < multiple or side % multiple:
            low = max(multiple, int(side) // multiple * multiple)
            raise ValueError(
                f"size is {size!r}, but {side!r} is not a positive multiple of {multiple} pixels; "
                f"the nearest are {low} and {low + multiple}"
            )
    return sides[0], sides[1]
