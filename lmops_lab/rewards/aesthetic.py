"""The LAION aesthetic head: a CLIP embedding to an expected human rating from 1 to 10.

Architecture and file format of the "improved aesthetic predictor" (sac+logos+ava1-l14-linearMSE): five linear layers
without any non-linearity, so that in evaluation the head is one affine map of the unit embedding.
"""

import hashlib
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lmops_lab.files import file_hash
from lmops_lab.rewards.clip import HUB_CLIP, ClipEncoder, Features, unit
from lmops_lab.rewards.embedded import AESTHETIC, EMBEDDED, embedded

HEAD_URL = "github.com/christophschuhmann/improved-aesthetic-predictor"
HEAD_FILE = "sac+logos+ava1-l14-linearMSE.pth"


# What torch's and safetensors' readers raise for files of other kinds.
_UNREADABLE = (
    *(RuntimeError, ValueError, TypeError, AttributeError, LookupError, EOFError),
    *(pickle.UnpicklingError, SafetensorError),
)


class AestheticHead(nn.Module):
    """Linear dim -> 1024 -> 128 -> 64 -> 16 -> 1 with dropout .2, .2, .1 between the first ones."""

    def __init__(self, dim: int = 768) -> None:
        super().__init__()
        self._dim = dim
        self.layers = nn.Sequential(
            nn.Linear(dim, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    @property
    def dim(self) -> int:
        """Width of the embedding that it reads."""
        return self._dim

    def forward(self, features: Features) -> Tensor:
        """Ratings of embeddings, which are brought to unit length first: [rows, dim] -> [rows]."""
        return self.layers(unit(features)).squeeze(-1)

    @classmethod
    def load(cls, path: Path | str = EMBEDDED) -> "AestheticHead":
        """Read a head.

        Args:
            path: "emoji" (embedded), or a file in LAION's format: `.pth` (read as plain tensors, on the
                CPU, wherever it was saved) or `.safetensors`, for any width of embedding.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that is no such head.
        """
        file = embedded(AESTHETIC, HEAD_FILE) if path == EMBEDDED else Path(path).expanduser()
        if not file.is_file():
            raise FileNotFoundError(
                f"there is no aesthetic head at {str(file)!r}; {EMBEDDED!r} is embedded, LAION's {HEAD_FILE} is in "
                f"{HEAD_URL}"
            )
        try:
            if file.suffix == ".safetensors":
                state = load_file(file, device="cpu")
            else:
                state = torch.load(file, weights_only=True, map_location="cpu")
            head = cls(state["layers.0.weight"].shape[1])
            head.load_state_dict(state)
        except _UNREADABLE as error:
            raise ValueError(
                f"{str(file)!r} is no aesthetic head in LAION's format (layers.0, 2, 4, 6, 7): {error}"
            ) from error
        return head.float().eval().requires_grad_(False)


@dataclass(frozen=True, eq=False)
class Aesthetic:
    """Expected rating of pictures, about 1 to 10; prompts are not read.

    Attributes:
        encoder: the CLIP that the head was fitted on.
        head: the aesthetic head.
    """

    encoder: ClipEncoder
    head: AestheticHead = field(repr=False)
    revision: str = ""
    reads_prompt: bool = False

    def __post_init__(self) -> None:
        dim = self.encoder.dim
        if dim != self.head.dim:
            raise ValueError(
                f"the head reads embeddings of {self.head.dim}, but {self.encoder.name!r} makes {dim}; LAION's head "
                f"belongs to {HUB_CLIP}"
            )

    @classmethod
    def load(
        cls, clip: str | ClipEncoder = EMBEDDED, head: Path | str = EMBEDDED, *, device: str = "auto"
    ) -> "Aesthetic":
        """Aesthetics by a CLIP (a name, or one that is loaded already) and a head file (see `AestheticHead.load`).

        Raises:
            FileNotFoundError, ValueError: parts that are missing or do not fit each other.
        """
        loaded = AestheticHead.load(head)
        file = AESTHETIC if head == EMBEDDED else Path(head).expanduser()
        encoder = clip if isinstance(clip, ClipEncoder) else ClipEncoder.load(clip, device=device)
        return cls(encoder, loaded, file_hash(file)[:16])

    @property
    def fingerprint(self) -> str:
        """What the scores depend on."""
        revision = self.revision or _state_hash(self.head)
        return f"aesthetic 1 {self.encoder.fingerprint} {revision}"

    def __call__(self, images: list[Image.Image], prompts: list[str] | None = None) -> NDArray[np.float64]:  # noqa: ARG002
        """One rating a picture."""
        with torch.inference_mode():
            return self.head(self.encoder.image_features(images)).double().numpy()


def _state_hash(head: AestheticHead) -> str:
    digest = hashlib.sha256()
    for tensor in head.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]
