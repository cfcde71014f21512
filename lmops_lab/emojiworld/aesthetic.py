"""The aesthetic head in LAION's format, fitted on simulated ratings of the scenes' latent quality."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# Inner widths of the published predictor; there are no non-linearities between the layers.
_WIDTHS = (1024, 128, 64, 16, 1)
# A picture's rating is the mean of this many raters, each off by about this much.
_RATERS, _DISAGREEMENT = 3, 0.8


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


def aesthetic_loss(
    head: AestheticHead, features: Tensor, ratings: Tensor, batch: int, generator: torch.Generator
) -> Tensor:
    """Mean squared error of the ratings on a random batch."""
    rows = torch.randint(len(features), (batch,), generator=generator)
    return (head(features[rows]) - ratings[rows]).square().mean()
