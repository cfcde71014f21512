"""Attention over a part of the keys, and the exact merge of such parts.

Structured prompting (Hao et al. 2022, arXiv 2212.06713) lets a query attend to M groups of demonstrations that were
encoded apart, and weighs the query's own M-fold:

    Z_i  = sum_p exp(s_ip) + M * sum_{j<=i} exp(s_ij)        p: keys of the groups, j: the query's own keys
    a_ip = exp(s_ip) / Z_i           a_ij = M * exp(s_ij) / Z_i

With `lse = log sum exp(s)` of each part this is two ordinary attentions, merged by their log-sum-exp after adding log M
to the own part's. Nothing else in this package computes attention.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lmops_lab.attention import amx
from lmops_lab.attention import causal as causal_kernel
from lmops_lab.shapes import ContextKeys, ContextValues, Heads, LogSumExp, Outputs, OwnKeys, OwnMask, OwnValues

Part = tuple[Outputs, LogSumExp]

# Keys that the plain fallback scores at once: 512 rows of 4096 float32 scores are 8 MiB a head.
_FALLBACK_KEYS = 4096

# Own tokens above which causal attention goes in blocks on a CPU (20 % faster at 500 tokens), and up to which it pays.
_BLOCK, _LONGEST_IN_BLOCKS = 192, 2048


def merge_parts(left: Part, right: Part, log_weight: float = 0.0) -> Part:
    """Attention over the union of two disjoint sets of keys, the right set's exponentials scaled by exp(log_weight).

    Exact for any weight > 0: `out = sum_r Z_r out_r / sum_r Z_r` with `Z = exp(lse)`. Works in the dtype of the
    log-sum-exps (float32 or float64) and returns the outputs in their own dtype.

    Shapes: outputs [B, H, T, D], log-sum-exps [B, H, T] (nats).
    """
    if amx.can_merge(left, right):
        fast = _amx_that_works()
        if fast is not None:
            return fast.merge(left, right, log_weight)
    return _merge_plainly(left, right, log_weight)


def _merge_plainly(left: Part, right: Part, log_weight: float) -> Part:
    (left_out, left_lse), (right_out, right_lse) = left, right
    right_lse = right_lse + log_weight
    lse = torch.logaddexp(left_lse, right_lse)
    share = torch.exp(right_lse - lse).unsqueeze(-1)  # [B, H, T, 1] attention mass of the right part
    out = torch.lerp(left_out.to(share.dtype), right_out.to(share.dtype), share)
    return out.to(left_out.dtype), lse


def attend(
    query: Heads,
    key: OwnKeys,
    value: OwnValues,
    *,
    scale: float,
    causal: bool = False,
    mask: OwnMask | None = None,
    softcap: float | None = None,
) -> Part:
    """Softmax attention over these keys alone, with the log-sum-exp of its scores.

    Args:
        query: [B, H, T, D]
        key, value: [B, K, keys, D]; H must be a multiple of K (grouped-query attention, keys are never repeated).
            Values of another width than the keys take the plain formula, too: the kernels want one width for both.
        scale: factor on the dot products, usually 1 / sqrt(D).
        causal: row i sees keys 0..i; needs as many keys as queries.
        mask: additive [B or 1, 1, T, keys], instead of `causal`.
        softcap: bound of the scores, `softcap * tanh(score / softcap)` (Gemma 2); no kernel offers it with a
            log-sum-exp, so it takes the plain formula.

    Returns:
        out [B, H, T, D] in the query's dtype; lse [B, H, T] in nats, float32 (float64 for float64 inputs).
    """
    fused = softcap is None and query.shape[-1] == value.shape[-1]
    if fused and causal and causal_kernel.fits(query, key, value):
        fast = _causal_that_works()
        if fast is not None:
            return fast(query, key, value, scale)
    if fused and query.device.type == "cpu" and _flash_for_cpu_works(query.dtype):
        if causal and _BLOCK < query.shape[2] <= _LONGEST_IN_BLOCKS:
            return _attend_causal_blocks(query, key, value, scale)
        additive = None if mask is None else mask.to(query.dtype)
        return _flash_for_cpu(query, key, value, scale=scale, causal=causal, mask=additive)
    if fused and mask is None and query.device.type == "cuda" and _flash_on_cuda_works(query.dtype):
        return _flash_on_cuda(query, key, value, scale=scale, causal=causal)
    return attend_plainly(query, key, value, scale=scale, causal=causal, mask=mask, softcap=softcap)


def attend_shared(
    query: Heads,
    key: ContextKeys,
    value: ContextValues,
    *,
    scale: float,
    softcap: float | None = None,
    lengths: tuple[int, ...] | None = None,
) -> Part:
    """Attention of a whole batch to one set of keys, read once for all rows and query heads.

    The rows and the G = H / K heads that share a key/value head are folded into the query length, so neither the batch
    nor grouped-query attention ever copies a key.

    Shapes: query [B, H, T, D]; key, value [K, C, D]; returns out [B, H, T, D], lse [B, H, T]. The D of value and out
    may differ from that of query and key.

    Args:
        lengths: tokens of each row that are no padding [B]; what stands behind them sees nothing, which costs nothing:
            out 0, lse -inf.
    """
    if softcap is None and amx.fits(query, key, value, scale):
        fast = _amx_that_works()
        if fast is not None:
            return fast.attend(query, key, value, scale, lengths)
    if lengths is not None and min(lengths) < query.shape[2]:
        return _attend_shared_unpadded(query, key, value, lengths, scale=scale, softcap=softcap)
    batch, heads, tokens, dim = query.shape
    kv_heads, _, value_dim = value.shape
    per_kv = heads // kv_heads
    folded = query.reshape(batch, kv_heads, per_kv, tokens, dim).permute(1, 2, 0, 3, 4)  # [K, G, B, T, D]
    folded = folded.reshape(1, kv_heads, per_kv * batch * tokens, dim)  # [1, K, G*B*T, D]
    out, lse = attend(folded, key.unsqueeze(0), value.unsqueeze(0), scale=scale, softcap=softcap)
    out = out.reshape(kv_heads, per_kv, batch, tokens, value_dim).permute(2, 0, 1, 3, 4)  # [B, K, G, T, D]
    lse = lse.reshape(kv_heads, per_kv, batch, tokens).permute(2, 0, 1, 3)  # [B, K, G, T]
    return out.reshape(batch, heads, tokens, value_dim), lse.reshape(batch, heads, tokens)


def _attend_shared_unpadded(
    query: Heads,
    key: ContextKeys,
    value: ContextValues,
    lengths: tuple[int, ...],
    *,
    scale: float,
    softcap: float | None,
) -> Part:
    """The tokens that are no padding, as one long row."""
    batch, heads, tokens, _ = query.shape
    real = (torch.arange(tokens) < torch.tensor(lengths)[:, None]).to(query.device)  # [B, T]
    row = query.transpose(1, 2)[real].transpose(0, 1)[None]  # [1, H, N, D]
    some, some_lse = attend_shared(row, key, value, scale=scale, softcap=softcap)
    out = some.new_zeros(batch, tokens, heads, value.shape[-1])
    lse = some_lse.new_full((batch, tokens, heads), -torch.inf)
    out[real], lse[real] = some[0].transpose(0, 1), some_lse[0].transpose(0, 1)
    return out.transpose(1, 2), lse.transpose(1, 2)


def attend_sinks(like: Heads, sinks: Tensor) -> Part:
    """Attention sinks as a part: one learned logit [H] a head whose value is zero, so that it only takes mass away.

    Shapes: like [B, H, T, D] gives the sizes; returns out [B, H, T, D] of zeros, lse [B, H, T].
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    return torch.zeros_like(like), sinks.to(wide)[None, :, None].expand(like.shape[:3])


