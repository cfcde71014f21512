"""Encoded groups on disk, found by their content, so that a second run encodes nothing twice."""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lmops_lab.attention.files import tensors_digest
from lmops_lab.files import atomic_file, cache_folder

_SIDES = ("keys", "values")


@dataclass
class GroupCache:
    """A folder of encoded groups, one safetensors file each, least recently used ones removed beyond a size.

    A group's name is a hash of all that its keys depend on: model, revision, dtype, BOS policy, shared prefix, first
    position, tokens, and the versions of this package, torch and transformers. A file that cannot be read, or whose
    digest is wrong, is dropped and encoded again.

    Attributes:
        folder: where the files are.
        limit: bytes that may stay on disk.
        hits, misses: groups found and not found since this object was made.
    """

    folder: Path = field(default_factory=lambda: cache_folder() / "groups")
    limit: int = 8 * 2**30
    hits: int = 0
    misses: int = 0

    def name(self, model: str, bos: str, shared: Sequence[int], start: int, tokens: Sequence[int]) -> str:
        """The file name of a group."""
        what = json.dumps(["v1", model, bos, list(shared), start, list(tokens)])
        return hashlib.sha256(f"{what} {computing_versions()}".encode()).hexdigest()[:32] + ".safetensors"

    def read(self, name: str, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], columns: slice) -> bool:
        """Copy a stored group into these columns; whether it was there, whole."""
        path = self.folder / name
        try:
            with safe_open(path, framework="pt") as stored:
                tensors = {side: stored.get_tensor(side) for side in _SIDES}  # [layers, kv_heads, tokens, dim]
                if (stored.metadata() or {}).get("digest") != tensors_digest(tensors, name):
                    raise ValueError(f"{path} is damaged")  # noqa: TRY301
                for side, layers in zip(_SIDES, (keys, values), strict=True):
                    tensor = tensors[side]
                    for layer, target in zip(tensor, layers, strict=True):
                        if target[:, columns].shape != layer.shape or target.dtype != layer.dtype:
                            raise ValueError(f"{path} does not fit")  # noqa: TRY301
                        target[:, columns] = layer
        except FileNotFoundError:
            self.misses += 1
            return False
        except (SafetensorError, ValueError, OSError):
            with contextlib.suppress(OSError):
                path.unlink()
            self.misses += 1
            return False
        with contextlib.suppress(OSError):
            os.utime(path)  # its last use, for `trim`
        self.hits += 1
        return True

    def write(self, name: str, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], columns: slice) -> None:
        """Store the group in these columns. A full disk costs the cache entry, never the run."""
        tensors = {
            side: torch.stack([layer[:, columns] for layer in layers]).cpu()
            for side, layers in zip(_SIDES, (keys, values), strict=True)
        }
        try:
            self.trim(room_for=sum(t.nbytes for t in tensors.values()))
            with atomic_file(self.folder / name, in_folder=True) as temporary:
                save_file(tensors, temporary, metadata={"digest": tensors_digest(tensors, name)})
        except (OSError, SafetensorError):
            return

    def trim(self, room_for: int = 0) -> None:
        """Remove the least recently used groups until `room_for` more bytes stay within the limit."""
        if not self.folder.is_dir():
            return
        files = []
        for path in self.folder.glob("*.safetensors"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process was faster
                continue
            files.append((status.st_mtime, status.st_size, path))
        size = sum(bytes_ for _, bytes_, _ in files) + room_for
        for _, bytes_, path in sorted(files):
            if size <= self.limit:
                break
            path.unlink(missing_ok=True)
            size -= bytes_


@functools.cache
def computing_versions() -> tuple[str, ...]:
    """Versions of what computes numbers here: another version of any may round, or attend, differently."""
    return tuple(version(name) for name in ("lmops-lab", "torch", "transformers"))
