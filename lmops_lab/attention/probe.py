"""Proof, on the real model object, that structured attention reaches it and leaves it exact."""

import math

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from lmops_lab.attention.encoding import encode_token_groups
from lmops_lab.attention.forward import hidden_at, logits_at
from lmops_lab.attention.hook import AttentionCall, install

# Architectures whose exactness the tests prove (tests/attention/test_architectures.py).
SUPPORTED = ("llama", "qwen2", "qwen3", "mistral", "gpt2", "gpt_neox", "opt")


# Largest difference of log-probabilities (nats) between the hooked and the untouched model, by dtype.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-3, torch.float16: 0.1, torch.bfloat16: 0.5}


def prepare(model: PreTrainedModel) -> None:
    """Install the hook into a supported model and check it; refuse every other one.

    Raises:
        ValueError: an architecture outside `SUPPORTED`, a sliding window, or a model that fails `check_hook`.
    """
    check_config(model.config)
    install(model)
    check_hook(model)


def check_config(config: PreTrainedConfig) -> None:
    """Refuse what is known not to work, before any weights are loaded.

    Raises:
        ValueError: an architecture outside `SUPPORTED`, or one with a sliding window.
    """
    kind = config.model_type
    if kind not in SUPPORTED:
        raise ValueError(
            f"architecture {kind!r} is not supported by structured attention; supported are {', '.join(SUPPORTED)}"
        )
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or (kind == "mistral" and config.sliding_window is not None):
        raise ValueError(
            f"this {kind} model has layers with a sliding window, which structured attention does not merge yet; "
            "use a checkpoint without one (sliding_window null in its config.json)"
        )


def check_hook(model: PreTrainedModel) -> None:
    """Prove on the real model that the hook is called once in every layer and changes nothing when it should not.

    Compares the untouched model on a few tokens with the first half as a context: as one group, and as two identical
    groups with own weight 2, which must both give the same. Takes a few short forward passes.

    Raises:
        ValueError: a layer is not reached, or the runs differ.
    """
    expected = list(range(model.config.num_hidden_layers))
    vocabulary = model.config.vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary // 4, vocabulary // 2, (12,), generator=generator).tolist()
    with torch.inference_mode():
        stock = model(torch.tensor([ids], device=model.device), use_cache=False).logits[0, 8:].float().log_softmax(-1)
    for groups in (1, 2):
        context = encode_token_groups(
            model, [[ids[:8]]] * groups, bos="none", prefix=(), model_name="check", progress=False
        )
        call = AttentionCall(context, math.log(groups))
        states = hidden_at(model, torch.tensor([ids[8:]]), torch.arange(8, 12)[None], call)
        if call.layers != expected:
            raise ValueError(
                f"structured attention reached layers {call.layers} of {type(model).__name__}, expected {expected}; "
                "this architecture is not supported"
            )
        hooked = logits_at(model, states[0]).float().log_softmax(-1)
        difference = (hooked - stock).abs().max().item()
        allowed = _TOLERANCE.get(model.dtype, _TOLERANCE[torch.bfloat16])
        if not difference <= allowed:
            raise ValueError(
                f"structured attention with {groups} identical groups differs from {type(model).__name__} by "
                f"{difference:.2g} nats (allowed {allowed:.2g}); this architecture is not supported"
            )
