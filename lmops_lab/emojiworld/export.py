"""Trained models as folders that the stock classes of diffusers and transformers load without this package."""

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import nn

from lmops_lab.emojiworld import cards
from lmops_lab.emojiworld.contrastive import RELEVANT_COSINE, image_processor
from lmops_lab.emojiworld.diffusion import build_scheduler
from lmops_lab.emojiworld.loop import Progress
from lmops_lab.emojiworld.recipe import STAGES
from lmops_lab.emojiworld.recogniser import CONFIG, WEIGHTS, Recogniser
from lmops_lab.emojiworld.train import UnfinishedError, Workshop
from lmops_lab.generation.sources import RECOMMENDED
from lmops_lab.rewards.embedded import FOLDER as PICTURES

PIPELINE, CLIP, HEAD, RECOGNISER, TRAINING = "pipeline", "clip", "aesthetic.safetensors", "recogniser", "training.json"
LARGEST_MB = 30.0
DRAWING = {"steps": 20, "guidance": 4.0}  # what `ImageGenerator` takes unless it is told otherwise


def build_pipeline(workshop: Workshop) -> StableDiffusionPipeline:
    """The trained parts as a stock pipeline in memory, in float32."""
    parts = workshop.text_to_latents()
    return StableDiffusionPipeline(
        vae=workshop.autoencoder(),
        text_encoder=parts.text,
        tokenizer=workshop.tokenizer,
        unet=parts.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export(workshop: Workshop, target: Path = PICTURES, *, evaluation: dict[str, float] | None = None) -> float:
    """Write pipeline, CLIP, aesthetic head and recogniser in 16-bit safetensors, with cards; return their megabytes.

    What stood at `target` is replaced when everything is written. Stages may have been stopped early: the cards say at
    which step.

    Args:
        evaluation: figures measured on held-out scenes, for the cards; the cosine from which a picture counts as
            relevant is written into CLIP's configuration, where the reward finds it.

    Raises:
        UnfinishedError: a stage has not been trained at all.
        ValueError: the weights are larger than 30 MB together, or `target` holds something else than an export.
    """
    status = check_exportable(workshop, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as name:
        new = Path(name) / "new"
        _write(workshop, new, status, evaluation or {})
        size = sum(file.stat().st_size for file in new.rglob("*.safetensors")) / 1e6
        if size > LARGEST_MB:
            raise ValueError(
                f"the weights take {size:.1f} MB, more than the {LARGEST_MB:.0f} MB that a package can carry"
            )
        for path in (new, *new.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        if target.exists():
            target.rename(Path(name) / "old")
        new.rename(target)
    return size


def check_exportable(workshop: Workshop, target: Path) -> dict[str, Progress]:
    """How far each stage has come, if all have begun and `target` may be written.

    Raises:
        UnfinishedError, ValueError: see `export`.
    """
    status = workshop.status()
    missing = [stage for stage in STAGES if status[stage].step == 0]
    if missing:
        raise UnfinishedError(f"nothing to export: stage {missing[0]} has not been trained; train it first")
    if target.exists() and any(target.iterdir()) and not (target / TRAINING).is_file():
        raise ValueError(f"the folder {target} is not an export of this world and would be lost; choose another")
    return status


def _write(workshop: Workshop, folder: Path, status: dict[str, Progress], evaluation: dict[str, float]) -> None:
    pipeline, (clip, head) = build_pipeline(workshop), workshop.judges()
    for part in (pipeline.vae, pipeline.unet, pipeline.text_encoder):
        nn.Module.half(part)
    pipeline.save_pretrained(folder / PIPELINE)
    (folder / PIPELINE / RECOMMENDED).write_text(json.dumps(DRAWING, indent=1) + "\n", encoding="utf-8")
    _loads_as_float32(folder / PIPELINE / "text_encoder")
    if RELEVANT_COSINE in evaluation:
        setattr(clip.config, RELEVANT_COSINE, round(evaluation[RELEVANT_COSINE], 2))
    clip.half().save_pretrained(folder / CLIP)
    _loads_as_float32(folder / CLIP)
    _write_image_processor(folder / CLIP)
    workshop.tokenizer.save_pretrained(folder / CLIP)
    for tokenizer in (folder / PIPELINE / "tokenizer", folder / CLIP):
        _write_vocabulary(workshop, tokenizer)
    save_file(_halves(head), folder / HEAD, metadata={"format": "pt", "features": "L2-normalised"})
    _write_recogniser(workshop.recogniser(), folder / RECOGNISER)
    training = {
        "recipe": cards.recipe_as_data(workshop.recipe),
        "stages": {
            stage: {
                "step": done.step,
                "steps": done.steps,
                "seconds": round(done.seconds),
                "loss": cards.last_loss(done),
            }
            for stage, done in status.items()
        },
        "held_out": evaluation,
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
    }
    (folder / TRAINING).write_text(json.dumps(training, indent=1) + "\n", encoding="utf-8")
    for path, text in cards.all_cards(workshop.recipe, status, evaluation).items():
        (folder / path).write_text(text, encoding="utf-8")


def _write_recogniser(model: Recogniser, folder: Path) -> None:
    folder.mkdir()
    save_file(_halves(model), folder / WEIGHTS, metadata={"format": "pt"})
    config = {"width": model.width, "subjects": model.subjects, "settings": model.settings}
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _write_image_processor(folder: Path) -> None:
    """Under the name that every version of transformers knows, not that of the Pillow variant which wrote it."""
    image_processor().save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["image_processor_type"] = "CLIPImageProcessor"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _halves(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.half().contiguous() for name, weight in model.state_dict().items()}


def _write_vocabulary(workshop: Workshop, folder: Path) -> None:
    """The two files of older CLIP tokenizers, which programs other than transformers 5 look for."""
    content: dict[str, Any] = json.loads(workshop.tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(content["vocab"], ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in content["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _loads_as_float32(folder: Path) -> None:
    """Let transformers widen the stored 16-bit weights: a processor computes halves slowly and inexactly."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, config.get("text_config"), config.get("vision_config")):
        if part is not None:
            part.pop("torch_dtype", None)
            part["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
