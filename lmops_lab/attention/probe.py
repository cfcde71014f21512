"""Proof, on the real model object, that structured attention reaches it and leaves it exact."""

import torch
from transformers import PreTrainedModel

from lmops_lab.attention.encoding import encode_token_groups
from lmops_lab.attention.forward import hidden_at, logits_at
from lmops_lab.attention.hook import AttentionCall, install

# Architectures whose exactness the tests prove (tests/attention/test_architectures.py).
SUPPORTED = ("llama", "qwen2", "qwen3", "mistral", "gpt2", "gpt_neox", "opt")


def prepare(model: PreTrainedModel) -> None:
    """Install the hook into a supported model and check it; refuse every other one.

    Raises:
        ValueError: an architecture outside `SUPPORTED`, a sliding window, or a model that fails `check_hook`.
    """
    kind = model.config.model_type
    if kind not in SUPPORTED:
        raise ValueError(
            f"architecture {kind!r} is not supported by structured attention; supported are {', '.join(SUPPORTED)}"
        )
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or (kind == "mistral" and model.config.sliding_window is not None):
        raise ValueError(
            f"this {kind} model has layers with a sliding window, which structured attention does not merge yet; "
            "use a checkpoint without one (sliding_window null in its config.json)"
        )
    install(model)
    check_hook(model)


def check_hook(model: PreTrainedModel) -> None:
    """Prove on the real model that the hook is called once in every layer and changes nothing when it should not.

    Runs a few tokens through the untouched attention and again with the first half as a one-group context. Takes two
    short forward passes.

    Raises:
        ValueError: a layer is not reached, or the two runs differ.
    """
    expected = list(range(model.config.num_hidden_layers))
    vocabulary = model.config.vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary // 4, vocabulary // 2, (12,), generator=generator).tolist()
    with torch.inference_mode():
        stock = model(torch.tensor([ids], device=model.device), use_cache=False).logits[0, 8:].float()
    context = encode_token_groups(model, [[ids[:8]]], bos="none", prefix=(), model_name="check", progress=False)
    call = AttentionCall(context)
    states = hidden_at(model, torch.tensor([ids[8:]]), torch.arange(8, 12)[None], call)
    if call.layers != expected:
        raise ValueError(
            f"structured attention reached layers {call.layers} of {type(model).__name__}, expected {expected}; "
            "this architecture is not supported"
        )
    hooked = logits_at(model, states[0]).float()
    difference = (hooked - stock).abs().max().item()
    allowed = (1e-3 if model.dtype == torch.float32 else 0.15) * max(1.0, stock.abs().max().item())
    if not difference <= allowed:
        raise ValueError(
            f"structured attention with one group and own weight 1 differs from {type(model).__name__} by "
            f"{difference:.2g} in its logits (allowed {allowed:.2g}); this architecture is not supported"
        )
