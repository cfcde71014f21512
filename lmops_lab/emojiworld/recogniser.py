"""Reads subject and setting off a picture: the judge of generated pictures, used in evaluation only.

It shares no weights with any model that is trained or rewarded, so it cannot be pleased by accident.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from lmops_lab.emojiworld.dataset import Scenes
from lmops_lab.emojiworld.settings import SETTINGS, SIZE
from lmops_lab.emojiworld.subjects import SUBJECTS

WEIGHTS, CONFIG = "model.safetensors", "config.json"
# Noise added in training, in units of the full range: generated pictures are never quite like rendered ones.
_NOISE = 0.06


class Recogniser(nn.Module):
    """A small residual network with one answer for the subject and one for the setting."""

    def __init__(
        self, width: int, subjects: Sequence[str] = tuple(SUBJECTS), settings: Sequence[str] = tuple(SETTINGS)
    ) -> None:
        super().__init__()
        self.width, self.subjects, self.settings = width, tuple(subjects), tuple(settings)
        layers: list[nn.Module] = []
        inputs = 3
        for channels in (width, 2 * width, 4 * width, 4 * width):
            layers += [nn.Conv2d(inputs, channels, 3, stride=2, padding=1), _Residual(channels)]
            inputs = channels
        self.body = nn.Sequential(*layers, nn.GroupNorm(8, inputs), nn.SiLU())
        self.subject_head = nn.Linear(inputs * (SIZE // 16) ** 2, len(self.subjects))
        self.setting_head = nn.Linear(inputs * (SIZE // 16) ** 2, len(self.settings))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of subjects and settings for images of [batch, 3, 64, 64] in -1..1."""
        features = self.body(images).flatten(1)
        return self.subject_head(features), self.setting_head(features)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.branch(inputs)


@dataclass(frozen=True)
class Reading:
    """What the recogniser sees in one picture: names and the probabilities it gives them."""

    subject: str
    setting: str
    subject_probability: float
    setting_probability: float


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """Pictures as the networks take them: [batch, height, width, 3] in 0-255 to [batch, 3, height, width] in -1..1."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).float()
    # A permuted view of the bytes' own order is what torch calls channels-last: the fast layout for convolutions.
    return (pixels / 127.5 - 1).permute(0, 3, 1, 2)


def recogniser_loss(model: Recogniser, scenes: Scenes, batch: int, generator: torch.Generator) -> Tensor:
    """Cross-entropy of subject and setting on a random batch of scenes, a little noise added."""
    rows = torch.randint(len(scenes), (batch,), generator=generator).numpy()
    images = to_tensor(scenes.images[rows])
    strength = _NOISE * 2 * torch.rand((batch, 1, 1, 1), generator=generator)
    images = images + strength * torch.randn(images.shape, generator=generator)
    subjects, settings = model(images)
    right_subjects, right_settings = torch.from_numpy(scenes.subjects[rows]), torch.from_numpy(scenes.settings[rows])
    return functional.cross_entropy(subjects, right_subjects) + functional.cross_entropy(settings, right_settings)


@torch.no_grad()
def recognise(model: Recogniser, images: Sequence[Image.Image] | NDArray[np.uint8], batch: int = 64) -> list[Reading]:
    """Name subject and setting of each picture; pictures of other sizes are scaled to 64 x 64 first.

    Raises:
        ValueError: an array that is not [pictures, 64, 64, 3].
    """
    if not isinstance(images, np.ndarray):
        scaled = [image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS) for image in images]
        images = np.stack([np.asarray(image) for image in scaled]) if scaled else np.empty((0, SIZE, SIZE, 3), np.uint8)
    if images.shape[1:] != (SIZE, SIZE, 3):
        raise ValueError(f"pictures of shape {images.shape} are not [pictures, {SIZE}, {SIZE}, 3]")
    readings = []
    for start in range(0, len(images), batch):
        answers = [logits.softmax(-1).max(-1) for logits in model(to_tensor(images[start : start + batch]))]
        (subject_p, subjects), (setting_p, settings) = answers
        for row in range(len(subjects)):
            names = model.subjects[int(subjects[row])], model.settings[int(settings[row])]
            readings.append(Reading(*names, float(subject_p[row]), float(setting_p[row])))
    return readings


def load_recogniser(folder: Path) -> Recogniser:
    """The recogniser saved in a folder.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"there is no recogniser in {folder}; 'lmops-lab train-emoji-world' makes one")
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    model = Recogniser(config["width"], config["subjects"], config["settings"])
    model.load_state_dict({name: weight.float() for name, weight in load_file(folder / WEIGHTS).items()})
    return model.eval().requires_grad_(False)
