"""A random CLIP with ViT-L/14's tokenizer window, picture size and 768-dimensional projection."""

import numpy as np
import pytest
from PIL import Image

from lmops_lab.rewards.clip import ClipEncoder
from tests.tiny_pictures import tiny_clip_folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """The saved model."""
    return tiny_clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def encoder(clip_folder) -> ClipEncoder:
    """The model, loaded by the call that loads the real one."""
    return ClipEncoder.load(str(clip_folder), device="cpu")


@pytest.fixture(scope="session")
def noise() -> list[Image.Image]:
    """Six pictures of coloured noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    return [Image.fromarray(p).resize((64, 64), Image.Resampling.BICUBIC) for p in pixels]
