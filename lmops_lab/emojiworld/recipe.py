"""All sizes and lengths of the training in one place."""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Length:
    """How long a stage trains: steps, rows a batch, the highest learning rate."""

    steps: int
    batch: int
    rate: float


@dataclass(frozen=True)
class Recipe:
    """What is trained, on what, for how long; two runs with equal recipes and machines give equal weights.

    Attributes:
        seed: of the scenes and of all training.
        scenes: number of training scenes; held-out ones come on top.
        vocabulary: size of the tokenizer.
        width, layers: of the text and vision transformers.
        autoencoder_channels: by level; each level after the first halves the picture.
        unet_channels: by level; attention works on all levels but the first, where it would cost more than all else.
    """

    seed: int = 0
    scenes: int = 50_000
    held_out: int = 1_000
    shard: int = 2_500
    vocabulary: int = 1_200
    width: int = 128
    text_layers: int = 3
    vision_layers: int = 4
    patch: int = 8
    autoencoder_channels: tuple[int, ...] = (16, 32, 64)
    latent_channels: int = 6
    unet_channels: tuple[int, ...] = (32, 80, 160)
    recogniser_width: int = 32
    recogniser: Length = Length(1_500, 64, 2e-3)
    autoencoder: Length = Length(6_000, 4, 1e-3)
    contrastive: Length = Length(1_000, 96, 1e-3)
    aesthetic: Length = Length(300, 96, 1e-3)
    diffusion: Length = Length(4_000, 32, 6e-4)

    def __post_init__(self) -> None:
        for name in ("scenes", "held_out", "shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must not be negative")

    def fingerprint(self, stage: str, *inputs: str) -> str:
        """A hash of the settings a stage depends on, and of the files it reads: other training is not continued.

        The number of steps is left out, so that a finished stage can be trained longer.
        """
        own = {name: getattr(self, name) for name in (*_SHARED, *_OWN[stage])}
        length: Length = getattr(self, stage)
        version = _VERSIONS.get(stage)
        name = f"{stage} {version}" if version else stage
        text = json.dumps([name, own, length.batch, length.rate, inputs], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


_SHARED = ("seed", "scenes")
_TEXT = ("vocabulary", "width", "text_layers")
# In the order in which they are trained.
_OWN: dict[str, tuple[str, ...]] = {
    "recogniser": ("recogniser_width",),
    "autoencoder": ("autoencoder_channels", "latent_channels"),
    "contrastive": (*_TEXT, "vision_layers", "patch"),
    "aesthetic": (*_TEXT, "vision_layers", "patch"),
    "diffusion": (*_TEXT, "latent_channels", "unet_channels"),
}
STAGES = tuple(_OWN)
# Raised where a stage's loss changes: a checkpoint of the older loss is not continued.
_VERSIONS = {"contrastive": 2, "aesthetic": 2, "diffusion": 2}

FULL = Recipe()
# Goes through every stage in seconds and learns next to nothing: for trying out the way, not the pictures.
SMOKE = Recipe(
    scenes=96,
    held_out=32,
    shard=48,
    vocabulary=700,
    width=32,
    text_layers=1,
    vision_layers=1,
    autoencoder_channels=(8, 16, 16),
    unet_channels=(16, 32),
    recogniser_width=8,
    recogniser=Length(12, 16, 2e-3),
    autoencoder=Length(16, 4, 2e-3),
    contrastive=Length(10, 16, 1e-3),
    aesthetic=Length(10, 16, 1e-3),
    diffusion=Length(16, 8, 1e-3),
)
RECIPES = {"full": FULL, "smoke": SMOKE}


def with_steps(recipe: Recipe, factor: float) -> Recipe:
    """The same recipe with every stage `factor` times as long.

    >>> with_steps(FULL, 0.5).diffusion.steps == FULL.diffusion.steps / 2
    True
    """
    if not 0 < factor < 1_000:
        raise ValueError(f"the factor {factor} must be positive (and below 1,000)")
    lengths: dict[str, Length] = {name: getattr(recipe, name) for name in STAGES}
    changed: dict[str, Any] = {
        name: replace(old, steps=max(1, round(old.steps * factor))) for name, old in lengths.items()
    }
    return replace(recipe, **changed)
