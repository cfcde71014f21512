"""Grids over any axes, as data and as a labelled sheet."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lmops_lab.generation import fonts, images, sheet
from lmops_lab.generation.grid import draw_grid
from lmops_lab.generation.images import ImageGenerator
from lmops_lab.generation.pictures import ImageGrid
from lmops_lab.generation.store import ImageStore
from tests.tiny_pictures import tiny_pipeline


@pytest.fixture
def grid(tiny_generator):
    """Two prompts, two scheduler settings, two seeds."""
    axes = {"prompt": ["a cat", "the dog"], "guidance": [1, 4.5], "seed": [3, 9]}
    return draw_grid(tiny_generator, axes, steps=1, progress=False)


def test_every_axis(tiny_generator, tmp_path):
    other = ImageGenerator("other", tiny_pipeline(seed=5), "local-5", tiny_generator.number_format, None)
    other.pipeline.set_progress_bar_config(disable=True)
    axes = {
        "model": [tiny_generator, other],
        "prompt": ["a cat"],
        "negative_prompt": ["dog"],
        "scheduler": [None, "ddim"],
        "steps": [1, 2],
        "guidance": [2, 8],
        "seed": [4],
    }
    grid = draw_grid(None, axes, progress=False)
    assert grid.shape == (2, 1, 1, 2, 2, 2, 1)
    one = grid.picture(model="other", negative_prompt="dog", scheduler="ddim", steps=2, guidance=8).recipe
    assert (one.pipeline, one.revision, one.negative_prompt, one.scheduler) == (
        "other",
        "local-5",
        "dog",
        "DDIMScheduler",
    )
    assert (one.steps, one.guidance, one.seed) == (2, 8.0, 4)
    frame = grid.to_frame()
    assert len(frame) == 16
    assert set(frame["seed"]) == {4}
    assert grid.axis("model").points == (tiny_generator.name, "other")


def test_a_cell_is_what_generate_draws(tiny_generator, grid):
    alone = tiny_generator.generate("the dog", seeds=[9], steps=1, guidance=4.5, progress=False).pictures[0]
    assert alone.reused
    assert alone.recipe == grid.picture(prompt="the dog", guidance=4.5, seed=9).recipe


def test_grids_extend_and_turn_without_drawing_again(tiny_generator, grid, monkeypatch):
    drawn = []
    run = images.run_pipeline
    monkeypatch.setattr(images, "run_pipeline", lambda *a: drawn.extend(a[1]) or run(*a))
    axes = {"seed": [9, 3], "guidance": [1, 4.5], "prompt": ["a cat", "the dog"]}
    turned = draw_grid(tiny_generator, axes, steps=1, progress=False)
    assert not drawn
    np.testing.assert_array_equal(turned.to_array(), grid.to_array().transpose(2, 1, 0, 3, 4, 5)[::-1])
    draw_grid(tiny_generator, axes | {"guidance": [1, 4.5, 9]}, steps=1, progress=False)
    assert {one.guidance for one in drawn} == {9.0}


def test_select_keeps_the_order(grid):
    part = grid.select(guidance=4.5)
    assert [axis.name for axis in part.axes] == ["prompt", "seed"]
    assert [(p.recipe.prompt, p.recipe.seed) for p in part.pictures] == [
        ("a cat", 3),
        ("a cat", 9),
        ("the dog", 3),
        ("the dog", 9),
    ]
    assert part.seeds.tolist() == [[3, 9], [3, 9]]
    with pytest.raises(ValueError, match="axis 'seed' has no 4; it has 3, 9"):
        grid.select(seed=4)
    with pytest.raises(ValueError, match="no axis 'steps'; it has prompt, guidance, seed"):
        grid.select(steps=1)
    with pytest.raises(ValueError, match="2 pictures are at"):
        grid.picture(prompt="a cat", seed=3)


def test_the_sheet_shows_every_picture_unscaled_under_its_labels(grid):
    image = np.asarray(grid.sheet())
    for picture in grid.pictures:
        corner = np.asarray(picture.image)[:4].tobytes()
        assert any(
            image[y : y + 4, x : x + 64].tobytes() == corner
            and np.array_equal(image[y : y + 64, x : x + 64], np.asarray(picture.image))
            for y in range(image.shape[0] - 63)
            for x in range(image.shape[1] - 63)
            if image[y, x].tobytes() == corner[:3]
        )
    wide = grid.sheet(columns=["guidance", "seed"])
    assert wide.width > grid.sheet().width
    with pytest.raises(ValueError, match="no axis 'steps'"):
        grid.sheet(columns=["steps"])


def test_the_sheet_carries_all_recipes(grid):
    with Image.open(io.BytesIO(grid._repr_png_())) as opened:
        about = json.loads(opened.text[sheet.CHUNK])
    assert about["recipes"] == [picture.recipe.to_dict() for picture in grid.pictures]
    assert about["sheet"][1] == {"name": "guidance", "points": [1, 4.5]}


def _drawn_lines(monkeypatch, grid):
    drawn = []
    draw_lines = fonts.draw_lines
    monkeypatch.setattr(fonts, "draw_lines", lambda *a: drawn.append((a[1], a[2])) or draw_lines(*a))
    image = grid.sheet()
    return drawn, image


def test_labels_are_whole_and_inside_the_sheet(tiny_generator, monkeypatch):
    long = "a rabbit wearing a space suit, highly detailed, " * 6 + "verylongwordwithoutanyspace" * 6
    grid = tiny_generator.generate([long.strip(), "a cat"], seeds=[1, 123456789012], steps=1, progress=False)
    drawn, image = _drawn_lines(monkeypatch, grid)
    written = ["".join(lines).replace(" ", "") for _, lines in drawn]
    assert long.replace(" ", "") in written
    assert "seed123456789012" in written
    for (x, y), lines in drawn:
        assert x + max(fonts.text_width(line) for line in lines) <= image.width
        assert y + len(lines) * fonts.line_height() <= image.height


def test_own_seeds_are_written_below_the_pictures(tiny_generator, monkeypatch):
    grid = tiny_generator.generate(["a cat", "the dog"], seeds=[[11, 12], [21, 22]], steps=1, progress=False)
    drawn, _ = _drawn_lines(monkeypatch, grid)
    written = [line for _, lines in drawn for line in lines]
    assert {"seed 11", "seed 12", "seed 21", "seed 22"} <= set(written)


def test_characters_without_a_font_are_spelled_out(monkeypatch):
    monkeypatch.setattr(fonts, "_font_for", lambda c: None if c == "\U0001f98a" else fonts._fonts()[0])
    assert fonts.drawable("a \U0001f98a\ufe0f in\nthe grass") == "a :fox face: in the grass"


def test_wrapping_loses_nothing():
    text = "in the grass, at sunset; кот, " * 5 + "x" * 200
    lines = fonts.wrap(text, 100)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert max(map(fonts.text_width, lines)) <= 100
    canvas = Image.new("RGB", (120, len(lines) * fonts.line_height()), "white")
    fonts.draw_lines(ImageDraw.Draw(canvas), (0, 0), lines)
    rows = np.asarray(canvas).min(axis=(1, 2))
    assert (rows < 128).sum() > len(lines) * 5


def test_a_saved_grid_is_shown_again_without_a_pipeline(grid, tmp_path):
    folder = grid.save(tmp_path / "grid")
    assert {path.name for path in folder.iterdir()} == {"grid.json", "grid.csv", "sheet.png", "pictures"}
    again = ImageGrid.load(folder)
    assert again.axes == grid.axes
    assert [p.recipe for p in again.pictures] == [p.recipe for p in grid.pictures]
    np.testing.assert_array_equal(again.to_array(), grid.to_array())
    np.testing.assert_array_equal(np.asarray(again.sheet()), np.asarray(grid.sheet()))
    with pytest.raises(FileExistsError, match="exists"):
        grid.save(folder)
    with pytest.raises(FileNotFoundError, match=r"holds no grid.json"):
        ImageGrid.load(tmp_path)


def test_scores_have_the_shape_of_the_grid(grid):
    scores = grid.score(lambda pictures, prompts: [len(p) + i.width for i, p in zip(pictures, prompts, strict=True)])
    assert scores.shape == (2, 2, 2)
    assert scores[:, 0, 0].tolist() == [64 + 5, 64 + 7]
    against = grid.score(lambda _, prompts: [len(p) for p in prompts], ["x"] * 8)
    assert (against == 1).all()


@pytest.mark.parametrize(
    ("axes", "fixed", "message"),
    [
        ({}, {"prompt": "a cat"}, "none given; choose among model, prompt"),
        ({"colour": ["red"]}, {"prompt": "a cat"}, r"\['colour'\]; choose among"),
        ({"steps": []}, {"prompt": "a cat"}, r"axis 'steps' is \[\]"),
        ({"prompt": "a cat"}, {}, "axis 'prompt' is 'a cat'; give a list"),
        ({"steps": [1, 1]}, {"prompt": "a cat"}, "axis 'steps' has the point 1 twice"),
        ({"steps": [1, 0]}, {"prompt": "a cat"}, "steps is 0"),
        ({"seed": [1, -4]}, {"prompt": "a cat"}, "seed is -4"),
        ({"steps": [1]}, {"prompt": "a cat", "steps": 2}, "'steps' is an axis and fixed to 2"),
        ({"steps": [1]}, {}, "there is no prompt"),
        ({"steps": [1]}, {"prompt": "a cat", "eta": 1}, r"\['eta'\] cannot be fixed"),
        ({"model": ["emoji"]}, {"prompt": "a cat"}, "axis 'model' has the point 'emoji'"),
    ],
)
def test_what_is_no_grid_is_refused(loaded, axes, fixed, message):
    with pytest.raises(ValueError, match=message):
        draw_grid(None if "model" in axes else loaded, axes, progress=False, **fixed)


def test_a_generator_or_an_axis_of_models(loaded):
    with pytest.raises(ValueError, match="either a generator or an axis 'model'"):
        draw_grid(None, {"prompt": ["a cat"]})
    with pytest.raises(ValueError, match="either a generator or an axis 'model'"):
        draw_grid(loaded, {"prompt": ["a cat"], "model": [loaded]})


def test_pictures_of_several_sizes_make_no_array(loaded):
    left = loaded.generate("a cat", steps=1, progress=False)
    right = loaded.generate("a cat", steps=1, size=32, progress=False)
    both = ImageGrid((left.axes[0], type(left.axes[1])("size", (64, 32))), (left.pictures[0], right.pictures[0]))
    with pytest.raises(ValueError, match="several sizes"):
        both.to_array()
    assert both.sheet().height > 64
    with pytest.raises(ValueError, match="need 2, not 1"):
        ImageGrid(both.axes, both.pictures[:1])


def test_a_store_shared_by_two_generators(tiny_generator, tmp_path):
    tiny_generator.generate("a cat", steps=1, progress=False)
    again = ImageGenerator(
        "renamed",
        tiny_generator.pipeline,
        tiny_generator.revision,
        tiny_generator.number_format,
        ImageStore(tiny_generator.store.folder),
    )
    assert again.generate("a cat", steps=1, progress=False).pictures[0].reused
