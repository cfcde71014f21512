"""The scenes on disk: drawn once in shards, then read as plain arrays.

One file of 600 MB would be left half written by an interrupt; shards of a few thousand scenes are whole or absent, so
drawing continues where it stopped.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from lmops_lab.emojiworld.recipe import Recipe
from lmops_lab.emojiworld.scenes import draw_scene
from lmops_lab.emojiworld.settings import SETTINGS, SIZE
from lmops_lab.emojiworld.subjects import SUBJECTS
from lmops_lab.files import atomic_folder

WORDINGS = 4
# Held-out scenes are those of another world, so that no choice of sizes can mix the two.
HELD_OUT_SEED = 1_000_000
# Raised whenever scenes or captions of the same seed look different: shards of another version are not read.
VERSION = 1
_ARRAYS = ("images", "subjects", "settings", "qualities")


@dataclass(frozen=True, eq=False)
class Scenes:
    """Many scenes as arrays.

    Attributes:
        images: [scenes, 64, 64, 3].
        subjects, settings: positions in `SUBJECTS` and `SETTINGS`: [scenes].
        qualities: latent qualities, 0-1: [scenes].
        captions: wordings of each scene: [scenes][WORDINGS].
        kinds: the kind of caption (see `captions.KINDS`): [scenes].
    """

    images: NDArray[np.uint8]
    subjects: NDArray[np.int64]
    settings: NDArray[np.int64]
    qualities: NDArray[np.float32]
    captions: list[list[str]]
    kinds: list[str]

    def __len__(self) -> int:
        return len(self.images)


def training_scenes(folder: Path, recipe: Recipe, *, progress: bool = True) -> Scenes:
    """The recipe's training scenes, drawn into `folder` where they are missing.

    Raises:
        FileNotFoundError: scenes are missing and the emoji font is not installed.
    """
    return _scenes(folder / f"train-{recipe.seed}-v{VERSION}", recipe.seed, recipe.scenes, recipe.shard, progress)


def held_out_scenes(folder: Path, recipe: Recipe, *, progress: bool = True) -> Scenes:
    """The recipe's held-out scenes, which no stage trains on."""
    seed = HELD_OUT_SEED + recipe.seed
    return _scenes(folder / f"held_out-{recipe.seed}-v{VERSION}", seed, recipe.held_out, recipe.shard, progress)


def draw_scenes(seed: int, indices: range) -> Scenes:
    """Draw these scenes into memory."""
    count = len(indices)
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    subjects, settings = np.empty(count, np.int64), np.empty(count, np.int64)
    qualities = np.empty(count, np.float32)
    captions, kinds = [], []
    names, places = list(SUBJECTS), list(SETTINGS)
    for row, index in enumerate(indices):
        scene = draw_scene(seed, index, WORDINGS)
        images[row] = scene.image
        subjects[row], settings[row] = names.index(scene.content.subject), places.index(scene.content.setting)
        qualities[row] = scene.content.quality
        captions.append(list(scene.content.captions))
        kinds.append(scene.content.kind)
    return Scenes(images, subjects, settings, qualities, captions, kinds)


def _scenes(folder: Path, seed: int, count: int, shard: int, progress: bool) -> Scenes:
    ranges = list(_ranges(count, shard))
    paths = [folder / f"{part.start:06d}-{part.stop:06d}" for part in ranges]
    missing = [(path, part) for path, part in zip(paths, ranges, strict=True) if not path.is_dir()]
    for path, part in tqdm(missing, desc="drawing scenes", unit="shard", disable=not progress or not missing):
        _write(path, draw_scenes(seed, part))
    parts = [_read(path) for path in paths]
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    captions = [row for part in parts for row in part.captions]
    return Scenes(**arrays, captions=captions, kinds=[kind for part in parts for kind in part.kinds])


def _ranges(count: int, shard: int) -> Iterator[range]:
    for start in range(0, count, shard):
        yield range(start, min(count, start + shard))


def _write(path: Path, scenes: Scenes) -> None:
    with atomic_folder(path) as temporary:
        for name in _ARRAYS:
            np.save(temporary / f"{name}.npy", getattr(scenes, name))
        text = json.dumps({"captions": scenes.captions, "kinds": scenes.kinds})
        (temporary / "captions.json").write_text(text, encoding="utf-8")


def _read(path: Path) -> Scenes:
    words = json.loads((path / "captions.json").read_text(encoding="utf-8"))
    return Scenes(**{name: np.load(path / f"{name}.npy") for name in _ARRAYS}, **words)
