"""A generator and image rewards that cost nothing and that tests can compute by hand."""

from types import SimpleNamespace

import numpy as np
from PIL import Image


class PaintGenerator:
    """Pictures of one colour: red counts the prompt's words, green is the seed. It counts what it draws."""

    def __init__(self):
        self.drawn = []

    def generate(self, prompts, seeds=1, *, progress=True, **settings):  # noqa: ARG002
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
        assert all(prompt.strip() for prompt in prompts)
        self.drawn += prompts
        colours = [(10 * len(prompt.split()), seed, int("rabbit" in prompt)) for prompt in prompts for seed in seeds]
        return SimpleNamespace(images=[Image.new("RGB", (4, 4), colour) for colour in colours])


def red(images, prompts):
    """Aesthetics: tenths of the number of words, plus hundredths of the seed."""
    return [pixel[0] / 10 + pixel[1] / 100 for pixel in (image.getpixel((0, 0)) for image in images)]


def rabbit_relevance(images, prompts):
    """Relevance: .3 where picture and text agree about the rabbit, .18 elsewhere."""
    seen = np.array([image.getpixel((0, 0))[2] for image in images])
    asked = np.array(["rabbit" in prompt for prompt in prompts])
    return np.where(seen == asked, 0.3, 0.18)
