"""What structured attention can do with a model, found out on the model object itself.

A hook that is never called changes nothing and says nothing, so nothing here is believed by name: every route is tried
on a few tokens and compared with the untouched model before it is used.
"""

import math
import re
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

from lmops_lab.attention.call import AttentionCall
from lmops_lab.attention.encoding import encode_token_groups
from lmops_lab.attention.forward import (
    hidden_at,
    key_value_shapes,
    logits_at,
    note_reached,
    position_limit,
    route_of,
    set_route,
)
from lmops_lab.attention.hook import install
from lmops_lab.attention.packed import alibi_positions, has_alibi
from lmops_lab.attention.partial import backend_of

# Architectures whose exactness the tests prove (tests/attention/test_architectures.py), in the docs' order.
PROVEN = (
    *("llama", "qwen2", "qwen3", "mistral", "mixtral", "gemma2", "gemma3_text", "phi3", "olmo2", "granite", "stablelm"),
    *("smollm3", "cohere", "gpt2", "gpt_neox", "gpt_neo", "gptj", "opt", "codegen", "xglm", "starcoder2", "falcon"),
    *("biogpt", "gpt_oss", "bloom"),
)

# Allowed difference of log-probabilities (nats) between a route and the untouched model, by dtype: the largest one, but
# the root mean square in half precision, where the largest of hundreds of thousands is rounding alone. On the embedded
# model in bfloat16, transformers' own two attentions differ by .46-.52 at most and .08-.09 in the mean square, as our
# routes do, while a wrong own weight or positions off by one make .33 and more.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-3, torch.float16: 0.03, torch.bfloat16: 0.2}
_HALF = (torch.float16, torch.bfloat16)

# A model that rounds more than that is allowed this multiple of the difference of transformers' own two attentions.
_NOISE = 3.0

# Words in the class names of layers that carry a state from token to token, which two attentions cannot be merged over.
_RECURRENT = re.compile(r"Mamba|SSM[A-Z]?$|Rglru|RGLRU|Recurrent|DeltaNet|ShortConv|LightningAttention|Rwkv|RWKV|Hyena")


@dataclass(frozen=True)
class Capabilities:
    """How structured attention runs on one model, with what was seen.

    Attributes:
        architecture: the model type of its configuration.
        route: "hook" (log-sum-exp merge in every layer) or "packed" (one row of queries under a 4D mask).
        layers: attention layers; reached: those the route was seen to reach.
        windows: sliding window of each layer (tokens), None for full attention.
        positions: "rotary", "learned", "alibi" or "none" (positions come from the causal order alone).
        position_limit: positions the model was made for (tokens).
        honours_positions: explicit position ids change the result, as they must.
        honours_masks: an explicit 4D mask changes the result.
        softcap, sinks: scores are capped; heads have attention sinks.
        kv_shapes: key/value heads, key width, value width of each layer.
        difference: difference from the untouched model in the check (nats): the largest, in half precision the root
            mean square; allowed: its bound.
        backend: which attention kernel runs, with the reason.
        seconds: what the probe took.
    """

    architecture: str
    route: str
    layers: int
    reached: tuple[int, ...]
    windows: tuple[int | None, ...]
    positions: str
    position_limit: int
    honours_positions: bool
    honours_masks: bool
    softcap: bool
    sinks: bool
    kv_shapes: tuple[tuple[int, int, int], ...]
    difference: float
    allowed: float
    backend: str
    seconds: float

    @property
    def sliding_layers(self) -> tuple[int, ...]:
        """Layers with a sliding window."""
        return tuple(layer for layer, window in enumerate(self.windows) if window is not None)

    def __str__(self) -> str:
        sliding = f", {len(self.sliding_layers)} of them sliding" if self.sliding_layers else ""
        extras = "".join(f", {name}" for name in ("softcap", "sinks") if getattr(self, name))
        return (
            f"{self.architecture}: {self.route} route, {len(self.reached)} of {self.layers} attention layers{sliding}, "
            f"{self.positions} positions up to {self.position_limit}{extras}; within {self.difference:.1g} nats of the "
            f"untouched model; {self.backend}"
        )


