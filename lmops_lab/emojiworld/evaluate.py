"""How well the trained models know their world: figures on held-out scenes, prompts with a known truth, curves."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lmops_lab.emojiworld import autoencoder, contrastive, dataset
from lmops_lab.emojiworld.captions import DAMNATION, PRAISE, write_caption
from lmops_lab.emojiworld.loop import read_curve
from lmops_lab.emojiworld.recipe import STAGES
from lmops_lab.emojiworld.recogniser import Reading, recognise
from lmops_lab.emojiworld.settings import SETTINGS
from lmops_lab.emojiworld.subjects import SUBJECTS
from lmops_lab.emojiworld.tokens import encode
from lmops_lab.emojiworld.train import Workshop
from lmops_lab.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRUE_CAPTIONS = 20


def measure(workshop: Workshop) -> dict[str, float]:
    """Figures of every trained stage on held-out scenes.

    Returns:
        `recogniser_subject`, `recogniser_setting` (share right); `autoencoder_psnr` (dB, scenes of good quality);
        `clip_top1_of_20` (share of scenes whose own caption is ranked first); `relevant_cosine` (which nine in ten
        scenes reach with a plain text for them); `aesthetic_correlation` (Pearson, scores against latent quality), and
        `aesthetic_plain`, `aesthetic_praised` (mean scores by kind of caption).
    """
    scenes = dataset.held_out_scenes(workshop.folder / "scenes", workshop.recipe, progress=workshop.progress)
    started = {stage for stage, done in workshop.status().items() if done.step}
    figures: dict[str, float] = {}
    if "recogniser" in started:
        figures |= _recogniser_figures(workshop, scenes)
    if "autoencoder" in started:
        good = scenes.images[scenes.qualities > 0.7][:200]
        figures["autoencoder_psnr"] = psnr(good, autoencoder.restore(workshop.autoencoder(), good))
    if "contrastive" in started:
        clip, head = workshop.judges() if "aesthetic" in started else (workshop.clip(), None)
        images = contrastive.image_features(clip, scenes.images)
        words = encode(workshop.tokenizer, [wordings[0] for wordings in scenes.captions])
        among = min(TRUE_CAPTIONS, len(scenes))
        figures["clip_top1_of_20"] = contrastive.ranking_accuracy(images, contrastive.text_features(clip, words), among)
        kinds = np.array(scenes.kinds)
        shown = torch.from_numpy(kinds != "dragged")
        plain = encode(workshop.tokenizer, [wordings[0] for wordings in contrastive.bare_captions(scenes)])
        cosine = contrastive.relevant_cosine(images[shown], contrastive.text_features(clip, plain)[shown])
        figures[contrastive.RELEVANT_COSINE] = cosine
        if head is not None:
            with torch.no_grad():
                scores = head(images).numpy()
            figures["aesthetic_correlation"] = float(np.corrcoef(scores, scenes.qualities)[0, 1])
            for kind in ("plain", "praised"):
                if (kinds == kind).any():
                    figures[f"aesthetic_{kind}"] = float(scores[kinds == kind].mean())
    return figures


def _recogniser_figures(workshop: Workshop, scenes: dataset.Scenes) -> dict[str, float]:
    readings = recognise(workshop.recogniser(), scenes.images)
    names, places = list(SUBJECTS), list(SETTINGS)
    truth = [(names[s], places[t]) for s, t in zip(scenes.subjects, scenes.settings, strict=True)]
    subject, setting = accuracy(readings, truth)
    return {"recogniser_subject": subject, "recogniser_setting": setting}


def accuracy(readings: Sequence[Reading], truth: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """Shares of pictures whose subject and whose setting are read right.

    Raises:
        ValueError: none, or not as many readings as truths.
    """
    if len(readings) != len(truth) or not truth:
        raise ValueError(f"{len(readings)} readings do not go with {len(truth)} true contents")
    subjects = [reading.subject == subject for reading, (subject, _) in zip(readings, truth, strict=True)]
    settings = [reading.setting == setting for reading, (_, setting) in zip(readings, truth, strict=True)]
    return sum(subjects) / len(truth), sum(settings) / len(truth)


def psnr(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of two stacks of pictures, in dB."""
    error = float(((left.astype(np.float64) - right) ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def draw_prompts(
    count: int, seed: int, *, praise: int = 0, damnation: int = 0
) -> tuple[list[str], list[tuple[str, str]]]:
    """Prompts that name a subject and a setting, and what they name; all subjects come equally often.

    The contents depend on the seed alone: plain and praised prompts of the same seed are pairs.

    Args:
        praise, damnation: how many words of each kind are added.

    Raises:
        ValueError: more words than there are.
    """
    for asked, known in ((praise, PRAISE), (damnation, DAMNATION)):
        if not 0 <= asked <= len(known):
            raise ValueError(f"{asked} words are not between 0 and the {len(known)} that there are")
    contents, additions = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    names: list[str] = []
    while len(names) < count:
        names += [str(name) for name in contents.permutation(list(SUBJECTS))]
    truth = [(name, str(contents.choice(list(SETTINGS)))) for name in names[:count]]
    prompts = []
    for row, (subject, setting) in enumerate(truth):
        words = [str(w) for w in additions.choice(list(PRAISE), praise, replace=False)]
        words += [str(w) for w in additions.choice(list(DAMNATION), damnation, replace=False)]
        prompts.append(write_caption(subject, setting, tuple(words), np.random.default_rng([seed, 2, row])))
    return prompts, truth


def sheet(images: NDArray[np.uint8], columns: int, zoom: int = 2) -> Image.Image:
    """Pictures side by side, row after row, enlarged without smoothing."""
    rows = -(-len(images) // columns)
    height, width = images.shape[1:3]
    canvas = np.full((rows * columns, height, width, 3), 255, np.uint8)
    canvas[: len(images)] = images
    joined = canvas.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
    picture = Image.fromarray(np.ascontiguousarray(joined))
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def curves(workshop: Workshop) -> "Figure":
    """Loss curves of all stages that have begun."""
    from matplotlib.figure import Figure

    started = [stage for stage in STAGES if workshop.checkpoint(stage).is_file()]
    figure = Figure(figsize=(3 * max(1, len(started)), 2.6), layout="constrained")
    for axes, stage in zip(figure.subplots(1, max(1, len(started)), squeeze=False)[0], started, strict=False):
        frame = read_curve(workshop.checkpoint(stage))
        axes.plot(frame["step"], frame["loss"])
        axes.set(title=stage, xlabel="step", yscale="log")
    return figure


def save_curves(workshop: Workshop, path: Path) -> None:
    """Write `curves` as an image file; the ending says which kind."""
    with atomic_file(path) as temporary:
        curves(workshop).savefig(temporary)
