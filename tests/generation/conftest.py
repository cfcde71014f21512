"""A random tiny Stable Diffusion, saved once, loaded by the calls that load the real one."""

from pathlib import Path

import pytest

from lmops_lab.generation.images import ImageGenerator
from lmops_lab.generation.store import ImageStore
from tests.tiny_pictures import tiny_pipeline_folder


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory) -> Path:
    """A Stable Diffusion v1 folder without a safety checker."""
    return tiny_pipeline_folder(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="session")
def loaded(pipeline_folder) -> ImageGenerator:
    """The tiny pipeline, without a store."""
    return ImageGenerator.load(str(pipeline_folder), device="cpu", store=None)


@pytest.fixture
def tiny_generator(loaded, tmp_path) -> ImageGenerator:
    """The tiny pipeline with a fresh store."""
    store = ImageStore(tmp_path / "store")
    return ImageGenerator(loaded.name, loaded.pipeline, loaded.revision, loaded.number_format, store)
