"""Model cards: what each exported model is, what it was trained on, under which licence, and what it cannot do."""

from dataclasses import asdict
from typing import Any

from lmops_lab.emojiworld.loop import Progress
from lmops_lab.emojiworld.recipe import Recipe
from lmops_lab.emojiworld.settings import SETTINGS
from lmops_lab.emojiworld.subjects import SUBJECTS

LICENCE = "apache-2.0"
_SOURCE = """\
## Training data and licence

Scenes drawn by `lmops_lab.emojiworld` from Google's Noto Color Emoji: its images are under the Apache License 2.0, the
font that holds them is under the SIL Open Font License 1.1 (Debian package `fonts-noto-color-emoji`). The font itself
is not in this folder. Captions are generated. No photographs, no web data, no pretrained weights. The weights are
published under the Apache License 2.0.

## Limits

It knows {subjects} subjects in {settings} settings at 64 x 64 pixels, and the words of its captions. It shows how
methods behave offline, in the formats of the real models; it is not a measure of what those models can do.
"""
_CARDS = {
    "pipeline/README.md": (
        "Emoji world: a tiny Stable-Diffusion-format pipeline",
        ("autoencoder", "diffusion"),
        """\
```python
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("{folder}")
pipeline("a rabbit in space, masterpiece, sharp focus", num_inference_steps=20, guidance_scale=4).images[0]
```

AutoencoderKL (64 x 64 x 3 to 16 x 16 x {latents}), UNet2DConditionModel {unet}, CLIPTextModel and CLIPTokenizer (77
tokens), velocity prediction. Words of praise sharpen, words of blame blur: `lmops_lab.emojiworld.captions` lists them
with their true strengths. There is no safety checker: it can only draw emoji.
""",
    ),
    "clip/README.md": (
        "Emoji world: a tiny CLIPModel",
        ("contrastive", "aesthetic"),
        """\
```python
from transformers import CLIPModel, CLIPProcessor

model = CLIPModel.from_pretrained("{folder}")
```

Contrastive image and text encoders for 64 x 64 pictures, features of width {width}. `aesthetic.safetensors`
beside this folder is a head on its L2-normalised image features, in the layout of LAION's improved aesthetic predictor
(`layers.0.weight`, ...), fitted on simulated ratings (1-10) of the scenes' latent quality; the image encoder was
trained on them as well. `relevant_cosine` in `config.json` is the cosine from which a picture counts as relevant.
""",
    ),
    "recogniser/README.md": (
        "Emoji world: the judge",
        ("recogniser",),
        """\
Names subject and setting of a picture (`lmops_lab.emojiworld.recogniser`). For evaluation only: nothing is trained or
rewarded with it.
""",
    ),
}
_OVERVIEW = """\
# The emoji world's models

`pipeline` (text to image), `clip` (relevance), `aesthetic.safetensors` (a head on `clip`), `recogniser` (evaluation
only). Made by `lmops-lab train-emoji-world`; recipe, steps, seconds and versions are in `training.json`.
"""


def all_cards(recipe: Recipe, status: dict[str, Progress], evaluation: dict[str, float]) -> dict[str, str]:
    """Relative path -> text of every card, the overview included."""
    source = _SOURCE.format(subjects=len(SUBJECTS), settings=len(SETTINGS))
    values = {"latents": recipe.latent_channels, "unet": recipe.unet_channels, "width": recipe.width}
    texts = {}
    for path, (title, stages, body) in _CARDS.items():
        training = "".join(_stage_line(stage, status[stage]) for stage in stages)
        folder = f"lmops_lab/weights/pictures/{path.partition('/')[0]}"
        texts[path] = (
            f"---\nlicense: {LICENCE}\n---\n# {title}\n\n{body.format(**values, folder=folder)}\n"
            f"## Training\n\n{training}\n{source}"
        )
    figures = [f"- {name.replace('_', ' ')}: {value:.3f}" for name, value in evaluation.items()]
    measured = "\n".join(figures or ["- not measured"])
    training = "".join(_stage_line(*item) for item in status.items())
    texts["README.md"] = f"{_OVERVIEW}\n## Training\n\n{training}\n## On held-out scenes\n\n{measured}\n\n{source}"
    return texts


def recipe_as_data(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data for JSON."""
    return asdict(recipe)


def last_loss(done: Progress, window: int = 100) -> float | None:
    """Mean loss of the last steps."""
    last = done.losses[-window:]
    return round(sum(last) / len(last), 5) if last else None


def _stage_line(stage: str, done: Progress) -> str:
    early = "" if done.finished else " (stopped early)"
    return f"- {stage}: {done.step} of {done.steps} steps{early}, {done.seconds / 3600:.2f} h, loss {last_loss(done)}\n"
