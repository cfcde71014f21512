"""Pictures and hostile texts that several widget tests share."""

import numpy as np
from PIL import Image

HOSTILE = (
    "<script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    "word " * 1000,
    "ארנב בחלל \u202e rabbit",
    '" onmouseover="alert(1)',
    "broken \ud800 surrogate and \x00 null",
)


def landscape(seed: int, size: int = 96, hue: int = 0) -> Image.Image:
    """A small seeded landscape: sky, sun and hills; `hue` shifts the colours."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    sky = np.stack([0.3 + 0.6 * y, 0.45 + 0.3 * y, 0.9 - 0.4 * y], -1)
    sun = (x - rng.uniform(0.2, 0.8)) ** 2 + (y - rng.uniform(0.15, 0.4)) ** 2 < rng.uniform(0.05, 0.12) ** 2
    sky[sun] = [1.0, 0.85, 0.4]
    for depth in range(3):
        line = 0.55 + 0.15 * depth + 0.08 * np.sin(x * rng.uniform(4, 12) + rng.uniform(0, 6))
        sky[y > line] = np.array([0.15, 0.5, 0.3]) * (1.1 - 0.3 * depth)
    return Image.fromarray((np.roll(np.clip(sky, 0, 1), hue, -1) * 255).astype(np.uint8))


def grid(prompts: int, seeds: int, size: int = 96) -> list[list[Image.Image]]:
    """Pictures [prompts, seeds]: the same landscape in every row, in other colours."""
    return [[landscape(seed, size, hue=row) for seed in range(seeds)] for row in range(prompts)]
