"""The elementwise steps of Llama-like layers, each in one pass over its numbers on x86 processors (`fused.c`).

torch takes a pass over the memory for every operation: normalising, rotating and gating a layer's 1,024 tokens is
thirteen of them, a fifth of the time of encoding. The compiled steps stand in for a module's own while a call is active
(`call.py`) and no gradient is asked for; else, and where anything differs from what they know, the module computes what
it always did. Each kind of module is compared with its compiled step before that one is used.
"""

import ctypes
import functools
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lmops_lab.attention.call import AttentionCall, active, current
from lmops_lab.attention.native import compiled, wanted
from lmops_lab.shapes import Heads, OwnKeys

SOURCE = Path(__file__).with_name("fused.c")
# Without fast mathematics the compiler neither adds up in vectors nor takes the vector library's exponential.
FLAGS = ("-O3", "-march=native", "-ffast-math")
_LIBRARIES = ("-lmvec", "-lm")

_Forward = Callable[..., Tensor]
_Rotate = Callable[..., tuple[Tensor, Tensor]]


class Steps(NamedTuple):
    """The compiled functions for one dtype; all tensors in it, on the CPU.

    Attributes:
        rms_norm: of x [..., N], weight [N] and epsilon: w x / sqrt(mean(x^2) + epsilon), [..., N].
        rotate: of x [B, H, T, D] and cosines and sines [B or 1, T, D]: x at its rotary positions, [B, H, T, D].
        swiglu: of gate and up, of one shape: up * gate * sigmoid(gate).
    """

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor]
    swiglu: Callable[[Tensor, Tensor], Tensor]


def install(model: PreTrainedModel) -> None:
    """Let a model's modules use the compiled steps where these compute the same; the others stay as they are."""
    if model.device.type != "cpu" or steps(model.dtype) is None:
        return
    known: dict[type, bool] = {}
    for module in model.modules():
        kind = type(module)
        if "forward" in vars(module):  # somebody else's, or ours
            continue
        if hasattr(module, "variance_epsilon"):
            forward: _Forward = _norm_forward
            width = getattr(module, "weight", torch.empty(0)).numel()
        elif all(hasattr(module, name) for name in _GATED):
            forward, width = _gated_forward, getattr(module.gate_proj, "in_features", 0)
        else:
            continue
        if kind not in known:
            known[kind] = _forward_agrees(module, forward, width, model.dtype)
        if known[kind]:
            module.forward = types.MethodType(forward, module)
    for name in {type(module).__module__ for module in model.modules()}:
        _rotate_faster(sys.modules[name], model.dtype)


def steps_for(*tensors: Tensor) -> Steps | None:
    """The compiled steps for these tensors, if they may stand in now: in a call, on the CPU, without a gradient."""
    first = tensors[0]
    if current() is None or torch.is_grad_enabled():
        return None
    if any(t.device.type != "cpu" or t.dtype != first.dtype for t in tensors) or not first.numel():
        return None
    return steps(first.dtype)


@functools.cache
def steps(dtype: torch.dtype) -> Steps | None:
    """The compiled steps of a dtype.

    None for other dtypes than float32 and bfloat16, where no C compiler is at hand, or LMOPS_LAB_KERNEL is "off".
    """
    if dtype not in (torch.float32, torch.bfloat16) or not wanted():
        return None
    flags = FLAGS if dtype == torch.float32 else (*FLAGS, "-DBFLOAT16")
    pointer, whole = ctypes.c_void_p, ctypes.c_long
    try:
        library = ctypes.CDLL(str(compiled(SOURCE, flags, _LIBRARIES)))
        library.lmops_rms_norm.argtypes = [*(pointer,) * 3, whole, whole, ctypes.c_float]
        library.lmops_rotate.argtypes = [pointer, *(whole,) * 3, *(pointer,) * 3, *(whole,) * 4, ctypes.c_int]
        library.lmops_swiglu.argtypes = [*(pointer,) * 3, whole]
        library.lmops_rms_norm.restype = library.lmops_rotate.restype = library.lmops_swiglu.restype = None
    except (OSError, AttributeError, UnicodeDecodeError, subprocess.SubprocessError):
        return None
    found = Steps(
        functools.partial(_rms_norm, library.lmops_rms_norm),
        functools.partial(_rotate, library.lmops_rotate),
        functools.partial(_swiglu, library.lmops_swiglu),
    )
    return found if _steps_agree(found, dtype) else None


