"""The held-out score moves as its names say."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from lmops_lab.rewards.classical import Classical, colourfulness, contrast, sharpness
from lmops_lab.rewards.interface import score_images


@pytest.fixture(scope="module")
def scene():
    """Coloured discs and stripes on grey, 64 x 64."""
    y, x = np.mgrid[:64, :64]
    pixels = np.full((64, 64, 3), 110, np.uint8)
    pixels[(x - 20) ** 2 + (y - 24) ** 2 < 150] = (220, 40, 30)
    pixels[(x - 46) ** 2 + (y - 44) ** 2 < 120] = (30, 80, 210)
    pixels[56:, x[0] % 8 < 4] = (240, 230, 60)
    return Image.fromarray(pixels)


def _pixels(image):
    return np.asarray(image)


def test_blur_lowers_sharpness_step_by_step(scene):
    values = [sharpness(_pixels(scene.filter(ImageFilter.GaussianBlur(radius)))) for radius in (0, 1, 2, 4)]
    assert values == sorted(values, reverse=True)
    assert values[0] - values[-1] > 0.2
    assert sharpness(np.full((32, 32, 3), 99, np.uint8)) == 0


def test_grain_does_not_pass_for_sharpness(scene):
    grain = np.random.default_rng(0).normal(0, 25, (64, 64, 3))
    blurred = _pixels(scene.filter(ImageFilter.GaussianBlur(2))).astype(float)
    noisy = np.clip(blurred + grain, 0, 255).astype(np.uint8)
    assert sharpness(noisy) < sharpness(_pixels(scene))


def test_contrast_is_the_luminances_deviation(scene):
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = 255
    assert contrast(stripes) == pytest.approx(0.5)
    assert contrast(np.full((32, 32, 3), 7, np.uint8)) == pytest.approx(0, abs=1e-9)
    flat = Image.blend(Image.new("RGB", scene.size, (110, 110, 110)), scene, 0.4)
    assert contrast(_pixels(flat)) == pytest.approx(0.4 * contrast(_pixels(scene)), rel=0.05)


def test_colourfulness_follows_hasler_and_suesstrunk(scene):
    halves = np.zeros((32, 32, 3), np.uint8)
    halves[:16, :, 0] = 255  # red over green
    halves[16:, :, 1] = 255
    # rg = +-255: deviation 255, mean 0; yb = 127.5 everywhere: deviation 0
    assert colourfulness(halves) == pytest.approx(255 + 0.3 * 127.5)
    grey = scene.convert("L").convert("RGB")
    assert colourfulness(_pixels(grey)) == pytest.approx(0, abs=1e-9)
    assert colourfulness(_pixels(scene)) > 40


def test_the_score_falls_with_every_defect(scene):
    worse = [
        scene.filter(ImageFilter.GaussianBlur(3)),
        Image.blend(Image.new("RGB", scene.size, (110, 110, 110)), scene, 0.4),
        scene.convert("L").convert("RGB"),
    ]
    scores = score_images(Classical(), [scene, *worse], [""] * 4)
    assert (scores[1:] < scores[0] - 0.03).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    parts = Classical().parts([scene])
    assert list(parts.columns) == ["sharpness", "contrast", "colourfulness"]


def test_pictures_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match=r"picture 1 has \(8, 64\) pixels; 16 are needed"):
        Classical()([Image.new("RGB", (64, 64)), Image.new("RGB", (8, 64))])