def prepare(model: PreTrainedModel) -> Capabilities:
    """Find the route for this model, install it and prove it; refuse a model that has none.

    Raises:
        ValueError: a recurrent layer, or no route that agrees with the untouched model; the message says why.
    """
    check_config(model.config)
    started = time.perf_counter()
    recurrent = sorted({type(m).__name__ for m in model.modules() if _RECURRENT.search(type(m).__name__)})
    if recurrent:
        raise ValueError(_refusal(model.config.model_type, f"its {', '.join(recurrent)} keep a recurrent state"))
    ids = _sample(model)
    stock = _stock_log_probabilities(model, ids)
    allowed = _allowed(model, ids, stock)
    # Both are tried on the untouched model: an installed hook would answer instead of it.
    honours_masks, honours_positions = _honours_masks(model, ids), _honours_positions(model, ids)
    reasons = []
    for route in ("hook", "packed"):
        if route == "hook" and not install(model):
            reasons.append("its attention cannot be exchanged (no AttentionInterface)")
            continue
        if route == "packed" and reasons[-1].startswith("structured"):
            break  # the hook is in and wrong: what it changed cannot be trusted either
        set_route(model, route)
        try:
            difference, call = check_route(model, ids, stock, allowed)
        except torch.OutOfMemoryError:  # says something about the machine, nothing about the model
            raise
        except ValueError as error:
            reasons.append(str(error))
            continue
        except (RuntimeError, TypeError) as error:  # whatever a layer that nobody has seen yet does with the call
            first = str(error).partition("\n")[0]
            reasons.append(f"structured attention fails in it ({type(error).__name__}: {first})")
            continue
        if route == "hook":
            note_reached(model, call.layers)
        shapes = key_value_shapes(model)
        return Capabilities(
            architecture=model.config.model_type,
            route=route,
            layers=model.config.num_hidden_layers,
            reached=tuple(call.layers),
            windows=tuple(call.windows) if route == "hook" else (None,) * len(call.layers),
            positions=_positions(model),
            position_limit=position_limit(model),
            honours_positions=honours_positions,
            honours_masks=honours_masks,
            softcap=getattr(model.config, "attn_logit_softcapping", None) is not None,
            sinks=any(name.endswith("sinks") for name, _ in model.named_parameters()),
            kv_shapes=shapes,
            difference=difference,
            allowed=allowed,
            backend=backend_of(model.device.type, model.dtype, one_width=all(key == value for _, key, value in shapes)),
            seconds=time.perf_counter() - started,
        )
    raise ValueError(_refusal(model.config.model_type, "; ".join(reasons)))


def check_config(config: PreTrainedConfig) -> None:
    """Refuse what is known not to work, before any weights are loaded.

    Raises:
        ValueError: layers with a recurrent state or chunked attention, MPT, Falcon with ALiBi.
    """
    kind = config.model_type
    kinds = set(getattr(config, "layer_types", None) or []) | set(getattr(config, "layers_block_type", None) or [])
    odd = sorted(str(k) for k in kinds - {"full_attention", "sliding_attention", "attention"})
    if odd:
        raise ValueError(_refusal(kind, f"its {', '.join(odd)} layers keep a state that groups cannot share"))
    if kind == "mpt" or (kind == "falcon" and config.alibi):
        raise ValueError(_refusal(kind, "it reduces attention masks to visible or hidden, which loses the own weight"))
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(_refusal(kind, "it is an encoder-decoder, not a causal language model"))


def _refusal(kind: str, reason: str) -> str:
    return (
        f"architecture {kind!r} cannot run structured attention: {reason}. Proven are {', '.join(PROVEN)}; "
        "see docs/architectures.md"
    )


def check_route(model: PreTrainedModel, ids: list[int], stock: Tensor, allowed: float) -> tuple[float, AttentionCall]:
    """Prove on the real model that its route reaches every layer once and changes nothing when it should not.

    The first two thirds of the tokens become a context: as one group, and as two identical groups with own weight 2.
    Both must give what the untouched model gives.

    Args:
        stock: log-probabilities [tokens, V] of the untouched model.
        allowed: how far the runs may differ from it (nats), measured as in `Capabilities.difference`.

    Returns:
        The difference (nats) and the last call, with the layers it reached.

    Raises:
        ValueError: a layer is not reached, a sliding layer hides its window, or the runs differ.
    """
    expected = list(range(model.config.num_hidden_layers))
    split = _split(ids)
    worst, call = 0.0, AttentionCall()
    for groups in (1, 2):
        context = encode_token_groups(
            model, [[ids[:split]]] * groups, bos="none", prefix=(), model_name="check", progress=False
        )
        call = AttentionCall(context, math.log(groups))
        states = hidden_at(model, torch.tensor([ids[split:]]), torch.arange(split, len(ids))[None], call)
        if call.layers != expected:
            raise ValueError(f"structured attention reached layers {call.layers}, expected {expected}")
        _check_windows(model, call)
        ours = logits_at(model, states[0]).float().log_softmax(-1)
        difference = _difference(model, ours, stock[split:])
        if not difference <= allowed:
            raise ValueError(
                f"structured attention with {groups} identical group{'s'[: groups > 1]} differs from the untouched "
                f"model by {difference:.2g} nats (allowed {allowed:.2g})"
            )
        worst = max(worst, difference)
    return worst, call


def _check_windows(model: PreTrainedModel, call: AttentionCall) -> None:
    """A window longer than the check's few tokens would go unnoticed if a layer kept it from the route."""
    kinds, limit = getattr(model.config, "layer_types", None), position_limit(model)
    declared = _declared_window(model.config)
    hidden = min((window for window in (declared, call.mask_window) if window), default=limit)
    if route_of(model) == "packed" and hidden < limit:
        raise ValueError(f"structured attention in a packed row passes over its sliding window of {hidden} tokens")
    if kinds is None and hidden < limit and not any(call.windows):
        raise ValueError(
            f"structured attention sees no window in any layer, but a sliding window of {hidden} tokens is in its "
            f"{'configuration' if declared else 'masks'}"
        )
    if kinds is None or route_of(model) == "packed":
        return
    for layer, (kind, window) in enumerate(zip(kinds, call.windows, strict=False)):
        if (kind == "sliding_attention") != (window is not None):
            raise ValueError(f"structured attention sees window {window} in layer {layer}, which is of type {kind}")


