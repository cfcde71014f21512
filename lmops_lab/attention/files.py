"""Encoded contexts as files: safetensors with a JSON header that says what they belong to."""

import json
import struct
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lmops_lab.attention.context import GroupedContext
from lmops_lab.files import atomic_file

FORMAT = 1
_FIELDS = ("prefix_tokens", "group_tokens", "group_examples", "end", "bos", "model")


def save_context(context: GroupedContext, path: Path | str) -> Path:
    """Write a context to one file; an older file of that name survives until the new one is whole.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    about = {name: getattr(context, name) for name in _FIELDS}
    about |= {"format": FORMAT, "versions": {name: version(name) for name in ("lmops-lab", "torch", "transformers")}}
    tensors = {
        f"{side}.{i}": t.contiguous() for side in ("keys", "values") for i, t in enumerate(getattr(context, side))
    }
    with atomic_file(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"lmops_lab": json.dumps(about)})
        except SafetensorError as error:
            raise OSError(f"context cannot be written to {path}: {error}") from error
    return path


def load_context(path: Path | str, model: str, device: str = "cpu") -> GroupedContext:
    """Read a context that `save_context` wrote, for the model with this fingerprint.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, one from a newer version, or one that another model encoded.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no saved context at {str(path)!r}")
    try:
        with safe_open(path, framework="pt", device=device) as stored:
            about = json.loads((stored.metadata() or {})["lmops_lab"])
            if about["format"] > FORMAT:
                raise ValueError(
                    f"{path.name} has format {about['format']}, this version reads up to {FORMAT}; upgrade"
                )
            if about["model"] != model:
                raise ValueError(
                    f"{path.name} was encoded by {about['model']}, not by {model}; encode the demonstrations again"
                )
            layers = range(len(stored.keys()) // 2)
            keys, values = (tuple(stored.get_tensor(f"{side}.{i}") for i in layers) for side in ("keys", "values"))
    except (SafetensorError, KeyError, TypeError, struct.error, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name} is no whole context file ({error}); encode the demonstrations again") from error
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v := about[name], list) else v for name in _FIELDS}
    context = GroupedContext(keys=keys, values=values, **fields)
    if any(t.shape[1] != context.tokens for t in (*keys, *values)):
        raise ValueError(f"{path.name} has {keys[0].shape[1]} columns, its header says {context.tokens}")
    return context
