"""Encoded contexts as files: safetensors with a JSON header that says what they belong to."""

import hashlib
import json
import struct
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lmops_lab.attention.context import GroupedContext
from lmops_lab.files import atomic_file

FORMAT = 3
_FIELDS = ("prefix_tokens", "group_tokens", "group_examples", "end", "bos", "model", "example_tokens")
_SIDES = ("keys", "values", "key_scales", "value_scales")


def save_context(context: GroupedContext, path: Path | str) -> Path:
    """Write a context to one file; an older file of that name survives until the new one is whole.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    about = {name: getattr(context, name) for name in _FIELDS}
    about = json.loads(json.dumps(about))  # as it will be read: tuples are lists
    about |= {"format": FORMAT, "versions": {name: version(name) for name in ("lmops-lab", "torch", "transformers")}}
    tensors = {f"{side}.{i}": t.contiguous() for side in _SIDES for i, t in enumerate(getattr(context, side))}
    about["digest"] = tensors_digest(tensors, about)
    with atomic_file(path, in_folder=True) as temporary:
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
            if about["format"] < FORMAT:
                raise ValueError(f"{path.name} has the older format {about['format']}; encode the demonstrations again")
            if about["format"] > FORMAT:
                raise ValueError(
                    f"{path.name} has format {about['format']}, this version reads up to {FORMAT}; upgrade"
                )
            if about["model"] != model:
                raise ValueError(
                    f"{path.name} was encoded by {about['model']}, not by {model}; encode the demonstrations again"
                )
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            digest = about.pop("digest")
            if tensors_digest(tensors, about) != digest:
                raise ValueError(
                    f"the contents of {path.name} are not those that were saved (wrong hash); "
                    "encode the demonstrations again"
                )
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v := about[name], list) else v for name in _FIELDS}
        sides: dict[str, Any] = {
            side: tuple(tensors[f"{side}.{i}"] for i in range(_layers(tensors, side))) for side in _SIDES
        }
        _check_fields(fields)
    except (
        SafetensorError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        struct.error,
        json.JSONDecodeError,
    ) as e:
        raise ValueError(f"{path.name} is no whole context file ({e}); encode the demonstrations again") from e
    context = GroupedContext(**sides, **fields)
    if any(t.shape[1] != context.tokens for t in (*context.keys, *context.values)):
        raise ValueError(f"{path.name} has {context.keys[0].shape[1]} columns, its header says {context.tokens}")
    return context


def _check_fields(fields: dict[str, Any]) -> None:
    """Raise TypeError where a header's field is not what the context takes."""
    for name, value in fields.items():
        whole = value if isinstance(value, tuple) else (value,)
        several = name in ("group_tokens", "group_examples", "example_tokens")
        kind = str if name in ("bos", "model") else int
        if several != isinstance(value, tuple) or not all(
            isinstance(v, kind) and not isinstance(v, bool) for v in whole
        ):
            raise TypeError(f"{name} is {str(value)[:80]!r}")


def _layers(tensors: dict[str, Tensor], side: str) -> int:
    return sum(name.rpartition(".")[0] == side for name in tensors)


def tensors_digest(tensors: Mapping[str, Tensor], about: Any = None) -> str:
    """Hash of named tensors, their types and shapes included, and of what is said of them (a second a gigabyte)."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous().cpu()
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
