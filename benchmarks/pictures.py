"""What the offline picture world can do: does it draw what a prompt names, do words of praise help, how fast is it.

    python benchmarks/pictures.py --quick
    python benchmarks/pictures.py --sheet docs/emoji-sheet.png

Figures about true scenes need Debian's fonts-noto-color-emoji; without it they are null.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lmops_lab.emojiworld import contrastive, dataset
from lmops_lab.emojiworld.evaluate import TRUE_CAPTIONS, accuracy, draw_prompts, sheet
from lmops_lab.emojiworld.recipe import FULL
from lmops_lab.emojiworld.recogniser import load_recogniser, recognise
from lmops_lab.emojiworld.settings import SETTINGS
from lmops_lab.emojiworld.subjects import SUBJECTS
from lmops_lab.generation.images import ImageGenerator
from lmops_lab.generation.store import ImageStore
from lmops_lab.rewards.aesthetic import Aesthetic
from lmops_lab.rewards.clip import ClipEncoder
from lmops_lab.rewards.relevance import Relevance
from lmops_lab.rewriting.evaluation import paired_bootstrap

PRAISE = 3
PROMPTS_SEED = 2026  # of prompts and pictures; training used seed 0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="40 prompts instead of 200, 200 true scenes of 1,000")
    options.add_argument("--weights", type=Path, default=Path("lmops_lab/weights/pictures"), help="folder of an export")
    options.add_argument("--prompts", type=int)
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--guidance", type=float, help="default what the pipeline recommends")
    options.add_argument("--sheet", type=Path, help="write a sheet of 8 x 8 pictures, plain above, praised below")
    options.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    chosen = options.parse_args()
    world = World(chosen)
    figures: dict[str, Any] = {}
    for part in chosen.only:
        start = time.perf_counter()
        found = PARTS[part](world)
        figures |= found
        print(f"\n{part} ({time.perf_counter() - start:.0f} s)")
        for name, value in found.items():
            print(f"  {name:26} {value}")
    print()
    print(json.dumps(figures))


class World:
    """The shipped models, and how much is asked of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.prompts = options.prompts or (40 if options.quick else 200)
        folder = options.weights
        self.clip = ClipEncoder.load(str(folder / "clip"))
        self.relevance = Relevance(self.clip)
        self.aesthetic = Aesthetic.load(self.clip, folder / "aesthetic.safetensors")
        self.recogniser = load_recogniser(folder / "recogniser")
        self.drawn: dict[str, Any] = {}

    def generator(self, store: ImageStore | None = None) -> ImageGenerator:
        """The shipped pipeline; without a store nothing is found instead of drawn."""
        return ImageGenerator.load(str(self.options.weights / "pipeline"), store=store)


def truth(world: World) -> dict[str, Any]:
    """Held-out scenes, whose content and quality are known."""
    names = ("recogniser_subject", "recogniser_setting", "clip_top1_of_20", "aesthetic_correlation")
    with tempfile.TemporaryDirectory() as folder:
        try:
            scenes = dataset.held_out_scenes(Path(folder), FULL)
        except (FileNotFoundError, RuntimeError) as missing:  # the font
            print(missing)
            return dict.fromkeys(names)
    count = 200 if world.options.quick else len(scenes)
    images = [Image.fromarray(image) for image in scenes.images[:count]]
    subjects, settings = list(SUBJECTS), list(SETTINGS)
    content = [
        (subjects[s], settings[t]) for s, t in zip(scenes.subjects[:count], scenes.settings[:count], strict=True)
    ]
    right = accuracy(recognise(world.recogniser, images), content)
    shown = world.clip.image_features(images)
    texts = world.clip.text_features([wordings[0] for wordings in scenes.captions[:count]])
    with torch.no_grad():
        ratings = world.aesthetic.head(shown).numpy()
    return {
        "recogniser_subject": round(right[0], 4),
        "recogniser_setting": round(right[1], 4),
        "clip_top1_of_20": round(contrastive.ranking_accuracy(shown, texts, TRUE_CAPTIONS), 4),
        "aesthetic_correlation": round(float(np.corrcoef(ratings, scenes.qualities[:count])[0, 1]), 4),
    }


