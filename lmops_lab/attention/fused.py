"""The elementwise steps of Llama-like layers, each in one pass over its numbers, in float32 on x86 (`float32.c`).

torch takes a pass over the memory for every operation: normalising, rotating and gating a layer's tokens is thirteen of
them. The compiled steps stand in for a module's own while a call is active (`call.py`) and no gradient is asked for;
else, and where anything differs from what they know, the module computes what it always did. Each kind of module is
compared with its compiled step before that one is used. Rotary positions are a function that all layers of a model's
file share, so that one is exchanged in the file's module; the stock function is kept in its `lmops_stock`.

Not in bfloat16: there a module rounds after every operation, a compiled step would round once, and a label's
probability would no longer be what the untouched model says of the same prompt.
"""

import ctypes
import functools
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lmops_lab.attention.call import AttentionCall, active, current
from lmops_lab.attention.native import float32_library
from lmops_lab.shapes import Heads, OwnKeys

_Forward = Callable[..., Tensor]
_Rotate = Callable[..., tuple[Tensor, Tensor]]


class Steps(NamedTuple):
    """The compiled functions; all tensors float32, on the CPU.

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
    if model.device.type != "cpu" or model.dtype != torch.float32 or steps() is None:
        return
    known: dict[tuple[type, type], bool] = {}
    for module in model.modules():
        kind = type(module), type(getattr(module, "act_fn", None))
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
            known[kind] = _forward_agrees(module, forward, width)
        if known[kind]:
            module.forward = types.MethodType(forward, module)
    for name in {type(module).__module__ for module in model.modules()}:
        _rotate_faster(sys.modules[name])


def steps_for(*tensors: Tensor) -> Steps | None:
    """The compiled steps for these tensors, if they may stand in now: in a call, on the CPU, without a gradient."""
    if current() is None or torch.is_grad_enabled():
        return None
    if any(t.device.type != "cpu" or t.dtype != torch.float32 for t in tensors) or not tensors[0].numel():
        return None
    return steps()


@functools.cache
def steps() -> Steps | None:
    """The compiled steps.

    None where there is no compiled library (`native.py`), or it does not compute what it should.
    """
    library = float32_library()
    if library is None:
        return None
    pointer, whole = ctypes.c_void_p, ctypes.c_long
    library.lmops_rms_norm.argtypes = [*(pointer,) * 3, whole, whole, ctypes.c_float]
    library.lmops_rotate.argtypes = [pointer, *(whole,) * 3, *(pointer,) * 3, *(whole,) * 4, ctypes.c_int]
    library.lmops_swiglu.argtypes = [*(pointer,) * 3, whole]
    library.lmops_rms_norm.restype = library.lmops_rotate.restype = library.lmops_swiglu.restype = None
    found = Steps(
        functools.partial(_rms_norm, library.lmops_rms_norm),
        functools.partial(_rotate, library.lmops_rotate),
        functools.partial(_swiglu, library.lmops_swiglu),
    )
    return found if _steps_agree(found) else None


def _steps_agree(found: Steps) -> bool:
    generator = torch.Generator().manual_seed(0)
    x, other = (torch.randn(2, 3, 5, 40, generator=generator) for _ in range(2))
    cosine, sine, weight = other[0, :1], other[0, 1:2], other[0, 2, 0]
    turned = torch.cat([-x[..., 20:], x[..., :20]], -1)
    return all(
        _alike(fast, slow)
        for fast, slow in (
            (found.rms_norm(x, weight, 0.1), weight * x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt()),
            (found.rotate(x, cosine, sine), x * cosine + turned * sine),
            (found.swiglu(x, other), torch.nn.functional.silu(x) * other),
        )
    )


def _alike(fast: Tensor, slow: Tensor) -> bool:
    return fast.shape == slow.shape and torch.allclose(fast, slow, rtol=1e-5, atol=1e-5)


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
    if found is None or self.weight.shape != hidden_states.shape[-1:]:
        return type(self).forward(self, hidden_states)
    return found.rms_norm(hidden_states, self.weight, self.variance_epsilon)


_GATED = ("gate_proj", "up_proj", "down_proj", "act_fn")


def _gated_forward(self: Any, x: Tensor) -> Tensor:
    if steps_for(x) is None:
        return type(self).forward(self, x)
    gate, up = self.gate_proj(x), self.up_proj(x)
    found = steps_for(gate, up) if gate.shape == up.shape else None
    return self.down_proj(self.act_fn(gate) * up if found is None else found.swiglu(gate, up))


def _forward_agrees(module: nn.Module, forward: _Forward, width: int) -> bool:
    """Whether a module's own forward computes the same: others of these names have a bias, another activation, ..."""
    x = torch.randn(3, width, generator=torch.Generator().manual_seed(0)) + 0.5
    with torch.inference_mode(), active(AttentionCall()):
        try:
            return _alike(forward(module, x), type(module).forward(module, x))
        except Exception:  # noqa: BLE001 whatever a module of other inputs raises, it is not the one we know
            return False


def _rotate_faster(code: Any) -> None:
    """Let the modules of a Python module, which share one rotary function, try the compiled one first."""
    stock = getattr(code, "apply_rotary_pos_emb", None)
    if stock is None or hasattr(stock, "lmops_stock") or not _rotation_agrees(stock):
        return

    @functools.wraps(stock)
    def apply_rotary_pos_emb(
        q: Heads, k: OwnKeys, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Heads, OwnKeys]:
        found = steps_for(q, k, cos, sin) if not (args or kwargs) and _can_rotate(q, k, cos, sin) else None
        if found is None:
            return stock(q, k, cos, sin, *args, **kwargs)
        return found.rotate(q, cos, sin), found.rotate(k, cos, sin)

    vars(apply_rotary_pos_emb)["lmops_stock"] = stock
    code.apply_rotary_pos_emb = apply_rotary_pos_emb


def _can_rotate(query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor) -> bool:
    """Whether the shapes are those of whole heads, [B, H or K, T, D], and of their positions, [B or 1, T, D]."""
    if query.ndim != 4 or key.ndim != 4 or cosine.ndim != 3:
        return False
    batch, _, tokens, dim = query.shape
    return (
        (len(key), *key.shape[2:]) == (batch, tokens, dim)
        and cosine.shape == sine.shape
        and cosine.shape[1:] == (tokens, dim)
        and len(cosine) in (1, batch)
        and dim % 2 == 0
    )


def _rotation_agrees(stock: _Rotate) -> bool:
    found = steps()
    generator = torch.Generator().manual_seed(0)
    query, key, cosine, sine = (
        torch.randn(shape, generator=generator) for shape in ((2, 4, 5, 16), (2, 2, 5, 16), (2, 5, 16), (2, 5, 16))
    )
    try:
        slow = stock(query, key, cosine, sine)
        return found is not None and all(
            _alike(found.rotate(x, cosine, sine), right) for x, right in zip((query, key), slow, strict=True)
        )
    except Exception:  # noqa: BLE001 a function of another signature is not the one we know
        return False