def _attend_causal_blocks(query: Heads, key: OwnKeys, value: OwnValues, scale: float) -> Part:
    """Causal attention as full attention to all earlier blocks, merged with causal attention inside each block.

    The CPU kernel computes whole tiles on the diagonal and throws half away; smaller diagonal blocks throw away less.
    """
    tokens = query.shape[2]
    outs, lses = [], []
    for start in range(0, tokens, _BLOCK):
        rows = slice(start, min(start + _BLOCK, tokens))
        block = query[:, :, rows]
        part = _flash_for_cpu(block, key[:, :, rows], value[:, :, rows], scale=scale, causal=True)
        if start:
            before = _flash_for_cpu(block, key[:, :, :start], value[:, :, :start], scale=scale)
            part = merge_parts(before, part)
        outs.append(part[0])
        lses.append(part[1])
    return torch.cat(outs, dim=2), torch.cat(lses, dim=2)


def _flash_for_cpu(
    query: Heads, key: OwnKeys, value: OwnValues, *, scale: float, causal: bool = False, mask: OwnMask | None = None
) -> Part:
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, attn_mask=mask, scale=scale
    )
    return out, lse


def attend_plainly(
    query: Heads,
    key: OwnKeys,
    value: OwnValues,
    *,
    scale: float,
    causal: bool = False,
    mask: OwnMask | None = None,
    softcap: float | None = None,
) -> Part:
    """`attend` from matrix products and logsumexp alone: the fallback on every device, and the tests' reference."""
    heads_per_kv = query.shape[1] // key.shape[1]
    tokens, keys = query.shape[2], key.shape[2]
    wide = torch.promote_types(query.dtype, torch.float32)
    key, value = (part.repeat_interleave(heads_per_kv, dim=1).to(wide) for part in (key, value))  # [B, H, keys, D]
    if causal:
        mask = causal_mask(tokens, keys, dtype=wide, device=query.device)
    merged: Part | None = None
    for start in range(0, keys, _FALLBACK_KEYS):
        block = slice(start, start + _FALLBACK_KEYS)
        scores = query.to(wide) @ key[:, :, block].transpose(-1, -2) * scale  # [B, H, T, block]
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if mask is not None:
            scores = scores + mask[..., block].to(wide)
        lse = torch.logsumexp(scores, dim=-1)
        # A block that a row may not see at all has lse -inf; its output is never used, so any finite value will do.
        weights = torch.exp(scores - lse.clamp_min(torch.finfo(wide).min).unsqueeze(-1))
        part = (weights @ value[:, :, block], lse)
        merged = part if merged is None else merge_parts(merged, part)
    if merged is None:
        raise ValueError("attention needs at least one key, got 0")
    out, lse = merged
    return out.to(query.dtype), lse


