"""The aesthetic head in LAION's format and the image encoder under it, fitted on simulated ratings of the scenes."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPModel

from lmops_lab.emojiworld import contrastive
from lmops_lab.emojiworld.dataset import Scenes

# Inner widths of the published predictor; there are no non-linearities between the layers.
_WIDTHS = (1024, 128, 64, 16, 1)
# A picture's rating is the mean of this many raters, each off by about this much.
_RATERS, _DISAGREEMENT = 3, 0.8
# Ratings lie about 3 from their mean, so their squared error begins at 50 times the contrastive loss.
_WEIGHT = 0.1


class AestheticHead(nn.Module):
    """Linear layers on L2-normalised CLIP features; its state is named like LAION's (`layers.0.weight`, ...)."""

    def __init__(self, width: int, dropout: tuple[float, float, float] = (0.2, 0.2, 0.1)) -> None:
        super().__init__()
        first, second, third, fourth, last = _WIDTHS
        self.layers = nn.Sequential(
            nn.Linear(width, first),
            nn.Dropout(dropout[0]),
            nn.Linear(first, second),
            nn.Dropout(dropout[1]),
            nn.Linear(second, third),
            nn.Dropout(dropout[2]),
            nn.Linear(third, fourth),
            nn.Linear(fourth, last),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Scores of normalised features [batch, width], about 1-10: [batch]."""
        return self.layers(features).squeeze(-1)


def build_head(width: int, seed: int, middle: float = 5.5) -> AestheticHead:
    """An untrained head that answers about `middle`. Without dropout, whose noise is global and cannot be continued."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 2)
        head = AestheticHead(width, (0.0, 0.0, 0.0))
    with torch.no_grad():
        head.layers[-1].get_parameter("bias").fill_(middle)
    return head


def simulated_ratings(qualities: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """What raters say of pictures of these latent qualities, on the scale 1-10: the mean of three noisy opinions."""
    random = np.random.default_rng([seed, 10])
    opinions = 1 + 9 * qualities[:, None] + random.normal(0, _DISAGREEMENT, (len(qualities), _RATERS))
    return np.clip(opinions, 1, 10).mean(1).astype(np.float32)


class RatedVision(nn.Module):
    """The image side of a CLIPModel with the head on it; the text side is not a part and stays as it is."""

    def __init__(self, clip: CLIPModel, head: AestheticHead) -> None:
        super().__init__()
        self.vision_model, self.visual_projection, self.head = clip.vision_model, clip.visual_projection, head


def aesthetic_loss(
    clip: CLIPModel,
    head: AestheticHead,
    scenes: Scenes,
    captions: contrastive.Captions,
    ratings: Tensor,
    batch: int,
    generator: torch.Generator,
) -> Tensor:
    """Contrastive loss with the text side locked, plus a tenth of the ratings' mean squared error.

    A model that learned from captions alone tells praised pictures from damned ones, but not well how good a plain one
    is: on its features as they are, the scores correlate .84 with latent quality.

    Args:
        ratings: of all scenes, 1-10: [scenes].
    """
    rows, ids = contrastive.draw_captions(captions, batch, generator)
    with torch.no_grad():
        words = nn.functional.normalize(clip.get_text_features(input_ids=ids).pooler_output, dim=-1)
    pixels = contrastive.clip_pixels(scenes.images[rows])
    seen = nn.functional.normalize(clip.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    matched = contrastive.matching_loss(clip.logit_scale.exp() * seen @ words.T, ids)
    return matched + _WEIGHT * (head(seen) - ratings[rows]).square().mean()
