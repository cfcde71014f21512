"""Scenes on disk: complete shards, continued drawing, a held-out world of its own."""

from dataclasses import replace

import numpy as np
import pytest

from lmops_lab.emojiworld import dataset
from lmops_lab.emojiworld.recipe import SMOKE
from lmops_lab.emojiworld.settings import SETTINGS
from lmops_lab.emojiworld.subjects import SUBJECTS

RECIPE = replace(SMOKE, scenes=10, held_out=6, shard=4)


def test_scenes_are_drawn_once_and_are_those_of_the_seed(tmp_path, monkeypatch):
    scenes = dataset.training_scenes(tmp_path, RECIPE, progress=False)
    assert len(scenes) == 10
    monkeypatch.setattr(dataset, "draw_scene", None)
    again = dataset.training_scenes(tmp_path, RECIPE, progress=False)
    monkeypatch.undo()
    direct = dataset.draw_scenes(RECIPE.seed, range(10))
    for other in (again, direct):
        assert np.array_equal(scenes.images, other.images)
        assert np.array_equal(scenes.qualities, other.qualities)
        assert scenes.captions == other.captions
    content = dataset.draw_scene(RECIPE.seed, 9, dataset.WORDINGS).content
    assert list(SUBJECTS)[scenes.subjects[9]] == content.subject
    assert list(SETTINGS)[scenes.settings[9]] == content.setting


def test_an_interrupt_keeps_whole_shards(tmp_path, monkeypatch):
    draw, drawn = dataset.draw_scene, []

    def interrupted(seed, index, wordings):
        if index == 6:
            raise KeyboardInterrupt
        drawn.append(index)
        return draw(seed, index, wordings)

    monkeypatch.setattr(dataset, "draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dataset.training_scenes(tmp_path, RECIPE, progress=False)
    drawn.clear()
    monkeypatch.setattr(dataset, "draw_scene", lambda s, i, w: (drawn.append(i), draw(s, i, w))[1])
    assert len(dataset.training_scenes(tmp_path, RECIPE, progress=False)) == 10
    assert drawn == list(range(4, 10))


def test_held_out_scenes_are_not_among_the_training_scenes(tmp_path):
    train = dataset.training_scenes(tmp_path, RECIPE, progress=False)
    held_out = dataset.held_out_scenes(tmp_path, RECIPE, progress=False)
    assert len(held_out) == 6
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in held_out.images}


@pytest.mark.parametrize(("field", "value"), [("scenes", 0), ("held_out", 0), ("shard", -2), ("seed", -1)])
def test_impossible_sizes_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}"):
        replace(SMOKE, **{field: value})