def drawing(world: World) -> dict[str, Any]:
    """Praised and plain prompts of the same content on the same seeds, judged by the recogniser and the rewards."""
    generator, options = world.generator(), world.options
    found: dict[str, Any] = {"prompts": world.prompts}
    scores = {}
    plain, content = draw_prompts(world.prompts, PROMPTS_SEED)
    for kind, praise in (("praised", PRAISE), ("plain", 0)):
        prompts, _ = draw_prompts(world.prompts, PROMPTS_SEED, praise=praise)
        seeds = [[PROMPTS_SEED + row] for row in range(len(prompts))]
        images = generator.generate(prompts, seeds, options.steps, options.guidance).images
        readings = recognise(world.recogniser, images)
        subject, setting = accuracy(readings, content)
        wrong = [f"{name} as {r.subject}" for r, (name, _) in zip(readings, content, strict=True) if r.subject != name]
        print(f"{kind}: subjects read as others: {', '.join(wrong[:30]) or 'none'}")
        prefix = "" if kind == "praised" else "plain_"
        found |= {f"{prefix}subject_accuracy": round(subject, 4), f"{prefix}setting_accuracy": round(setting, 4)}
        # Relevance to what was asked for, not to the words of praise.
        scores[kind] = world.aesthetic(images, prompts), world.relevance.cosines(images, plain)
        world.drawn[kind] = prompts, images
    gain, gap = (paired_bootstrap(scores["praised"][which] - scores["plain"][which]) for which in (0, 1))
    return found | {
        "aesthetic_praised": round(float(scores["praised"][0].mean()), 3),
        "aesthetic_plain": round(float(scores["plain"][0].mean()), 3),
        "aesthetic_gain": round(gain.mean, 3),
        "aesthetic_gain_ci": [round(gain.low, 3), round(gain.high, 3)],
        "relevance_gap": round(gap.mean, 4),
        "relevance_gap_ci": [round(gap.low, 4), round(gap.high, 4)],
    }


def speed(world: World) -> dict[str, Any]:
    """Seconds a picture, sixteen together and one by one, and how far one picture depends on its batch."""
    generator, options = world.generator(), world.options
    prompts, _ = draw_prompts(16, PROMPTS_SEED + 1, praise=2)
    fixed = {"steps": options.steps, "guidance": options.guidance, "progress": False}
    generator.generate(prompts[:1], 1, **fixed)
    together, grid = timed(lambda: generator.generate(prompts, 1, **fixed, batch_size=16))
    singly, single = timed(lambda: generator.generate(prompts[: 4 if options.quick else 16], 1, **fixed, batch_size=1))
    rows = len(single.images)
    apart = np.abs(grid.to_array()[:rows].astype(int) - single.to_array().astype(int)).max()
    each = singly / rows
    return {
        "seconds_per_image": round(together / 16, 4),
        "seconds_one_by_one": round(each, 4),
        "images_per_second": round(16 / together, 2),
        "batch_x": round(each * 16 / together, 2),
        "largest_pixel_difference": int(apart),
        "threads": torch.get_num_threads(),
    }


def store(world: World) -> dict[str, Any]:
    """A grid of 10 prompts x 8 seeds: drawn, asked for again, and with one of its files deleted."""
    with tempfile.TemporaryDirectory() as folder:
        generator = world.generator(ImageStore(Path(folder)))
        prompts, _ = draw_prompts(10, PROMPTS_SEED + 2, praise=2)
        ask = lambda: generator.generate(prompts, 8, world.options.steps, world.options.guidance)  # noqa: E731
        first, grid = timed(ask)
        again, repeated = timed(ask)
        files = sorted(Path(folder).rglob("*.png"))
        before = {file: file.stat().st_ino for file in files}  # times say when a picture was last asked for
        files[7].unlink()
        third, mended = timed(ask)
        changed = sum(before[file] != file.stat().st_ino for file in files)
        same = all(np.array_equal(grid.to_array(), one.to_array()) for one in (repeated, mended))
    return {
        "grid_10x8_s": round(first, 2),
        "repeated_grid_s": round(again, 3),
        "one_deleted_s": round(third, 3),
        "files_drawn_again": changed,
        "grids_identical": bool(same),
    }


def size(world: World) -> dict[str, Any]:
    """Megabytes of all weights together."""
    weights = world.options.weights.rglob("*.safetensors")
    return {"weights_mb": round(sum(file.stat().st_size for file in weights) / 1e6, 2)}


def timed(run: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def write_sheet(world: World) -> dict[str, Any]:
    """Eight rows of eight: plain prompts in the upper row of each pair, the same content praised below it."""
    if world.options.sheet is None:
        return {}
    generator = world.generator()
    contents = [f"a {subject} {SETTINGS[setting].phrases[0]}" for subject, setting in SHEET]
    praised = [f"{text}, highly detailed, sharp focus, vivid colors" for text in contents]
    seeds = [[row] for row in range(len(contents))]
    fixed = (world.options.steps, world.options.guidance)
    rows: list[Image.Image] = []
    above, below = (generator.generate(prompts, seeds, *fixed).images for prompts in (contents, praised))
    for start in range(0, len(contents), 8):
        rows += above[start : start + 8] + below[start : start + 8]
    sheet(np.stack([np.asarray(image) for image in rows]), 8).save(world.options.sheet)
    return {"sheet": str(world.options.sheet)}


def spread(first: Sequence[str], second: Sequence[str], count: int) -> list[tuple[str, str]]:
    """Every second of the first names, beside the second ones in turn."""
    return [(first[(2 * i + i // 30) % len(first)], second[i % len(second)]) for i in range(count)]


SHEET = spread(list(SUBJECTS), list(SETTINGS), 32)
PARTS = {"size": size, "truth": truth, "drawing": drawing, "speed": speed, "store": store, "sheet": write_sheet}

if __name__ == "__main__":
    main()
