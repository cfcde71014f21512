"""What this machine does well: the device, the number format and the allocator settings that suit it."""

import ctypes
import functools
import platform
from dataclasses import dataclass

import torch

# glibc's mallopt parameters (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass(frozen=True)
class NumberFormat:
    """A dtype together with the reason it was chosen."""

    dtype: torch.dtype
    reason: str


def choose_device(requested: str = "auto") -> torch.device:
    """The device to compute on: CUDA where there is one, otherwise the CPU.

    Raises:
        ValueError: `requested` names a device that torch does not know or cannot use here.
    """
    if requested == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(requested)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {requested!r} cannot be used here ({error}); use device='auto' or 'cpu'") from error
    return device


def choose_dtype(requested: str, device: torch.device) -> NumberFormat:
    """The number format to compute in: bfloat16 only where the processor multiplies it natively.

    On a CPU without AVX512-BF16 or AMX, bfloat16 matrix products are emulated and about eight times slower than
    float32, so `auto` never picks them blindly.

    Raises:
        ValueError: `requested` is not `auto` or one of `DTYPES`.
    """
    if requested != "auto":
        if requested not in DTYPES:
            raise ValueError(f"dtype {requested!r} is unknown; choose one of auto, {', '.join(DTYPES)}")
        return NumberFormat(DTYPES[requested], "asked for")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported():
            return NumberFormat(torch.bfloat16, "CUDA device with bfloat16")
        return NumberFormat(torch.float16, "CUDA device without bfloat16")
    if device.type == "cpu":
        features = torch.cpu.get_capabilities()
        native = [name for name in ("avx512_bf16", "amx_bf16") if features.get(name)]
        if native:
            return NumberFormat(torch.bfloat16, f"the processor has {' and '.join(native)}")
        return NumberFormat(torch.float32, "the processor has neither AVX512-BF16 nor AMX")
    return NumberFormat(torch.float32, f"{device.type} device")


@functools.cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep freed activations for the next layer instead of returning them to the system.

    Each layer frees and asks again for the same megabytes. By default glibc hands them back and the kernel zeroes fresh
    pages for every layer: 5-10 % of the encoding time. The memory is reused, not leaked; the process keeps its peak
    size until it ends.

    Returns:
        Whether the setting was made (False on other C libraries, where nothing changes).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mebibytes_512 = 512 * 2**20
    return bool(mallopt(_M_TRIM_THRESHOLD, 2 * mebibytes_512) and mallopt(_M_MMAP_THRESHOLD, mebibytes_512))
