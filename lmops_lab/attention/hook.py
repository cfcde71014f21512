"""The hook into transformers: grouped attention while a call is active, the stock attention otherwise.

`install(model)` registers one attention function under `NAME` (transformers' AttentionInterface) and switches the
model to it. Outside `active(call)` that function is transformers' own SDPA, masks included, so an ordinary call of the
model is unchanged. Inside, every layer attends to the context and to its own tokens apart and merges the two exactly.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lmops_lab.attention.context import GroupedContext
from lmops_lab.attention.partial import Part, attend, attend_shared, causal_mask, merge_parts
from lmops_lab.shapes import Heads, KeyValues, OwnMask

NAME = "lmops_grouped"

# What a layer may ask for beyond plain softmax attention, and that two merged attentions would get wrong.
_UNMERGEABLE = ("sliding_window", "softcap", "s_aux", "sinks", "position_bias", "head_mask")

Sink = Callable[[int, Tensor, Tensor], None]


@dataclass
class AttentionCall:
    """What one forward pass attends to besides its own tokens.

    Attributes:
        context: encoded groups, or None for ordinary causal attention.
        log_weight: log of the own weight.
        own_mask: additive mask [B, 1, T, own tokens] among the own tokens (label tries); None means causal.
        sink: receives (layer, keys [B, K, T, D], values) of the own tokens; how groups are encoded.
        layers: layers that the hook has reached so far, in order.
    """

    context: GroupedContext | None = None
    log_weight: float = 0.0
    own_mask: OwnMask | None = None
    sink: Sink | None = None
    layers: list[int] = field(default_factory=list)


_local = threading.local()


@contextmanager
def active(call: AttentionCall) -> Iterator[AttentionCall]:
    """Let forward passes of hooked models in this thread attend as `call` says."""
    outer = getattr(_local, "call", None)
    _local.call = call
    try:
        yield call
    finally:
        _local.call = outer


def install(model: PreTrainedModel) -> None:
    """Switch a model to the hook.

    Raises:
        ValueError: the architecture does not choose its attention through transformers' AttentionInterface.
    """
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)
    model.set_attn_implementation(NAME)
    if model.config._attn_implementation != NAME:
        raise ValueError(
            f"{type(model).__name__} ({model.config.model_type}) does not let its attention be exchanged through "
            "transformers' AttentionInterface, so structured attention cannot reach it; use another architecture"
        )


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    # Inside a call the hook itself is causal (or follows own_mask); a second mask would only cost time.
    return None if getattr(_local, "call", None) is not None else sdpa_mask(*args, **kwargs)


def _attention(
    module: nn.Module,
    query: Heads,
    key: KeyValues,
    value: KeyValues,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    call: AttentionCall | None = getattr(_local, "call", None)
    if call is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    extras = [name for name in _UNMERGEABLE if kwargs.get(name) is not None]
    if extras:
        raise ValueError(
            f"layer {module.layer_idx} asks for {', '.join(extras)}, which structured attention does not merge yet; "
            "use a model without it"
        )
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    call.layers.append(layer)
    if call.sink is not None:
        call.sink(layer, key, value)
    part = _attend_own(query, key, value, scale, call.own_mask)
    if call.context is not None:
        from_context = attend_shared(query, call.context.keys[layer], call.context.values[layer], scale=scale)
        part = merge_parts(from_context, part, call.log_weight)
    return part[0].transpose(1, 2), None  # [B, T, H, D]


def _attend_own(query: Heads, key: KeyValues, value: KeyValues, scale: float, mask: OwnMask | None) -> Part:
    tokens, keys = query.shape[2], key.shape[2]
    if mask is not None:
        return attend(query, key, value, scale=scale, mask=mask)
    if tokens == keys:
        return attend(query, key, value, scale=scale, causal=True)
    # Later steps of a generation: the own keys of earlier steps come from the model's cache.
    late = None if tokens == 1 else causal_mask(tokens, keys, dtype=query.dtype, device=query.device)
    return attend(query, key, value, scale=scale, mask=late)
