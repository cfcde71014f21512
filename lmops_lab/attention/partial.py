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

import torch
from torch import Tensor

from lmops_lab.shapes import Heads, KeyValues, LogSumExp, OwnMask

Part = tuple[Heads, LogSumExp]

# Rows of the score matrix that the plain fallback holds at once: 4096 x 4096 float32 is 64 MiB a head.
_FALLBACK_KEYS = 4096


def merge_parts(left: Part, right: Part, log_weight: float = 0.0) -> Part:
    """Attention over the union of two disjoint sets of keys, the right set's exponentials scaled by exp(log_weight).

    Exact for any weight > 0: `out = sum_r Z_r out_r / sum_r Z_r` with `Z = exp(lse)`. Works in the dtype of the
    log-sum-exps (float32 or float64) and returns the outputs in their own dtype.

    Shapes: outputs [B, H, T, D], log-sum-exps [B, H, T] (nats).
    """
    (left_out, left_lse), (right_out, right_lse) = left, right
    right_lse = right_lse + log_weight
    lse = torch.logaddexp(left_lse, right_lse)
    share = torch.exp(right_lse - lse).unsqueeze(-1)  # [B, H, T, 1] attention mass of the right part
    out = torch.lerp(left_out.to(share.dtype), right_out.to(share.dtype), share)
    return out.to(left_out.dtype), lse


def attend(
    query: Heads, key: KeyValues, value: KeyValues, *, scale: float, causal: bool = False, mask: OwnMask | None = None
) -> Part:
    """Softmax attention over these keys alone, with the log-sum-exp of its scores.

    Args:
        query: [B, H, T, D]
        key, value: [B, K, keys, D]; H must be a multiple of K (grouped-query attention, keys are never repeated).
        scale: factor on the dot products, usually 1 / sqrt(D).
        causal: row i sees keys 0..i; needs as many keys as queries.
        mask: additive [B or 1, 1, T, keys], instead of `causal`.

    Returns:
        out [B, H, T, D] in the query's dtype; lse [B, H, T] in nats, float32 (float64 for float64 inputs).
    """
    if query.device.type == "cpu" and _flash_for_cpu_works(query.dtype):
        additive = None if mask is None else mask.to(query.dtype)
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=additive, scale=scale
        )
        return out, lse
    return attend_plainly(query, key, value, scale=scale, causal=causal, mask=mask)


def attend_plainly(
    query: Heads, key: KeyValues, value: KeyValues, *, scale: float, causal: bool = False, mask: OwnMask | None = None
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


@functools.cache
def _flash_for_cpu_works(dtype: torch.dtype) -> bool:
    """Whether torch's CPU flash kernel exists here and agrees with the plain formula.

    The kernel is private to torch (it alone returns the log-sum-exp), so it is tried once per dtype before use.
    """
    if dtype not in (torch.float32, torch.float64, torch.bfloat16):
        return False
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, n, 40, 16, generator=generator).to(dtype) for n in (4, 2, 2))
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    try:
        for options in ({"causal": True}, {"mask": causal_mask(40, 40, dtype=dtype, device=torch.device("cpu"))}, {}):
            causal, mask = bool(options.get("causal", False)), options.get("mask")
            fast: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, 0.0, causal, attn_mask=mask, scale=0.25
            )
            slow = attend_plainly(query, key, value, scale=0.25, **options)  # type: ignore[arg-type]
            if not all(torch.allclose(f.float(), s.float(), atol=tolerance) for f, s in zip(fast, slow, strict=True)):
                return False
    except (AttributeError, RuntimeError):
        return False
    return True
