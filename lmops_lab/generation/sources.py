"""Where a text-to-image pipeline comes from: the embedded one, a local folder or the Hub. Only safetensors."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file, extract_commit_hash

from lmops_lab.generation.recipe import check_guidance, check_guidance_end, check_steps, check_text
from lmops_lab.outside import parse_json, read_text
from lmops_lab.rewards.embedded import EMBEDDED, PIPELINE, embedded

HUB_EXAMPLE = "CompVis/stable-diffusion-v1-4"
INDEX = "model_index.json"
RECOMMENDED = "generation.json"
"""Optional file of a pipeline folder: {"steps": 20, "guidance": 4.0, "guidance_end": 0.5, "scheduler": "ddim"}."""
_SETTINGS = {"steps", "guidance", "guidance_end", "scheduler"}
MOST_STEPS = 1000  # with which nearly every scheduler was trained; the pipeline's own limit is checked when it draws

# Weight files up to this size are hashed whole, larger ones at this many places: any further training shows there.
_WHOLE, _PLACES, _BYTES = 64 * 2**20, 1024, 2**14


@dataclass(frozen=True)
class PipelineSource:
    """A place that diffusers can load a pipeline from.

    Attributes:
        path: local folder, or Hub id.
        revision: commit of a Hub pipeline; "local-" and a hash of everything in a local folder that pixels depend on.
        hub_revision: commit to ask the Hub for; None for local folders.
        weight_bytes: size of a local folder's weights; None where it is not known before loading.
        recommended: settings that the folder itself names.
    """

    path: str
    revision: str
    hub_revision: str | None = None
    weight_bytes: int | None = None
    recommended: dict[str, Any] = field(default_factory=dict)


def locate_pipeline(name: str) -> PipelineSource:
    """Find a pipeline by name, without loading it.

    Raises:
        FileNotFoundError: no such pipeline, or a folder that is none; the message says what is missing.
        ValueError: an empty name.
    """
    if not name.strip():
        raise ValueError(f"the pipeline's name is empty; give '{EMBEDDED}', a Hub id or a local folder")
    if name == EMBEDDED:
        return _local(embedded(PIPELINE, HUB_EXAMPLE))
    path = Path(name).expanduser()
    if path.is_dir():
        return _local(path)
    if path.exists():
        raise FileNotFoundError(f"{name!r} is a file; give a pipeline folder (the one that holds {INDEX})")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise FileNotFoundError(
            f"there is no pipeline at {name!r}; give '{EMBEDDED}', a Hub id such as '{HUB_EXAMPLE}' "
            "(optionally 'id@revision') or an existing folder"
        )
    hub_id, _, revision = name.partition("@")
    try:
        index = cached_file(hub_id, INDEX, revision=revision or None)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(unavailable(name, error)) from error
    commit = extract_commit_hash(index, None) or revision
    return PipelineSource(hub_id, commit, hub_revision=commit or None)


def unavailable(name: str, error: Exception) -> str:
    """What to tell about a pipeline that does not load."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"pipeline {name!r} cannot be loaded: check the name and the network; '{EMBEDDED}' is embedded and needs "
        f"none; only safetensors weights are read. Reason: {reason}"
    )


def _local(folder: Path) -> PipelineSource:
    index = folder / INDEX
    if not index.is_file():
        alone = (folder / "config.json").is_file()
        raise FileNotFoundError(
            f"folder {str(folder)!r} is no pipeline: it has no {INDEX}"
            f"{' (it holds a single model)' if alone else ''}; give the folder that DiffusionPipeline.save_pretrained "
            "wrote"
        )
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
        named = parts["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise FileNotFoundError(f"{str(index)!r} describes no pipeline ({error}); save the pipeline again") from error
    weights = sorted(folder.glob("*/*.safetensors"))
    for part, classes in parts.items():
        own = folder / part
        if part.startswith("_") or not isinstance(classes, list) or classes[1] is None:
            continue
        if not own.is_dir():
            raise FileNotFoundError(f"pipeline {str(folder)!r} ({named}) lacks its part {part!r}; save it again")
        others = [p.name for p in own.iterdir() if p.suffix in (".bin", ".ckpt", ".pt", ".pth")]
        if others and not any(own.glob("*.safetensors")):
            raise FileNotFoundError(
                f"part {part!r} of pipeline {str(folder)!r} has {others[0]} but no *.safetensors; such files can run "
                "code when loaded and are refused: convert it with save_pretrained(safe_serialization=True)"
            )
    if not weights:
        raise FileNotFoundError(f"pipeline {str(folder)!r} ({named}) holds no *.safetensors weights")
    size = sum(path.stat().st_size for path in weights)
    return PipelineSource(
        str(folder), _content_hash(folder, weights), weight_bytes=size, recommended=read_recommended(folder)
    )


def read_recommended(folder: Path) -> dict[str, Any]:
    """Settings that a pipeline's folder recommends (see `RECOMMENDED`); none where it has no such file.

    Raises:
        ValueError: a file that is no JSON object of these settings, or names a value that nothing can be drawn with.
    """
    file = folder / RECOMMENDED
    if not file.is_file():
        return {}
    settings = parse_json(read_text(file), str(file))
    if not isinstance(settings, dict) or (unknown := set(settings) - _SETTINGS):
        what = sorted(unknown) if isinstance(settings, dict) else settings
        raise ValueError(f"{str(file)!r} recommends {what}; it may name {', '.join(sorted(_SETTINGS))}")
    scheduler = settings.get("scheduler", "")
    if not isinstance(scheduler, str):
        raise ValueError(f"{str(file)!r}: scheduler is {scheduler!r}; give its name")  # noqa: TRY004 - of a file
    try:
        check_steps(settings.get("steps", 1), MOST_STEPS)
        check_guidance(settings.get("guidance", 1))
        check_guidance_end(settings.get("guidance_end", 1))
        check_text(scheduler, "scheduler")
    except ValueError as error:
        raise ValueError(f"{str(file)!r}: {error}") from error
    return settings


def _content_hash(folder: Path, weights: list[Path]) -> str:
    """Hash of configurations, tokenizers and weights; notes beside them do not count."""
    digest = hashlib.sha256()
    texts = [folder / INDEX, *folder.glob("*/*.json"), *folder.glob("*/*.txt"), *folder.glob("*/*.model")]
    for path in sorted(texts):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}:{len(content)} ".encode() + content)
    for path in weights:
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}:{size} ".encode())
        with path.open("rb") as stream:
            if size <= _WHOLE:
                digest.update(stream.read())
                continue
            for place in range(_PLACES):
                stream.seek(place * (size - _BYTES) // (_PLACES - 1))
                digest.update(stream.read(_BYTES))
    return f"local-{digest.hexdigest()[:16]}"