def causal_mask(tokens: int, keys: int, *, dtype: torch.dtype, device: torch.device | str) -> OwnMask:
    """Additive mask [1, 1, tokens, keys] in which the last row sees every key and each earlier row one key less."""
    hidden = torch.ones(tokens, keys, dtype=torch.bool, device=device).triu(1 + keys - tokens)
    return torch.zeros(1, 1, tokens, keys, dtype=dtype, device=device).masked_fill(hidden, -math.inf)


def _flash_on_cuda(query: Heads, key: OwnKeys, value: OwnValues, *, scale: float, causal: bool = False) -> Part:
    """Flash attention in half precision, memory-efficient attention in float32; neither takes grouped queries."""
    tokens, per_kv = query.shape[2], query.shape[1] // key.shape[1]
    if per_kv > 1:  # only the short own part comes here ungrouped: shared keys arrive folded
        key, value = key.repeat_interleave(per_kv, dim=1), value.repeat_interleave(per_kv, dim=1)
    if query.dtype == torch.float32:
        out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, causal, scale=scale
        )
    else:
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, causal, False, scale=scale
        )
    return out, lse[:, :, :tokens].float()  # the log-sum-exp may be padded to a multiple of the tile


@functools.cache
def _flash_for_cpu_works(dtype: torch.dtype) -> bool:
    """Whether torch's CPU flash kernel exists here and agrees with the plain formula.

    The kernels are private to torch (they alone return the log-sum-exp), so each is tried once per dtype before use.
    """
    if dtype not in (torch.float32, torch.float64, torch.bfloat16):
        return False
    return _agrees(_flash_for_cpu, dtype, ("causal", "all", "mask"))


