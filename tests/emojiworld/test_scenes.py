"""Pictures: the same for the same seed, and as good as their latent quality."""

import numpy as np
import pytest
from PIL import Image
from skimage.filters import laplace

from lmops_lab.emojiworld import subjects
from lmops_lab.emojiworld.scenes import draw_scene, render
from lmops_lab.emojiworld.settings import SETTINGS, paint
from lmops_lab.emojiworld.subjects import SUBJECTS, find_font, glyph


def test_a_scene_depends_on_its_seed_and_number_alone():
    first, other = draw_scene(3, 7), draw_scene(3, 8)
    draw_scene(0, 0)
    again = draw_scene(3, 7, wordings=4)
    assert np.array_equal(first.image, again.image)
    assert first.content.captions[0] == again.content.captions[0]
    assert first.content.quality == again.content.quality
    assert not np.array_equal(first.image, other.image)
    assert first.image.shape == (64, 64, 3)


def test_every_subject_has_its_own_picture():
    pictures = {name: np.asarray(glyph(name).resize((24, 24))).astype(float) for name in SUBJECTS}
    names = list(pictures)
    for i, left in enumerate(names):
        for right in names[i + 1 :]:
            assert np.abs(pictures[left] - pictures[right]).mean() > 8, (left, right)


def test_every_setting_is_told_from_every_other_by_its_colours_alone():
    means = {name: paint(name, np.random.default_rng(0)).reshape(4, 16, 64, 3).mean((1, 2)) for name in SETTINGS}
    names = list(means)
    distances = [np.abs(means[a] - means[b]).mean() for i, a in enumerate(names) for b in names[i + 1 :]]
    assert min(distances) > 10


def colourfulness(image):
    return np.asarray(Image.fromarray(image).convert("HSV"))[..., 1].mean()


def test_quality_drives_focus_contrast_colour_and_size():
    sharpness, contrast, colour = [], [], []
    for quality in (0.05, 0.45, 0.95):
        images = [
            render("penguin", s, quality, np.random.default_rng(i)) for i, s in enumerate(("blue", "beach", "grass"))
        ]
        sharpness.append(np.mean([np.abs(laplace(i.mean(-1) / 255)).max() for i in images]))
        contrast.append(np.mean([i.std() for i in images]))
        colour.append(np.mean([colourfulness(i) for i in images]))
    for values in (sharpness, contrast, colour):
        assert values == sorted(values)
        assert values[2] > 1.3 * values[0]


def test_bad_pictures_are_grainy_and_good_ones_are_not():
    def grain(quality):
        image = render("star", "blue", quality, np.random.default_rng(1)).astype(float)
        return image[:8, :8, 2].std()

    assert grain(0.95) < 2
    assert grain(0.05) > 4


@pytest.mark.parametrize("quality", [-0.1, 1.5, float("nan")])
def test_a_quality_outside_its_range_is_refused(quality):
    with pytest.raises(ValueError, match=str(quality)):
        render("cat", "space", quality, np.random.default_rng(0))


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no subject 'kraken'.*rabbit"):
        glyph("kraken")
    with pytest.raises(ValueError, match="no setting 'mars'.*space"):
        paint("mars", np.random.default_rng(0))
    with pytest.raises(ValueError, match="-1"):
        draw_scene(-1, 0)


def test_a_missing_font_is_told_with_the_way_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    find_font.cache_clear()
    with pytest.raises(FileNotFoundError, match="fc-match.*apt install fonts-noto-color-emoji"):
        find_font()
    script = tmp_path / "fc-match"
    script.write_text("#!/bin/sh\necho 'DejaVu Sans'\necho /fonts/dejavu.ttf\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(FileNotFoundError, match="DejaVu Sans.*apt install"):
        find_font()
    monkeypatch.undo()
    find_font.cache_clear()
    assert subjects.FONT_NAME.replace(" ", "") in find_font().name
