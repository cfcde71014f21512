"""A tiny CLIPModel: pictures and captions that belong together get similar vectors."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from lmops_lab.emojiworld.dataset import Scenes
from lmops_lab.emojiworld.recipe import Recipe
from lmops_lab.emojiworld.recogniser import to_tensor
from lmops_lab.emojiworld.settings import SIZE
from lmops_lab.emojiworld.tokens import PLACES
from lmops_lab.rewards.relevance import CONFIG_KEY

_HEAD_WIDTH = 32
_SCALE = math.log(100.0)
WORDS_DROPPED = 0.5
RELEVANT_COSINE = CONFIG_KEY


def build_clip(recipe: Recipe, tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIPModel for 64 x 64 pictures, initialised from the recipe's seed."""
    common = {
        "hidden_size": recipe.width,
        "intermediate_size": 3 * recipe.width,
        "num_attention_heads": max(1, recipe.width // _HEAD_WIDTH),
        "projection_dim": recipe.width,
    }
    text = {
        **common,
        "vocab_size": len(tokenizer),
        "num_hidden_layers": recipe.text_layers,
        "max_position_embeddings": PLACES,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**common, "num_hidden_layers": recipe.vision_layers, "image_size": SIZE, "patch_size": recipe.patch}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed + 1)
        model = CLIPModel(
            CLIPConfig(
                text_config=text, vision_config=vision, projection_dim=recipe.width, logit_scale_init_value=_SCALE
            )
        )
    model.logit_scale.requires_grad_(False)  # the published models ended at 100; cosines keep the size of theirs
    return model


def image_processor() -> CLIPImageProcessorPil:
    """CLIP's own preparation of pictures, at 64 x 64."""
    return CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})


def clip_pixels(images: NDArray[np.uint8]) -> Tensor:
    """What `image_processor` makes of 64 x 64 pictures, for whole arrays at once: [batch, 3, 64, 64]."""
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return ((to_tensor(images) + 1) / 2 - mean) / deviation


def bare_captions(scenes: Scenes) -> list[list[str]]:
    """All wordings of all captions without the added words; where these replace what is shown, they stay."""
    return [
        [wording if kind == "dragged" else wording.split(", ")[0] for wording in wordings]
        for wordings, kind in zip(scenes.captions, scenes.kinds, strict=True)
    ]


@dataclass(frozen=True)
class Captions:
    """Token ids of all wordings of all scenes, with and without the added words: [scenes, wordings, 77].

    Attributes:
        end: id of the end token.
    """

    full: NDArray[np.uint16]
    bare: NDArray[np.uint16]
    end: int


def draw_captions(captions: Captions, batch: int, generator: torch.Generator) -> tuple[NDArray[np.int64], Tensor]:
    """Random scenes and a wording of each: rows [batch] and token ids [batch, the longest of these].

    Half of the captions lose their added words: what a picture shows must be found whatever its quality. Otherwise a
    perfect picture is less relevant to a plain prompt than a mediocre one, because plain captions come with those.
    """
    full, bare = captions.full, captions.bare
    rows = torch.randint(len(full), (batch,), generator=generator).numpy()
    wording = torch.randint(full.shape[1], (batch,), generator=generator).numpy()
    dropped = (torch.rand(batch, generator=generator) < WORDS_DROPPED).numpy()[:, None]
    ids = torch.from_numpy(np.where(dropped, bare[rows, wording], full[rows, wording]).astype(np.int64))
    return rows, ids[:, : longest(ids, captions.end)]


def contrastive_loss(
    model: CLIPModel, scenes: Scenes, captions: Captions, batch: int, generator: torch.Generator
) -> Tensor:
    """Cross-entropy of finding each picture's caption in the batch and each caption's picture."""
    rows, ids = draw_captions(captions, batch, generator)
    return matching_loss(model(input_ids=ids, pixel_values=clip_pixels(scenes.images[rows])).logits_per_image, ids)


def matching_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """The loss of logits [pictures, captions]; picture and caption of one row belong together.

    Equal captions count as equally right: in a world of a few hundred plain captions, every batch has some.

    Args:
        ids: the captions' token ids: [batch, tokens].
    """
    same = (ids[:, None] == ids[None]).all(-1).float()  # [batch, batch]
    target = same / same.sum(-1, keepdim=True)
    return -(target * (logits.log_softmax(-1) + logits.log_softmax(0).T)).sum(-1).mean() / 2


def longest(ids: Tensor, end: int) -> int:
    """Places up to the last first end token: what comes after it is padding, unseen by a causal encoder."""
    return int((ids == end).int().argmax(-1).max()) + 1


@torch.no_grad()
def image_features(model: CLIPModel, images: NDArray[np.uint8], batch: int = 64) -> Tensor:
    """L2-normalised features of pictures: [pictures, width]."""
    parts = [
        model.get_image_features(pixel_values=clip_pixels(images[start : start + batch])).pooler_output
        for start in range(0, len(images), batch)
    ]
    return torch.nn.functional.normalize(torch.cat(parts), dim=-1)


@torch.no_grad()
def text_features(model: CLIPModel, tokens: NDArray[np.uint16], batch: int = 64) -> Tensor:
    """L2-normalised features of captions given as token ids [captions, 77]: [captions, width]."""
    ids = torch.from_numpy(tokens.astype(np.int64))
    parts = [
        model.get_text_features(input_ids=ids[start : start + batch]).pooler_output
        for start in range(0, len(ids), batch)
    ]
    return torch.nn.functional.normalize(torch.cat(parts), dim=-1)


def relevant_cosine(images: Tensor, captions: Tensor) -> float:
    """The cosine that nine in ten pairs of a picture and a plain text for it reach: what counts as relevant.

    Args:
        images, captions: normalised features of pairs: [pairs, width].
    """
    return float((images * captions).sum(-1).quantile(0.1))


def ranking_accuracy(images: Tensor, captions: Tensor, among: int = 20, seed: int = 0) -> float:
    """How often a picture's own caption is the most similar among `among` captions, the others drawn at random.

    Args:
        images, captions: normalised features in the same order: [scenes, width].

    Raises:
        ValueError: fewer scenes than captions to choose from.
    """
    count = len(images)
    if count < among:
        raise ValueError(f"{count} scenes are too few to choose among {among} captions")
    random = np.random.default_rng(seed)
    similarity = (images @ captions.T).numpy()  # [scenes, scenes]
    right = 0
    for row in range(count):
        others = random.choice(np.delete(np.arange(count), row), among - 1, replace=False)
        right += bool(similarity[row, row] >= similarity[row, others].max())
    return right / count
