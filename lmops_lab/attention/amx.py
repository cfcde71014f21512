"""A kernel of our own for many queries and one set of keys, on x86 processors with AMX (`amx.c`).

torch's CPU kernel spends most of its time on exponentials there: matrix products in bfloat16 are several times faster
than what it does around them. This one is 1.4 to 2 times as fast (`benchmarks/kernel.py`). It is compiled once by the
machine's own C compiler (a second), kept in the cache folder, and tried against the plain formula before use. Where
any of that fails, torch's kernel does the work.
"""

import ctypes
import functools
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lmops_lab.attention.native import compiled, needs_gradient, wanted

SOURCE = Path(__file__).with_name("amx.c")
FEATURES = ("avx512_f", "avx512_vl", "avx512_bf16", "amx_tile", "amx_bf16")

# amx.c's arrays are that wide; a tile of it takes 32 numbers of a row.
WIDEST, TILE = 256, 32
# Rows (queries x heads) below which packing them costs more than it gains.
FEWEST_ROWS = 64

FLAGS = (
    *("-O3", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16"),
    *("-mamx-tile", "-mamx-bf16"),
)

Part = tuple[Tensor, Tensor]


class Kernel(NamedTuple):
    """The compiled functions.

    Attributes:
        attend: of query [B, H, T, D], key [K, C, D], value [K, C, D], scale and the tokens of each row that are no
            padding (None: all): the outputs [B, H, T, D] in bfloat16, and the log-sum-exps [B, H, T] in nats, float32.
        merge: of two such results and the log of the right one's weight: those of the union of their keys.
    """

    attend: Callable[..., Part]
    merge: Callable[[Part, Part, float], Part]


def fits(query: Tensor, key: Tensor, value: Tensor, scale: float) -> bool:
    """Whether the kernel takes these: bfloat16 on a CPU, one width of whole tiles, and enough rows to pay.

    Shapes: query [B, H, T, D]; key, value [K, C, D].
    """
    batch, heads, tokens, dim = query.shape
    return (
        query.dtype == key.dtype == value.dtype == torch.bfloat16
        and query.device.type == "cpu"
        and value.shape[-1] == dim
        and dim % TILE == 0
        and dim <= WIDEST
        and batch * tokens * (heads // len(key)) >= FEWEST_ROWS
        and query.numel() < 2**29  # rows are found by 32-bit numbers, and may lie apart
        and key.shape[1] > 0
        and scale > 0
        and not needs_gradient(query, key, value)
    )


def can_merge(left: Part, right: Part) -> bool:
    """Whether the kernel takes these two: bfloat16 on a CPU, with float32 log-sum-exps, as wide as whole vectors."""
    (out, lse), (other, other_lse) = left, right
    return (
        out.dtype == other.dtype == torch.bfloat16
        and lse.dtype == other_lse.dtype == torch.float32
        and out.device.type == "cpu"
        and out.shape == other.shape
        and lse.shape == other_lse.shape
        and out.shape[-1] % 16 == 0
        and not needs_gradient(out, other, lse, other_lse)
    )


@functools.cache
def kernel() -> Kernel | None:
    """The compiled kernel.

    None where the processor has no AMX, no C compiler is at hand, or LMOPS_LAB_KERNEL is "off".
    """
    known = torch.cpu.get_capabilities()
    if not wanted() or not all(known.get(name) for name in FEATURES):
        return None
    try:
        library = ctypes.CDLL(str(compiled(SOURCE, FLAGS)))
        library.lmops_attend.argtypes = [
            *(ctypes.c_void_p, ctypes.c_void_p),
            *(ctypes.c_void_p, ctypes.c_long, ctypes.c_long),
            *(ctypes.c_void_p, ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_long),
            *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p),
            *(ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_float),
        ]
        library.lmops_merge.argtypes = [
            *(ctypes.c_void_p,) * 7,
            *(ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_float),
        ]
        library.lmops_attend.restype = library.lmops_merge.restype = None
        if library.lmops_permit() != 0:
            return None
    except (OSError, AttributeError, UnicodeDecodeError, subprocess.SubprocessError):
        return None
    return Kernel(functools.partial(_attend, library.lmops_attend), functools.partial(_merge, library.lmops_merge))


def _attend(
    run: Callable[..., None],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    lengths: tuple[int, ...] | None = None,
) -> Part:
    batch, heads, tokens, dim = query.shape
    kv_heads, keys, _ = key.shape
    if query.stride(-1) != 1 or any(step % 2 for step in query.stride()[:-1]) or query.storage_offset() % 2:
        query = query.contiguous()  # the kernel reads pairs of numbers
    key, value = (part if part.stride(-1) == 1 else part.contiguous() for part in (key, value))
    # An odd number of tiles a row keeps the rows of a tile out of each other's way in the cache.
    turned = torch.empty(kv_heads, dim, (-(-keys // TILE) | 1) * TILE, dtype=value.dtype)
    all_rows = lengths is None or min(lengths) == tokens
    out = torch.empty(batch, heads, tokens, dim, dtype=query.dtype)
    lse = torch.empty(batch, heads, tokens)
    if not all_rows:
        out.zero_()
        lse.fill_(-torch.inf)
    steps = tuple(step // 2 for step in query.stride()[:-1])
    begins, places = _rows(query.shape, steps, kv_heads, None if all_rows else lengths)
    run(
        *(query.data_ptr(), begins.data_ptr()),
        *(key.data_ptr(), key.stride(1), key.stride(0)),
        *(value.data_ptr(), value.stride(1), value.stride(0), turned.data_ptr(), turned.shape[-1]),
        *(out.data_ptr(), lse.data_ptr(), places.data_ptr()),
        *(kv_heads, begins.shape[1], keys, dim, scale),
    )
    return out, lse


def _merge(run: Callable[..., None], left: Part, right: Part, log_weight: float) -> Part:
    outs = [part[0] if part[0].stride(-1) == 1 else part[0].contiguous() for part in (left, right)]
    lses = [part[1].contiguous() for part in (left, right)]
    batch, heads, tokens, dim = outs[0].shape
    # Laid out as the layer's next product reads it.
    out = torch.empty(batch, tokens, heads, dim, dtype=outs[0].dtype).transpose(1, 2)
    lse = torch.empty(batch, heads, tokens)
    strides = torch.tensor([part.stride()[:3] for part in (*outs, out)])
    run(
        *(outs[0].data_ptr(), lses[0].data_ptr(), outs[1].data_ptr(), lses[1].data_ptr()),
        *(out.data_ptr(), lse.data_ptr(), strides.data_ptr(), batch, heads, tokens, dim, log_weight),
    )
    return out, lse


@functools.lru_cache(maxsize=16)
def _rows(
    shape: torch.Size, steps: tuple[int, ...], kv_heads: int, lengths: tuple[int, ...] | None
) -> tuple[Tensor, Tensor]:
    """Where each key/value head's rows begin in the query (pairs of numbers) and which rows of the output they are.

    Both int32 [K, R], R = G * N, N = B * T or the sum of `lengths`, filled up with the last row to a multiple of 32.
    """
    batch, heads, tokens, _ = shape
    b, h, t = (torch.arange(n) for n in (batch, heads, tokens))
    begins = b[:, None, None] * steps[0] + h[:, None] * steps[1] + t * steps[2]  # [B, H, T]
    both = []
    for numbers in (begins, torch.arange(batch * heads * tokens).reshape(batch, heads, tokens)):
        folded = numbers.reshape(batch, kv_heads, -1, tokens).permute(1, 2, 0, 3)  # [K, G, B, T]
        if lengths is not None:
            folded = folded[:, :, torch.arange(tokens) < torch.tensor(lengths)[:, None]]  # [K, G, N]
        folded = folded.reshape(kv_heads, -1)
        rest = folded[:, -1:].expand(-1, -folded.shape[1] % 32)
        both.append(torch.cat([folded, rest], 1).to(torch.int32).contiguous())
    return both[0], both[1]
