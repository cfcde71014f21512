"""What a run depended on: a content hash of everything that decides its result, versions, commit and hardware."""

import functools
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import nbformat

_PACKAGE = Path(__file__).parents[1]

# Beyond the declared dependencies, what decides how numbers come out.
_ALSO = ("lmops-lab", "tokenizers")


def content_hash(notebook: Path, parameters: Mapping[str, Any]) -> str:
    """Identity of a run's result: the notebook's source, all parameters, files they name, this package, its libraries.

    Stored outputs do not count, nor does what a run has written to the folder that its parameter `output` names. Any
    other parameter that names an existing file or folder counts with the sizes and times of its files, so that changed
    data is a new run.

    Returns:
        16 hexadecimal digits.
    """
    cells = nbformat.read(notebook, as_version=4).cells
    what = {
        "cells": [[cell.cell_type, cell.source] for cell in cells if cell.cell_type == "code"],
        "parameters": dict(parameters),
        "files": sorted(_stamps({name: value for name, value in parameters.items() if name != "output"})),
        "package": package_hash(),
        "versions": versions(),
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=repr).encode()).hexdigest()[:16]


@functools.cache
def package_hash() -> str:
    """SHA-256 of the source and data of this package and its widgets: an edited function is another experiment."""
    digest = hashlib.sha256()
    widgets = importlib.util.find_spec("widgets")
    folders = [_PACKAGE, *map(Path, (widgets.submodule_search_locations or ()) if widgets else ())]
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _stamps(value: Any) -> Iterator[tuple[str, int, int]]:
    """(path, bytes, modification time in ns) of every file that a value, or a part of it, names."""
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _stamps(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _stamps(part)
    elif isinstance(value, str) and value and "\0" not in value and len(value) < 1000:
        path = Path(value).expanduser()
        if os.path.lexists(path):
            for file in [path] if path.is_file() else sorted(path.rglob("*")):
                if file.is_file():
                    stat = file.stat()
                    yield str(file), stat.st_size, stat.st_mtime_ns


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, of this package and of everything that it declares to need."""
    declared = [re.split(r"[^\w.-]", line)[0] for line in requires("lmops-lab") or () if "extra ==" not in line]
    found = {"python": platform.python_version()}
    for name in sorted({*declared, *_ALSO}, key=str.lower):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@functools.cache
def hardware() -> dict[str, Any]:
    """The machine in words: processor, usable cores, memory in GB, accelerators."""
    processor = platform.processor() or platform.machine()
    with_models = Path("/proc/cpuinfo")
    if with_models.is_file():
        model = re.search(r"^model name\s*:\s*(.+)$", with_models.read_text(encoding="utf-8"), re.MULTILINE)
        processor = model[1] if model else processor
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = getattr(os, "sysconf_names", {})
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9 if "SC_PHYS_PAGES" in names else None
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor,
        "cores": cores,
        "memory_gb": None if memory is None else round(memory, 1),
        "accelerators": _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader").splitlines(),
    }


def commit() -> str | None:
    """Commit of the checkout that this package runs from, "+changes" where files differ; None outside a checkout."""
    at = _output("git", "-C", str(_PACKAGE), "rev-parse", "--short=12", "HEAD").strip()
    if not at:
        return None
    changed = _output("git", "-C", str(_PACKAGE), "status", "--porcelain", "--untracked-files=no", "--", ".").strip()
    return f"{at}+changes" if changed else at


def seeds(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that seed something.

    >>> seeds({"seed": 1, "k": [0], "image_seeds": 3})
    {'seed': 1, 'image_seeds': 3}
    """
    return {name: value for name, value in parameters.items() if re.search(r"(^|_)seeds?($|_)", name)}


def _output(*command: str) -> str:
    """What a program prints, or nothing where it is absent or fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout  # noqa: S603
    except (subprocess.SubprocessError, OSError):
        return ""
