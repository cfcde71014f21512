"""One smoke training of the whole world, shared by the tests of what comes out of it."""

import shutil

import pytest
import torch

from lmops_lab.emojiworld import subjects
from lmops_lab.emojiworld.recipe import SMOKE
from lmops_lab.emojiworld.train import Workshop, train_world


@pytest.fixture(scope="session", autouse=True)
def _font():
    try:
        subjects.find_font()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def workshop(tmp_path_factory, _font):
    """A finished smoke training."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the same sums in the same order wherever the tests run
    done = Workshop(tmp_path_factory.mktemp("emoji-world"), SMOKE, progress=False)
    train_world(done)
    torch.set_num_threads(before)
    return done


@pytest.fixture
def copied(workshop, tmp_path):
    """A copy of the smoke training that a test may change."""
    shutil.copytree(workshop.folder, tmp_path / "world")
    return Workshop(tmp_path / "world", workshop.recipe, progress=False)
