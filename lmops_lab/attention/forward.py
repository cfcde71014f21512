"""Forward passes through a hooked model: hidden states of chosen tokens, and logits only where they are needed."""

import sys
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lmops_lab.attention.call import AttentionCall, active
from lmops_lab.attention.packed import has_alibi, packed_states

# Positions whose logits are computed at once: 256 x 49,152 float32 is 50 MB.
_LOGIT_ROWS = 256


def set_route(model: PreTrainedModel, route: str) -> None:
    """Note how structured attention reaches this model: "hook" or "packed"."""
    vars(model)["lmops_route"] = route


def route_of(model: PreTrainedModel) -> str:
    """How structured attention reaches this model."""
    return getattr(model, "lmops_route", "hook")


def note_reached(model: PreTrainedModel, layers: Sequence[int]) -> None:
    """Note on a proven model which layers the hook reaches, and the attention implementation that was proven."""
    vars(model)["lmops_reached"] = (tuple(layers), model.config._attn_implementation)


def check_reached(model: PreTrainedModel, layers: Sequence[int]) -> None:
    """Refuse a pass that went round the hook: its numbers would be those of the model without its context.

    A model is proven once, when it is loaded; whoever exchanges its attention later undoes that without a sign.

    Raises:
        RuntimeError: with the layers, the attention implementation and how to set it back.
    """
    proven = getattr(model, "lmops_reached", None)
    if proven is None or tuple(layers) == proven[0]:
        return
    expected, implementation = proven
    raise RuntimeError(
        f"structured attention reached layers {list(layers)} of {type(model).__name__}, expected {list(expected)}: its "
        f"attention implementation is {model.config._attn_implementation!r} and was {implementation!r} when loaded; "
        f"set it back with model.set_attn_implementation({implementation!r}) or load the model again"
    )


def position_limit(model: PreTrainedModel) -> int:
    """Positions the model was made for (tokens); ALiBi models name none, so it is the length they were trained on."""
    config = model.config
    for name in ("max_position_embeddings", "seq_length", "max_seq_len"):
        limit = getattr(config, name, None)
        if isinstance(limit, int):
            return limit
    return 2048 if has_alibi(model) else sys.maxsize


def key_value_shapes(model: PreTrainedModel) -> tuple[tuple[int, int, int], ...]:
    """Key/value heads, key width and value width of every layer, as one token's pass shows them.

    Raises:
        ValueError: the pass did not reach every layer.
    """
    known = getattr(model, "lmops_kv_shapes", None)
    if known is None and model.device.type == "meta":  # an outline without weights cannot run: its configuration says
        config = model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        dim = value_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        if getattr(config, "qk_nope_head_dim", None):  # latent attention, whose head_dim is that of the rotated part
            dim, value_dim = config.qk_nope_head_dim + config.qk_rope_head_dim, config.v_head_dim
        return ((heads, dim, value_dim),) * int(config.num_hidden_layers)
    if known is None:
        seen: dict[int, tuple[int, int, int]] = {}

        def look(layer: int, key: Tensor, value: Tensor) -> None:
            seen[layer] = (key.shape[1], key.shape[-1], value.shape[-1])

        hidden_at(
            model, torch.ones(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long), AttentionCall(sink=look)
        )
        if sorted(seen) != list(range(model.config.num_hidden_layers)):
            raise ValueError(
                f"structured attention reached layers {sorted(seen)} of {type(model).__name__}, expected "
                f"{list(range(model.config.num_hidden_layers))}"
            )
        known = tuple(seen[layer] for layer in sorted(seen))
        vars(model)["lmops_kv_shapes"] = known
    return known


@torch.inference_mode()
def hidden_at(model: PreTrainedModel, ids: Tensor, positions: Tensor, call: AttentionCall) -> Tensor:
    """Last hidden states [B, T, width] of right-padded rows under `call`.

    Padding sits at the right, after everything a real token may see, so it needs no mask. Positions are explicit.

    Raises:
        RuntimeError: see `check_reached`.
    """
    ids, positions = ids.to(model.device), positions.to(model.device)
    if route_of(model) == "packed":
        return packed_states(model, ids, positions, call)
    call.positions = positions
    before = len(call.layers)
    with active(call):
        output = model.get_decoder()(
            input_ids=ids,
            position_ids=positions,
            attention_mask=torch.ones_like(ids),
            use_cache=False,
        )
    check_reached(model, call.layers[before:])
    return output.last_hidden_state


@torch.inference_mode()
def logits_at(model: PreTrainedModel, states: Tensor) -> Tensor:
    """Next-token logits [rows, V] of hidden states [rows, width]."""
    logits = model.get_output_embeddings()(states)
    if hasattr(model, "logit_scale"):  # Cohere
        logits = logits * model.logit_scale
    if getattr(model.config, "logits_scaling", None) is not None:  # Granite
        logits = logits / model.config.logits_scaling
    softcap = getattr(model.config, "final_logit_softcapping", None)  # Gemma
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


@torch.inference_mode()
def log_probabilities(model: PreTrainedModel, states: Tensor, tokens: Tensor) -> Tensor:
    """Next-token log-probabilities (nats, float32) of chosen tokens [n] after each hidden state: [rows, n].

    Normalised over the whole vocabulary, a block of rows at a time so that the logits never fill the memory.
    """
    blocks = []
    for block in states.split(_LOGIT_ROWS):
        logits = logits_at(model, block).float()  # [rows, V]
        blocks.append(logits[:, tokens] - torch.logsumexp(logits, dim=-1, keepdim=True))
    return torch.cat(blocks)
