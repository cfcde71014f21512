"""A CLIP model as two functions: pictures to unit vectors, texts to unit vectors.

The real one (openai/clip-vit-large-patch14), the embedded one and any other CLIPModel load through the same calls.
"""

import contextlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, PreTrainedConfig

from lmops_lab import machine, origins
from lmops_lab.rewards.cache import picture_hash
from lmops_lab.rewards.embedded import CLIP, EMBEDDED, embedded

HUB_CLIP = "openai/clip-vit-large-patch14"

Features = Float[Tensor, "rows dim"]

_REMEMBERED = 20_000  # feature vectors kept in memory: 60 MB of 768 floats


class TextCutWarning(UserWarning):
    """CLIP does not read all of a text."""


@dataclass(frozen=True, eq=False)
class ClipEncoder:
    """A CLIP model with its tokenizer and image preprocessing.

    Features are remembered by the picture's pixels and by the text, so that relevance and aesthetics of the same
    pictures cost one pass.

    Attributes:
        name: the name it was loaded by.
        revision: commit of a Hub model, content hash of a local one.
        batch_size: pictures or texts a forward pass.
    """

    name: str
    model: CLIPModel = field(repr=False)
    tokenizer: Any = field(repr=False)
    processor: Any = field(repr=False)
    revision: str
    batch_size: int = 16
    _known: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def load(
        cls,
        name: str = EMBEDDED,
        *,
        processor: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        batch_size: int = 16,
    ) -> "ClipEncoder":
        """Load a CLIP model.

        Args:
            name: "emoji" (embedded), a Hub id such as "openai/clip-vit-large-patch14" (optionally "id@revision"), or a
                local folder with safetensors.
            processor: where tokenizer and preprocessing come from, if not from the same place.
            dtype: "auto" (float32 on the CPU) or "float32", "bfloat16", "float16".

        Raises:
            FileNotFoundError: no such model, or a folder that is none.
            ValueError: a model of another kind, an unknown dtype or device.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; a batch holds at least 1 row")
        where = machine.choose_device(device)
        number_format = machine.choose_dtype("float32" if dtype == "auto" and where.type == "cpu" else dtype, where)
        source = _locate(name)
        beside = _locate(processor) if processor else source
        if _model_type(source) not in ("clip", None):
            raise ValueError(
                f"{name!r} is a model of type {_model_type(source)!r}, not a CLIPModel; try {EMBEDDED!r} or "
                f"{HUB_CLIP!r}"
            )
        try:
            with origins.quiet(source):
                model = CLIPModel.from_pretrained(
                    str(source.path), dtype=number_format.dtype, use_safetensors=True, **_options(source)
                )
                tokenizer = AutoTokenizer.from_pretrained(str(beside.path), trust_remote_code=False, **_options(beside))
                # Pillow resizes as the original CLIP does, and the same with and without torchvision.
                images = AutoImageProcessor.from_pretrained(
                    str(beside.path), backend="pil", trust_remote_code=False, **_options(beside)
                )
        except (OSError, ValueError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise FileNotFoundError(
                f"CLIP model {name!r} cannot be loaded: check the name and the network; {EMBEDDED!r} is embedded; a "
                "local folder needs config.json, *.safetensors, tokenizer and preprocessor_config.json. Reason: "
                f"{reason}"
            ) from error
        torch.nn.Module.to(model, where)
        model.eval().requires_grad_(False)
        return cls(name, model, tokenizer, images, source.revision or source.hub_revision, batch_size)

    @property
    def fingerprint(self) -> str:
        """Name, revision and dtype: what features depend on."""
        return f"{self.name}@{self.revision}/{str(self.model.dtype).removeprefix('torch.')}"

    @property
    def dim(self) -> int:
        """Width of the shared embedding space."""
        config: Any = self.model.config
        return int(config.projection_dim)

    @property
    def logit_scale(self) -> float:
        """The factor by which CLIP was trained to multiply cosines."""
        return self.model.logit_scale.exp().item()

    def image_features(self, images: Sequence[Image.Image]) -> Features:
        """Unit vectors of pictures: [images, dim], float32 on the CPU."""
        keys = [f"image {picture_hash(image)}" for image in images]
        return self._remembered(keys, images, self._encode_images)

    def text_features(self, texts: Sequence[str]) -> Features:
        """Unit vectors of texts: [texts, dim], float32 on the CPU. Texts beyond CLIP's window are cut, with a warning.

        Raises:
            ValueError: an empty text.
        """
        for number, text in enumerate(texts):
            if not text.strip():
                raise ValueError(f"text {number} is {text!r}, an empty text; nothing can be relevant to it")
        return self._remembered([f"text {text}" for text in texts], texts, self._encode_texts)

    def _encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        inputs = self.processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.model.device, self.model.dtype)
        return projected(self.model.get_image_features(pixel_values=pixels))

    def _encode_texts(self, texts: Sequence[str]) -> Tensor:
        config: Any = self.model.config
        limit = int(config.text_config.max_position_embeddings)
        whole = self.tokenizer(list(texts), verbose=False)["input_ids"]
        for text, ids in zip(texts, whole, strict=True):
            if len(ids) > limit:
                name = text if len(text) <= 60 else f"{text[:57]}..."
                warnings.warn(
                    f"text {name!r} has {len(ids)} tokens, but CLIP reads {limit}: the score ignores its end",
                    TextCutWarning,
                    stacklevel=2,
                )
        inputs = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt", verbose=False
        ).to(self.model.device)
        return projected(
            self.model.get_text_features(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        )

    def _remembered(self, keys: Sequence[str], rows: Sequence[Any], encode: Any) -> Tensor:
        missing = {key: row for key, row in zip(keys, rows, strict=True) if key not in self._known}
        fresh: dict[str, Tensor] = {}
        names = list(missing)
        for start in range(0, len(names), self.batch_size):
            batch = names[start : start + self.batch_size]
            with torch.inference_mode():
                vectors = encode([missing[name] for name in batch]).float().cpu()
            fresh.update(zip(batch, unit(vectors), strict=True))
        found = [fresh[key] if key in fresh else self._known[key] for key in keys]
        self._known.update(fresh)
        while len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        return torch.stack(found).clone() if found else torch.empty(0, self.dim)


def projected(answer: Any) -> Tensor:
    """The projected features in what transformers returns: a tensor (4.x), or an object that holds them (5.x)."""
    return answer if isinstance(answer, Tensor) else answer.pooler_output


def unit(vectors: Features) -> Features:
    """Rows of length one; a row of zeros stays zero."""
    norms = vectors.norm(dim=-1, keepdim=True)
    return vectors / torch.where(norms == 0, 1.0, norms)


def _options(source: origins.Source) -> dict[str, Any]:
    return {"revision": source.hub_revision} if source.hub_revision else {}


def _model_type(source: origins.Source) -> str | None:
    """What kind of model a configuration describes; a CLIPModel would load another kind with random weights."""
    config, _ = PreTrainedConfig.get_config_dict(str(source.path), **_options(source))
    return config.get("model_type")


def _locate(name: str) -> origins.Source:
    """A model's place; the message about a missing one speaks of CLIP."""
    if not name.strip():
        raise ValueError(f"the CLIP model's name is empty; give {EMBEDDED!r}, a Hub id or a local folder")
    if name == EMBEDDED:
        return origins.locate(str(embedded(CLIP, HUB_CLIP)))
    if Path(name).expanduser().is_dir():
        return origins.locate(name)
    with contextlib.suppress(FileNotFoundError):
        return origins.locate(name)
    raise FileNotFoundError(
        f"there is no CLIP model at {name!r}: give {EMBEDDED!r} (embedded), a Hub id such as {HUB_CLIP!r} (needs a "
        "network once) or an existing folder"
    )
