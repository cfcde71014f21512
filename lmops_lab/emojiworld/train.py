"""From nothing to trained models: which stage needs what, and how far each has come."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import nn
from transformers import CLIPModel, CLIPTokenizer

from lmops_lab.emojiworld import aesthetic, autoencoder, contrastive, dataset, diffusion, recogniser
from lmops_lab.emojiworld.loop import LossFunction, Progress, load_average, read_progress, train_stage
from lmops_lab.emojiworld.recipe import STAGES, Length, Recipe
from lmops_lab.emojiworld.tokens import encode, train_tokenizer
from lmops_lab.files import atomic_file, atomic_folder, file_hash

# Stage -> the stages whose trained models it reads.
NEEDS: dict[str, tuple[str, ...]] = {
    "recogniser": (),
    "autoencoder": (),
    "contrastive": (),
    "aesthetic": ("contrastive",),
    "diffusion": ("autoencoder", "contrastive"),
}


class UnfinishedError(RuntimeError):
    """A stage was asked for whose foundations are not trained yet."""


@dataclass(frozen=True)
class Workshop:
    """A training folder: scenes, tokenizer, latents and one checkpoint a stage.

    Attributes:
        folder: where everything is kept; the same folder continues.
        recipe: what is trained.
        progress: whether bars are shown.
    """

    folder: Path
    recipe: Recipe
    progress: bool = True

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        """Learned once, then read: its ids are in all later weights."""
        path = self.folder / f"tokenizer-{self.recipe.seed}-{self.recipe.vocabulary}"
        if not path.is_dir():
            with atomic_folder(path) as temporary:
                train_tokenizer(self.recipe.vocabulary, self.recipe.seed).save_pretrained(temporary)
        return CLIPTokenizer.from_pretrained(path)

    @cached_property
    def scenes(self) -> dataset.Scenes:
        """The training scenes, drawn when first needed."""
        return dataset.training_scenes(self.folder / "scenes", self.recipe, progress=self.progress)

    @cached_property
    def tokens(self) -> NDArray[np.uint16]:
        """Token ids of all wordings of all training captions: [scenes, wordings, 77]."""
        return self._encoded(self.scenes.captions)

    def _encoded(self, captions: Sequence[Sequence[str]]) -> NDArray[np.uint16]:
        """Token ids of captions [scenes, wordings]: [scenes, wordings, 77]."""
        texts = [wording for wordings in captions for wording in wordings]
        return encode(self.tokenizer, texts).reshape(len(captions), dataset.WORDINGS, -1)

    @cached_property
    def latents(self) -> NDArray[np.float16]:
        """Latents of the training scenes, made once for each autoencoder: [scenes, channels, 16, 16]."""
        path = self.folder / f"latents-{file_hash(self.checkpoint('autoencoder'))[:16]}.npy"
        if not path.is_file():
            latents = autoencoder.encode_all(self.autoencoder(), self.scenes.images, progress=self.progress)
            with atomic_file(path) as temporary, temporary.open("wb") as stream:
                np.save(stream, latents)
        return np.load(path)

    def checkpoint(self, stage: str) -> Path:
        """The file of a stage's checkpoint, whether it exists or not."""
        return self.folder / "checkpoints" / f"{stage}.pt"

    def status(self) -> dict[str, Progress]:
        """How far each stage has come."""
        lengths = {stage: self._length(stage) for stage in STAGES}
        return {stage: read_progress(self.checkpoint(stage), length.steps) for stage, length in lengths.items()}

    def autoencoder(self) -> AutoencoderKL:
        """The trained autoencoder, its latents normalised."""
        model = autoencoder.build_autoencoder(self.recipe)
        load_average(self.checkpoint("autoencoder"), model)
        autoencoder.normalise_latents(model, self.scenes)
        return model.eval().requires_grad_(False)

    def clip(self) -> CLIPModel:
        """The contrastive model as its own stage left it."""
        model = contrastive.build_clip(self.recipe, self.tokenizer)
        load_average(self.checkpoint("contrastive"), model)
        return model.eval().requires_grad_(False)

    def judges(self) -> tuple[CLIPModel, aesthetic.AestheticHead]:
        """The contrastive model with the image encoder of the aesthetic stage, and the head that belongs to it."""
        clip, head = self.clip(), aesthetic.build_head(self.recipe.width, self.recipe.seed)
        load_average(self.checkpoint("aesthetic"), aesthetic.RatedVision(clip, head))
        return clip, head.eval().requires_grad_(False)

    def recogniser(self) -> recogniser.Recogniser:
        """The trained recogniser."""
        model = recogniser.Recogniser(self.recipe.recogniser_width)
        load_average(self.checkpoint("recogniser"), model)
        return model.eval().requires_grad_(False)

    def text_to_latents(self) -> diffusion.TextToLatents:
        """The trained UNet and text encoder."""
        model = diffusion.TextToLatents(self.recipe, contrastive.build_clip(self.recipe, self.tokenizer))
        load_average(self.checkpoint("diffusion"), model)
        return model.eval().requires_grad_(False)

    def train(self, stage: str, minutes: float = math.inf) -> Progress:
        """Train one stage for so many minutes, or to its end.

        Raises:
            ValueError: an unknown stage, or a checkpoint of other settings.
            UnfinishedError: a stage that this one needs is not finished.
        """
        if stage not in STAGES:
            raise ValueError(f"there is no stage {stage!r}; the stages are {', '.join(STAGES)}")
        status = self.status()
        for needed in NEEDS[stage]:
            if not status[needed].finished:
                done = status[needed]
                raise UnfinishedError(
                    f"stage {stage} needs stage {needed}, which is at step {done.step} of {done.steps}; train that one"
                )
        prepare: dict[str, Callable[[], tuple[nn.Module, LossFunction]]] = {
            "recogniser": self._prepare_recogniser,
            "autoencoder": self._prepare_autoencoder,
            "contrastive": self._prepare_contrastive,
            "aesthetic": self._prepare_aesthetic,
            "diffusion": self._prepare_diffusion,
        }
        inputs = [file_hash(self.checkpoint(needed)) for needed in NEEDS[stage]]
        if status[stage].finished:
            self._check_inputs(stage, inputs)
            return status[stage]
        model, loss = prepare[stage]()
        return train_stage(
            model,
            loss,
            self._length(stage),
            path=self.checkpoint(stage),
            fingerprint=self.recipe.fingerprint(stage, str(dataset.VERSION), *inputs),
            seed=self.recipe.seed,
            minutes=minutes,
            progress=self.progress,
        )

    def _length(self, stage: str) -> Length:
        length: Length = getattr(self.recipe, stage)
        return length

    def _check_inputs(self, stage: str, inputs: list[str]) -> None:
        """A finished stage is kept only while the stages it was trained on are the ones that are here."""
        wanted = self.recipe.fingerprint(stage, str(dataset.VERSION), *inputs)
        load_average(self.checkpoint(stage), None, wanted)

    def _prepare_recogniser(self) -> tuple[nn.Module, LossFunction]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed + 4)
            model = recogniser.Recogniser(self.recipe.recogniser_width)
        batch = self.recipe.recogniser.batch
        return model, lambda generator: recogniser.recogniser_loss(model, self.scenes, batch, generator)

    def _prepare_autoencoder(self) -> tuple[nn.Module, LossFunction]:
        model = autoencoder.build_autoencoder(self.recipe)
        batch = self.recipe.autoencoder.batch
        return model, lambda generator: autoencoder.autoencoder_loss(model, self.scenes, batch, generator)

    def _prepare_contrastive(self) -> tuple[nn.Module, LossFunction]:
        model = contrastive.build_clip(self.recipe, self.tokenizer)
        batch, captions = self.recipe.contrastive.batch, self._captions()
        return model, lambda generator: contrastive.contrastive_loss(model, self.scenes, captions, batch, generator)

    def _prepare_aesthetic(self) -> tuple[nn.Module, LossFunction]:
        clip, head = self.clip(), aesthetic.build_head(self.recipe.width, self.recipe.seed)
        model = aesthetic.RatedVision(clip, head).requires_grad_(True)
        ratings = torch.from_numpy(aesthetic.simulated_ratings(self.scenes.qualities, self.recipe.seed))
        batch, captions = self.recipe.aesthetic.batch, self._captions()
        return model, lambda generator: aesthetic.aesthetic_loss(
            clip, head, self.scenes, captions, ratings, batch, generator
        )

    def _captions(self) -> contrastive.Captions:
        bare = self._encoded(contrastive.bare_captions(self.scenes))
        return contrastive.Captions(self.tokens, bare, int(self.tokenizer.eos_token_id))

    def _prepare_diffusion(self) -> tuple[nn.Module, LossFunction]:
        model = diffusion.TextToLatents(self.recipe, self.clip())
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        latents, tokens, batch = self.latents, self.tokens, self.recipe.diffusion.batch
        nothing = encode(self.tokenizer, [""])[0]
        alphas, shares = diffusion.build_scheduler().alphas_cumprod, diffusion.scene_shares(self.scenes)
        return model, lambda generator: diffusion.diffusion_loss(
            model, latents, tokens, nothing, alphas, shares, batch, generator
        )


def train_world(workshop: Workshop, stages: Sequence[str] = STAGES, minutes: float = math.inf) -> dict[str, Progress]:
    """Train these stages one after the other, each for at most so many minutes, and say how far all have come.

    A stage whose foundations are not finished yet waits for a later run.

    Raises:
        ValueError: an unknown stage.
    """
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise ValueError(f"there is no stage {unknown[0]!r}; the stages are {', '.join(STAGES)}")
    for stage in STAGES:
        if stage in stages and all(workshop.status()[needed].finished for needed in NEEDS[stage]):
            workshop.train(stage, minutes)
    return workshop.status()
