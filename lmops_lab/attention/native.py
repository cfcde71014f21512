"""C sources of ours, compiled by the machine's own compiler when they are first needed, and kept."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lmops_lab.files import atomic_file, cache_folder, file_hash, write_text

FLOAT32 = Path(__file__).with_name("float32.c")
# No fast mathematics: under it the last numbers of an array, which fill no vector, are computed in another way.
FLOAT32_FLAGS = ("-O3", "-march=native", "-mprefer-vector-width=512", "-fno-math-errno", "-fno-trapping-math")


@functools.cache
def float32_library() -> ctypes.CDLL | None:
    """The compiled `float32.c`; None where no C compiler is at hand, or LMOPS_LAB_KERNEL is "off"."""
    if not wanted():
        return None
    try:
        return ctypes.CDLL(str(compiled(FLOAT32, FLOAT32_FLAGS)))
    except (OSError, UnicodeDecodeError, subprocess.SubprocessError):
        return None


def needs_gradient(*tensors: Tensor) -> bool:
    """Whether somebody will ask for the gradient of what is computed from these; our code has none."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def wanted() -> bool:
    """Whether C code may be compiled here: on Linux with an x86 processor, unless LMOPS_LAB_KERNEL is "off"."""
    x86 = platform.system() == "Linux" and platform.machine() in ("x86_64", "AMD64")
    return x86 and os.environ.get("LMOPS_LAB_KERNEL", "").lower() != "off"


def compiled(source: Path, flags: Sequence[str]) -> Path:
    """Path of a compiled source, made if it has not been compiled here before or its file was changed.

    OpenMP's functions are left open: they are found in the library that torch has loaded, whose threads it then shares.

    Raises:
        OSError, subprocess.SubprocessError: no compiler, or one that does not know a flag.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise FileNotFoundError("there is no C compiler (cc)")
    # A home folder may be shared by machines: what is built for one processor must not run on another.
    processor = sorted(torch.cpu.get_capabilities().items())
    what = f"{compiler} {' '.join(flags)} {processor}"
    name = hashlib.sha256(source.read_bytes() + what.encode()).hexdigest()[:16]
    path = cache_folder() / "kernels" / f"{source.stem}-{name}.so"
    seal = path.with_suffix(".sha256")
    if not (path.exists() and seal.exists() and seal.read_text(encoding="utf-8") == file_hash(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, in_folder=True) as temporary:
            half = str(temporary.with_suffix(".o"))
            _compile(compiler, "-fPIC", "-fopenmp", *flags, "-c", str(source), "-o", half)
            _compile(compiler, "-shared", half, "-o", str(temporary), "-lm")
        write_text(seal, file_hash(path))
    return path


def _compile(compiler: str, *arguments: str) -> None:
    subprocess.run([compiler, *arguments], check=True, capture_output=True, timeout=120)  # noqa: S603
