"""The packed route: many queries in one row of an untouched model, told apart by a mask.

For models that compute attention inline (XGLM, Falcon) and for BLOOM, whose positions are a bias of the scores (ALiBi).
All queries of a batch stand in one row behind the context's keys; a 4D additive mask lets each see the context and
itself, and holds log M on a query's own columns, which is the repeated-columns form of structured attention. Exact, but
the mask has (own tokens) x (context + own tokens) entries, so the hook is preferred where it reaches.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from lmops_lab.attention.call import AttentionCall
from lmops_lab.attention.context import GroupedContext
from lmops_lab.attention.partial import causal_mask


class ContextCache(DynamicCache):
    """A cache of own tokens behind a context: length and padding count own tokens only, attention sees both."""

    def __init__(self, context: GroupedContext | None) -> None:
        super().__init__()
        self.context = context

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Append own keys and values [B, K, T, D] and return them behind the context's."""
        own = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if self.context is None:
            return own
        batch = key_states.shape[0]
        shared = (part.expand(batch, -1, -1, -1) for part in self.context.layer(layer_idx))
        return tuple(torch.cat([ours, theirs], dim=2) for ours, theirs in zip(shared, own, strict=True))


def packed_states(model: PreTrainedModel, ids: Tensor, positions: Tensor, call: AttentionCall) -> Tensor:
    """Last hidden states [B, T, width] under `call`, without touching the model's attention.

    Raises:
        ValueError: a call that needs more than a mask can say (temperature, attention mass).
    """
    if (call.temperature, call.exponent) != (1.0, 1.0) or call.mass is not None:
        raise ValueError(
            f"{type(model).__name__} takes the packed route, where a mask cannot express attention temperature or "
            "report attention mass; use a model that the hook reaches (see lm.capabilities())"
        )
    rows, tokens = ids.shape
    if call.sink is not None:  # encoding: every row on its own, keys and values read from the cache
        cache: Any = DynamicCache()
        with alibi_positions(model, positions):
            states = _decode(model, ids, positions, torch.ones_like(ids), cache)
        for layer, kept in enumerate(cache.layers):
            call.layers.append(layer)
            call.sink(layer, kept.keys, kept.values)
        return states
    context = call.context
    columns = context.tokens if context else 0
    mask = torch.full((rows * tokens, columns + rows * tokens), torch.finfo(model.dtype).min, dtype=model.dtype)
    mask[:, :columns] = 0
    own = call.own_mask
    if own is None:
        own = causal_mask(tokens, tokens, dtype=model.dtype, device="cpu")
    own = own.to("cpu").expand(rows, 1, tokens, tokens)
    for row in range(rows):
        block = slice(row * tokens, (row + 1) * tokens)
        visible = torch.isfinite(own[row, 0])
        mask[block, columns:][:, block] = torch.where(visible, call.log_weight, torch.finfo(model.dtype).min)
    flat = positions.reshape(1, -1)
    behind = flat if context is None else torch.cat([context.positions()[None].to(flat.device), flat], dim=1)
    cache = ContextCache(context)
    with alibi_positions(model, behind):
        states = _decode(model, ids.reshape(1, -1), flat, mask[None, None].to(model.device), cache)
    call.layers.extend(range(len(cache.layers)))
    return states.reshape(rows, tokens, -1)


def _decode(model: PreTrainedModel, ids: Tensor, positions: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
    options = {} if has_alibi(model) else {"position_ids": positions}
    output = model.get_decoder()(
        input_ids=ids, attention_mask=mask.to(ids.device), past_key_values=cache, use_cache=True, **options
    )
    return output.last_hidden_state


def generation_mask(padding: Tensor, tokens: int, columns: int, log_weight: float, dtype: torch.dtype) -> Tensor:
    """Additive mask [B, 1, tokens, columns + own] of the last `tokens` own tokens of left-padded rows.

    Args:
        padding: [B, own], 1 for tokens, 0 for padding.
        tokens: own tokens of this step (the prompt, later one).
        columns: tokens of the context.
    """
    batch, own = padding.shape
    low = torch.finfo(dtype).min / 4
    causal = torch.ones(tokens, own, dtype=torch.bool, device=padding.device).tril(own - tokens)
    visible = causal[None] & padding[:, None].bool()  # [B, tokens, own]
    mask = torch.zeros(batch, 1, tokens, columns + own, dtype=dtype, device=padding.device)
    mask[:, 0, :, columns:] = torch.where(visible, log_weight, low)
    return mask


def has_alibi(model: PreTrainedModel) -> bool:
    """Whether positions are a bias of the scores that the model builds itself, as BLOOM does."""
    return callable(getattr(type(model.get_decoder()), "build_alibi_tensor", None))


@contextmanager
def alibi_positions(model: PreTrainedModel, positions: Tensor) -> Iterator[None]:
    """Let an ALiBi model place its keys at these positions [B, columns] instead of at their column numbers.

    ALiBi adds slope * position to each key's score (Press et al. 2021, arXiv 2108.12409, in the form that drops what is
    constant over a row), so groups that lie side by side in memory can all end at the same position.
    """
    decoder = model.get_decoder()
    if not has_alibi(model):
        yield
        return
    decoder.build_alibi_tensor = alibi_bias(decoder, positions)
    try:
        yield
    finally:
        del decoder.build_alibi_tensor


def alibi_bias(decoder: Any, positions: Tensor) -> Callable[..., Tensor]:
    """What BLOOM's `build_alibi_tensor` is to return for keys at these positions [B, columns]: [B * H, 1, columns]."""

    def build(_mask: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
        two = type(decoder).build_alibi_tensor(decoder, torch.ones(1, 2, device=positions.device), heads, torch.float32)
        slopes = (two[:, 0, 1] - two[:, 0, 0])[None, :, None, None]  # [1, H, 1, 1]
        bias = slopes * positions[:, None, None, :]  # [B, H, 1, columns]
        return bias.reshape(-1, 1, positions.shape[1]).to(dtype)

    return build