def _steps_agree(found: Steps, dtype: torch.dtype) -> bool:
    generator = torch.Generator().manual_seed(0)
    x, other = (torch.randn(2, 3, 5, 40, generator=generator).to(dtype) for _ in range(2))
    cosine, sine, weight = other[0, 0, :, :].unsqueeze(0), other[0, 1, :, :].unsqueeze(0), other[0, 2, 0]
    a, b, c, s, w = (part.double() for part in (x, other, cosine, sine, weight))
    turned = torch.cat([-a[..., 20:], a[..., :20]], -1)
    return all(
        _alike(fast, slow, dtype)
        for fast, slow in (
            (found.rms_norm(x, weight, 0.1), w * a / (a.square().mean(-1, keepdim=True) + 0.1).sqrt()),
            (found.rotate(x, cosine, sine), a * c + turned * s),
            (found.swiglu(x, other), torch.nn.functional.silu(a) * b),
        )
    )


def _alike(fast: Tensor, slow: Tensor, dtype: torch.dtype) -> bool:
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    return fast.shape == slow.shape and torch.allclose(fast.double(), slow.double(), rtol=tolerance, atol=tolerance)


def _rms_norm(run: Callable[..., None], x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    x, weight = x.contiguous(), weight.contiguous()
    out = torch.empty_like(x)
    width = x.shape[-1]
    run(x.data_ptr(), weight.data_ptr(), out.data_ptr(), x.numel() // width, width, epsilon)
    return out


def _rotate(run: Callable[..., None], x: Heads, cosine: Tensor, sine: Tensor) -> Heads:
    x = x if x.stride(-1) == 1 else x.contiguous()
    cosine, sine = cosine.contiguous(), sine.contiguous()
    batch, heads, tokens, dim = x.shape
    out = torch.empty(batch, tokens, heads, dim, dtype=x.dtype)
    run(
        *(x.data_ptr(), x.stride(0), x.stride(2), x.stride(1)),
        *(cosine.data_ptr(), sine.data_ptr(), out.data_ptr()),
        *(batch, tokens, heads, dim, int(len(cosine) == 1)),
    )
    return out.transpose(1, 2)


def _swiglu(run: Callable[..., None], gate: Tensor, up: Tensor) -> Tensor:
    gate, up = gate.contiguous(), up.contiguous()
    out = torch.empty_like(gate)
    run(gate.data_ptr(), up.data_ptr(), out.data_ptr(), gate.numel())
    return out


def _norm_forward(self: Any, hidden_states: Tensor) -> Tensor:
    found = steps_for(hidden_states, self.weight)
    if found is None:
        return type(self).forward(self, hidden_states)
    return found.rms_norm(hidden_states, self.weight, self.variance_epsilon)


_GATED = ("gate_proj", "up_proj", "down_proj", "act_fn")


def _gated_forward(self: Any, x: Tensor) -> Tensor:
    if not isinstance(self.act_fn, nn.SiLU) or steps_for(x) is None:
        return type(self).forward(self, x)
    gate, up = self.gate_proj(x), self.up_proj(x)
    found = steps_for(gate, up)
    return self.down_proj(self.act_fn(gate) * up if found is None else found.swiglu(gate, up))


def _forward_agrees(module: nn.Module, forward: _Forward, width: int, dtype: torch.dtype) -> bool:
    """Whether a module's own forward computes the same: others of these names have a bias, another activation, ..."""
    x = torch.randn(3, width, generator=torch.Generator().manual_seed(0)).to(dtype) + 0.5
    with torch.inference_mode(), active(AttentionCall()):
        try:
            return _alike(forward(module, x), type(module).forward(module, x), dtype)
        except (RuntimeError, TypeError):
            return False


def _rotate_faster(code: Any, dtype: torch.dtype) -> None:
    """Let the modules of a Python module, which share one rotary function, try the compiled one first."""
    stock = getattr(code, "apply_rotary_pos_emb", None)
    if stock is None or hasattr(stock, "lmops_stock") or not _rotation_agrees(stock, dtype):
        return

    @functools.wraps(stock)
    def apply_rotary_pos_emb(
        q: Heads, k: OwnKeys, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Heads, OwnKeys]:
        found = None if args or kwargs else steps_for(q, k, cos, sin)
        if found is None or cos.ndim != 3 or cos.shape[-1] != q.shape[-1] or len(cos) not in (1, len(q)):
            return stock(q, k, cos, sin, *args, **kwargs)
        return found.rotate(q, cos, sin), found.rotate(k, cos, sin)

    vars(apply_rotary_pos_emb)["lmops_stock"] = stock
    code.apply_rotary_pos_emb = apply_rotary_pos_emb


def _rotation_agrees(stock: _Rotate, dtype: torch.dtype) -> bool:
    found = steps(dtype)
    generator = torch.Generator().manual_seed(0)
    query, key, cosine, sine = (
        torch.randn(shape, generator=generator).to(dtype)
        for shape in ((2, 4, 5, 16), (2, 2, 5, 16), (2, 5, 16), (2, 5, 16))
    )
    try:
        slow = stock(query, key, cosine, sine)
    except (RuntimeError, TypeError):
        return False
    return found is not None and all(
        _alike(found.rotate(x, cosine, sine), right, dtype) for x, right in zip((query, key), slow, strict=True)
    )