@functools.cache
def _flash_on_cuda_works(dtype: torch.dtype) -> bool:
    """Whether torch's fused CUDA kernel exists here and agrees with the plain formula."""
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return False
    return _agrees(_flash_on_cuda, dtype, ("causal", "all"), "cuda")


@functools.cache
def _amx_that_works() -> amx.Kernel | None:
    """Our own kernel for shared keys, if there is one here and it agrees with the plain formula."""
    kernel = amx.kernel()
    if kernel is None:
        return None
    generator = torch.Generator().manual_seed(0)
    for tokens, keys, dim in ((35, 300, 64), (16, 33, 128), (48, 1, 32)):
        shapes = ((2, 4, tokens, dim), (2, keys, dim), (2, keys, dim))
        query, key, value = (torch.randn(shape, generator=generator).to(torch.bfloat16) for shape in shapes)
        fast = kernel.attend(query, key, value, 0.25)
        slow = attend_plainly(query, key[None].expand(2, -1, -1, -1), value[None].expand(2, -1, -1, -1), scale=0.25)
        if not all(torch.allclose(f.float(), s.float(), atol=2e-2) for f, s in zip(fast, slow, strict=True)):
            return None
        other = (slow[0].flip(2), slow[1].flip(2) + 1)
        merged, plainly = kernel.merge(slow, other, -0.5), _merge_plainly(slow, other, -0.5)
        if not all(torch.allclose(f.float(), s.float(), atol=2e-2) for f, s in zip(merged, plainly, strict=True)):
            return None
    return kernel


@functools.cache
def _causal_that_works() -> causal_kernel.Kernel | None:
    """Our own kernel for causal attention, if there is one here and it agrees with the plain formula."""
    kernel = causal_kernel.kernel()
    if kernel is None or not _agrees(lambda q, k, v, *, scale, **_: kernel(q, k, v, scale), torch.float32, ("causal",)):
        return None
    return kernel


def _agrees(kernel: Callable[..., Part], dtype: torch.dtype, kinds: Sequence[str], device: str = "cpu") -> bool:
    """Whether a kernel computes the plain formula: "causal", over "all" keys, or under a "mask"."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, n, 40, 16, generator=generator).to(device, dtype) for n in (4, 2, 2))
    tolerance = 2e-2 if dtype in (torch.bfloat16, torch.float16) else 1e-5
    options: dict[str, dict[str, Any]] = {
        "causal": {"causal": True},
        "all": {"causal": False},
        "mask": {"mask": causal_mask(40, 40, dtype=dtype, device=device)},
    }
    try:
        for kind in kinds:
            fast = kernel(query, key, value, scale=0.25, **options[kind])
            slow = attend_plainly(query, key, value, scale=0.25, **options[kind])
            if not all(torch.allclose(f.float(), s.float(), atol=tolerance) for f, s in zip(fast, slow, strict=True)):
                return False
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True


def backend_of(device: str, dtype: torch.dtype, *, one_width: bool = True) -> str:
    """Which attention kernel `attend` uses there, with the reason; `one_width`: keys are as wide as values."""
    if not one_width:
        return "plain matrix products and logsumexp (the kernels want keys and values of one width)"
    if device == "cpu" and dtype == torch.bfloat16 and _amx_that_works() is not None:
        return "our AMX kernel for contexts, torch's CPU kernel elsewhere (both agreed with the plain formula)"
    if device == "cpu" and dtype == torch.float32 and _causal_that_works() is not None and _flash_for_cpu_works(dtype):
        return "our own kernel for long causal rows, torch's CPU kernel elsewhere (both agreed with the plain formula)"
    if device == "cpu" and _flash_for_cpu_works(dtype):
        return "torch's CPU flash attention (agreed with the plain formula in a self-test)"
    if device == "cuda" and _flash_on_cuda_works(dtype):
        return "torch's CUDA flash attention (agreed with the plain formula in a self-test)"
    return f"plain matrix products and logsumexp (no kernel that returns a log-sum-exp agrees on {device} in {dtype})"
