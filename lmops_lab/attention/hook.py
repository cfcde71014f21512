"""The hook into transformers: grouped attention while a call is active, the model's own attention otherwise.

Most models choose their attention through transformers' AttentionInterface; one function registered there reaches every
layer. Older ones (GPT-J, GPT-Neo, CodeGen) compute it in a method `_attn` of each layer, which is replaced on the
object. Outside `active(call)` both do what the stock model does, masks included.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import logging

from lmops_lab.attention import fused
from lmops_lab.attention.call import AttentionCall, active, current
from lmops_lab.attention.layer import finite_mask, grouped_attention
from lmops_lab.attention.partial import attend_plainly, attend_sinks, causal_mask, merge_parts
from lmops_lab.shapes import Heads, Outputs, OwnKeys, OwnValues

__all__ = ["NAME", "AttentionCall", "active", "install"]

NAME = "lmops_grouped"

# What a layer may hand over beyond plain softmax attention, and that merged attentions would silently leave out.
_UNKNOWN = ("position_bias", "head_mask", "sinks", "cu_seq_lens_q", "indices")


def install(model: PreTrainedModel) -> bool:
    """Switch a model to the hook, and its elementwise steps to the compiled ones; False if it lets nothing in."""
    fused.install(model)
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # the refusal is ours to explain, with what to do about it
    try:
        model.set_attn_implementation(NAME)
    except ValueError:
        return _install_in_methods(model)
    finally:
        logging.set_verbosity(level)
    return model.config._attn_implementation == NAME or _install_in_methods(model)


def _install_in_methods(model: PreTrainedModel) -> bool:
    layers: list[Any] = [module for module in model.modules() if callable(getattr(type(module), "_attn", None))]
    for number, module in enumerate(layers):
        stock = type(module)._attn.__get__(module)
        module._attn = functools.partial(_attention_of_method, module, model.config, number, stock)
    return bool(layers)


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    call = current()
    if call is None or call.generating:
        return sdpa_mask(*args, **kwargs)
    call.mask_window = kwargs.get("local_size") or call.mask_window
    return None  # the call itself is causal (or follows own_mask); a second mask would only cost time


def _attention(
    module: nn.Module,
    query: Heads,
    key: OwnKeys,
    value: OwnValues,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    call = current()
    softcap, sinks = kwargs.get("softcap"), kwargs.get("s_aux")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if call is None:
        if softcap is None and sinks is None:
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
            )
        return _ordinary(query, key, value, attention_mask, scale, softcap, sinks).transpose(1, 2), None
    extras = [name for name in _UNKNOWN if kwargs.get(name) is not None]
    if extras:
        raise ValueError(
            f"layer {module.layer_idx} asks for {', '.join(extras)}, which structured attention does not merge; "
            "use a model without it"
        )
    out = grouped_attention(
        call,
        int(module.layer_idx),  # type: ignore[arg-type]
        query,
        key,
        value,
        scale=scale,
        window=kwargs.get("sliding_window"),
        softcap=softcap,
        sinks=sinks,
        mask=attention_mask,
    )
    return out.transpose(1, 2), None  # [B, T, H, D]


def _ordinary(
    query: Heads,
    key: OwnKeys,
    value: OwnValues,
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Outputs:
    """The stock attention of models whose soft cap or sinks torch's fused attention does not know."""
    if mask is None:
        additive = causal_mask(query.shape[2], key.shape[2], dtype=query.dtype, device=query.device)
    else:
        additive = finite_mask(mask, query.dtype)
    part = attend_plainly(query, key, value, scale=scale, mask=additive, softcap=softcap)
    if sinks is not None:
        part = merge_parts(part, attend_sinks(query, sinks))
    return part[0]


def _attention_of_method(
    module: nn.Module,
    config: Any,
    number: int,
    stock: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    call = current()
    if call is None:
        return stock(query, key, value, attention_mask)
    divisor = getattr(module, "scale_attn", 1.0)  # GPT-Neo does not scale its scores
    local = getattr(module, "attention_type", "global") == "local"
    out = grouped_attention(
        call,
        number,
        query.to(value.dtype),
        key.to(value.dtype),
        value,
        scale=1.0 / float(divisor.item() if isinstance(divisor, torch.Tensor) else divisor),
        window=int(config.window_size) if local else None,
        mask=attention_mask,
    )
    return out, None  # [B, H, T, D]
