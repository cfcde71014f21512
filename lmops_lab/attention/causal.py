"""A kernel of our own for causal attention in float32 on x86 processors (`float32.c`): the own part of long rows.

torch's CPU kernel multiplies in small pieces there and computes much that lies above the diagonal; this one is 1.4
times as fast at 128 tokens and 1.7 times at 500, the length of a group (`benchmarks/kernel.py`).
"""

import ctypes
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from lmops_lab.attention.native import float32_library, needs_gradient
from lmops_lab.shapes import Heads, LogSumExp, Outputs, OwnKeys, OwnValues

# float32.c's arrays are that large.
LONGEST, WIDEST = 2048, 256
# Tokens of a row below which torch's kernel is as fast.
SHORTEST = 96

# Of query [B, H, T, D], key and value [B, K, T, D] and scale: the outputs [B, H, T, D] and log-sum-exps [B, H, T].
Kernel = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]


def fits(query: Heads, key: OwnKeys, value: OwnValues) -> bool:
    """Whether the kernel takes these: float32 on a CPU, one width, as many keys as queries, enough of both."""
    tokens, dim = query.shape[2:]
    return (
        query.dtype == key.dtype == value.dtype == torch.float32
        and query.device.type == "cpu"
        and value.shape[-1] == dim <= WIDEST
        and key.shape[2] == tokens
        and SHORTEST <= tokens <= LONGEST
        and not needs_gradient(query, key, value)
    )


@functools.cache
def kernel() -> Kernel | None:
    """The compiled kernel; None where no C compiler is at hand, or LMOPS_LAB_KERNEL is "off"."""
    library = float32_library()
    if library is None:
        return None
    library.lmops_causal.argtypes = [*(ctypes.c_void_p,) * 10, *(ctypes.c_long,) * 5, ctypes.c_float]
    library.lmops_causal.restype = None
    return functools.partial(_attend, library.lmops_causal, int(library.lmops_panel()))


def _attend(
    run: Callable[..., None], panel: int, query: Heads, key: OwnKeys, value: OwnValues, scale: float
) -> tuple[Outputs, LogSumExp]:
    query, key, value = (part if part.stride(-1) == 1 else part.contiguous() for part in (query, key, value))
    batch, heads, tokens, dim = query.shape
    kv_heads = key.shape[1]
    length, width = (-(-size // panel) * panel for size in (tokens, dim))
    keys, values = torch.empty(batch * kv_heads * length * dim), torch.empty(batch * kv_heads * length * width)
    # Laid out as the layer's next product reads it.
    out, lse = torch.empty(batch, tokens, heads, dim), torch.empty(batch, heads, tokens)
    steps = [(ctypes.c_long * 3)(*part.stride()[:3]) for part in (query, key, value)]
    run(
        *(query.data_ptr(), steps[0], key.data_ptr(), steps[1], value.data_ptr(), steps[2]),
        *(keys.data_ptr(), values.data_ptr(), out.data_ptr(), lse.data_ptr()),
        *(batch, heads, kv_heads, tokens, dim, scale),
    )
    return out.transpose(1, 2), lse
