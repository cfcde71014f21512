"""Grouped attention of one layer: the context's part and the own part, merged by their log-sum-exps.

    Z = exp(lse_context) + w * exp(lse_own)        w: own weight, M for structured prompting

Whatever a layer adds to plain softmax attention has one place here: a sliding window hides keys by position, a soft cap
bounds scores, attention sinks (one learned logit a head, without a value) belong to the own part and share its weight,
so that M identical groups still equal one.
"""

import torch
from torch import Tensor

from lmops_lab.attention.call import AttentionCall
from lmops_lab.attention.context import GroupedContext
from lmops_lab.attention.partial import Part, attend, attend_shared, attend_sinks, causal_mask, merge_parts
from lmops_lab.attention.windows import attend_shared_window, own_window_mask
from lmops_lab.shapes import Heads, Outputs, OwnKeys, OwnMask, OwnValues


def grouped_attention(
    call: AttentionCall,
    layer: int,
    query: Heads,
    key: OwnKeys,
    value: OwnValues,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    mask: Tensor | None = None,
) -> Outputs:
    """Attend to the call's context and to the own tokens, and merge the two exactly: [B, H, T, D].

    Args:
        query: [B, H, T, D]; key, value: [B, K, own tokens, D].
        window: positions a token sees back, itself included; None for all.
        sinks: one logit a head [H].
        mask: transformers' own mask (True or 0 where visible), used while generating.
    """
    call.layers.append(layer)
    call.windows.append(window)
    if call.sink is not None:
        call.sink(layer, key, value)
    if call.own_mask is not None:
        own_mask: OwnMask | None = call.own_mask
    else:
        own_mask = None if mask is None or not call.generating else finite_mask(mask, query.dtype)
    own = _own_part(query, key, value, own_mask, call.positions, scale=scale, window=window, softcap=softcap)
    if sinks is not None:
        own = merge_parts(own, attend_sinks(query, sinks))
    if call.context is None:
        return own[0]

    prefix = call.context.prefix_tokens if (call.temperature, call.exponent) != (1.0, 1.0) else 0
    if prefix:
        shared = _context_part(query, call, call.context, layer, slice(0, prefix), scale, window, softcap)
        own = own if shared is None else merge_parts(shared, own)
    columns = slice(prefix, call.context.tokens)
    groups = _context_part(query, call, call.context, layer, columns, scale / call.temperature, window, softcap)
    if groups is None:
        merged: Part = (own[0], own[1] + call.log_weight)
    else:
        merged = merge_parts((groups[0], groups[1] * call.exponent), own, call.log_weight)
    if call.mass is not None:
        lses = [own[1] + call.log_weight]
        for segment in reversed(call.segments):
            part = _context_part(query, call, call.context, layer, segment, scale, window, softcap)
            lses.insert(0, torch.full_like(own[1], -torch.inf) if part is None else part[1])
        call.mass(layer, torch.exp(torch.stack(lses) - merged[1]))  # [segments + 1, B, H, T]
    return merged[0]


def _context_part(
    query: Heads,
    call: AttentionCall,
    context: GroupedContext,
    layer: int,
    columns: slice,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Part | None:
    key, value = context.layer(layer)
    if columns != slice(0, context.tokens):
        key, value = key[:, columns], value[:, columns]
    # Without positions (a bare call of the attention) the window cannot hide anything; forward passes always set them.
    if window is None or call.positions is None or int(call.positions.max()) < window:
        return attend_shared(query, key, value, scale=scale, softcap=softcap, lengths=call.lengths)
    return attend_shared_window(
        query,
        key,
        value,
        scale=scale,
        softcap=softcap,
        window=window,
        columns=context.positions()[columns].to(query.device),
        rows=call.positions,
    )


def _own_part(
    query: Heads,
    key: OwnKeys,
    value: OwnValues,
    mask: OwnMask | None,
    positions: Tensor | None,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Part:
    tokens, keys = query.shape[2], key.shape[2]
    mask = own_window_mask(
        mask,
        tokens=tokens,
        keys=keys,
        window=window,
        positions=positions,
        dtype=query.dtype,
        device=query.device,
    )
    if mask is not None:
        return attend(query, key, value, scale=scale, mask=mask, softcap=softcap)
    if tokens == keys:
        return attend(query, key, value, scale=scale, causal=True, softcap=softcap)
    # Later steps of a generation: the own keys of earlier steps come from the model's cache.
    late = None if tokens == 1 else causal_mask(tokens, keys, dtype=query.dtype, device=query.device)
    return attend(query, key, value, scale=scale, mask=late, softcap=softcap)


def finite_mask(mask: Tensor, dtype: torch.dtype) -> OwnMask:
    """A boolean or additive mask as an additive one without infinities.

    A padding token may see nothing; with infinities its output would be NaN, and NaN times a weight of 0 is NaN.
    """
    hidden = ~mask if mask.dtype == torch.bool else mask < -1
    low = torch.finfo(dtype).min / 4
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(hidden, low)