def _declared_window(config: PreTrainedConfig) -> int | None:
    """The sliding window that some layer has by the configuration, None where there is none."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    off = getattr(config, "use_sliding_window", None) is False or (kinds and "sliding_attention" not in kinds)
    return window if isinstance(window, int) and not off else None


def _sample(model: PreTrainedModel) -> list[int]:
    vocabulary = model.config.vocab_size
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary // 4, vocabulary // 2, (12,), generator=generator).tolist()


@torch.inference_mode()
def _stock_log_probabilities(model: PreTrainedModel, ids: list[int], attention: str = "eager") -> Tensor:
    """Log-probabilities [tokens, V] by transformers' own attention; eager is what an architecture is defined by."""
    before = model.config._attn_implementation
    switched = _switch(model, attention)
    logits = model(torch.tensor([ids], device=model.device), use_cache=False).logits[0]
    if switched:
        _switch(model, before)
    return logits.float().log_softmax(-1)


def _difference(model: PreTrainedModel, left: Tensor, right: Tensor) -> float:
    """How far two tables of log-probabilities of this model are apart (nats), see `Capabilities.difference`."""
    apart = (left - right).abs()
    return float(apart.square().mean().sqrt() if model.dtype in _HALF else apart.max())


def _allowed(model: PreTrainedModel, ids: list[int], stock: Tensor) -> float:
    """How far a route may be from the untouched model (nats), see `Capabilities.difference`."""
    bound = _TOLERANCE.get(model.dtype, _TOLERANCE[torch.bfloat16])
    if model.dtype not in _HALF:
        return bound
    # The same figures again where it has no second attention: then the bound stands as it is.
    again, asked = _stock_log_probabilities(model, ids, "sdpa"), slice(_split(ids), None)
    return max(bound, _NOISE * _difference(model, again[asked], stock[asked]))


def _split(ids: list[int]) -> int:
    """How many of the sample's tokens become the context; the check compares the predictions of the others."""
    return len(ids) * 2 // 3


def _switch(model: PreTrainedModel, implementation: str) -> bool:
    if model.config._attn_implementation == implementation:
        return False
    try:
        model.set_attn_implementation(implementation)
    except ValueError:  # an older architecture that chose at loading time
        return False
    return True


@torch.inference_mode()
def _honours_masks(model: PreTrainedModel, ids: list[int]) -> bool:
    """Whether hiding the first token by a 4D mask changes what the last one predicts."""
    tokens = len(ids)
    row = torch.tensor([ids], device=model.device)
    mask = torch.full((tokens, tokens), torch.finfo(model.dtype).min, dtype=model.dtype, device=model.device).triu(1)
    hidden = mask.clone()
    hidden[1:, 0] = torch.finfo(model.dtype).min
    positions = {} if has_alibi(model) else {"position_ids": torch.arange(tokens, device=model.device)[None]}
    states = []
    try:
        for one in (mask, hidden):
            with alibi_positions(model, torch.arange(tokens, device=model.device)[None]):
                output = model.get_decoder()(
                    input_ids=row, attention_mask=one[None, None], past_key_values=DynamicCache(), **positions
                )
            states.append(output.last_hidden_state[0, -1])
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return not torch.allclose(states[0], states[1], atol=1e-6)


@torch.inference_mode()
def _honours_positions(model: PreTrainedModel, ids: list[int]) -> bool:
    """Whether stretching the positions changes the states (ALiBi models are given theirs by `alibi_positions`)."""
    if has_alibi(model):
        return True
    tokens = torch.arange(len(ids))
    row = torch.tensor([ids], device=model.device)
    states = []
    try:
        for positions in (tokens, tokens * 3):
            output = model.get_decoder()(
                input_ids=row,
                position_ids=positions[None].to(model.device),
                attention_mask=torch.ones_like(row),
                use_cache=False,
            )
            states.append(output.last_hidden_state[0, -1])
    except TypeError:
        return False
    return not torch.allclose(states[0], states[1], atol=1e-6)


def _positions(model: PreTrainedModel) -> str:
    config: Any = model.config
    if has_alibi(model):
        return "alibi"
    names = [name for name, _ in [*model.named_modules(), *model.named_buffers()]]
    if getattr(config, "rotary_dim", None) or any("rotary" in name for name in names):
        return "rotary"
    tables = [m for name, m in model.named_modules() if re.search(r"wpe|embed_positions|position_embed", name)]
    return "learned" if any(isinstance(table, nn.Module) for table in tables) else "none"
