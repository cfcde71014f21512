"""Generation behind a grouped context, through transformers' own `generate`.

Everything that `generate` offers (greedy, sampling, beams, stop strings, streamers) works unchanged: the model's cache
holds own tokens only, positions start where the context ends, and each step attends to the groups as scoring does. The
length of the context is carried explicitly, never guessed from a cache.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from lmops_lab.attention.call import AttentionCall, active
from lmops_lab.attention.context import GroupedContext, OwnWeight, log_own_weight
from lmops_lab.attention.forward import check_reached, position_limit, route_of
from lmops_lab.attention.grouping import Tokens
from lmops_lab.attention.packed import ContextCache, alibi_bias, generation_mask, has_alibi


@torch.inference_mode()
def generate_tokens(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    *,
    context: GroupedContext | None,
    own_weight: OwnWeight,
    max_new_tokens: int,
    pad_token: int,
    **options: Any,
) -> list[list[int]]:
    """New token ids for every prompt (and every returned sequence of it), the prompt itself left out.

    Args:
        options: whatever `transformers.GenerationMixin.generate` takes.

    Raises:
        ValueError: no prompt, an empty one, or one too long for the positions left.
        RuntimeError: the model's attention was exchanged after it was loaded.
    """
    start = context.end if context else 0
    check_prompts(prompts, start, max_new_tokens, position_limit(model))
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_token, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):  # left-padded, so that every row goes on at its end
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    log_weight = log_own_weight(own_weight, context.groups) if context else 0.0
    call = AttentionCall(context, log_weight, generating=True)
    with ExitStack() as stack:
        if route_of(model) == "packed":
            options["past_key_values"] = ContextCache(context)
            stack.enter_context(_masked_steps(model, call))
        else:
            options["past_key_values"] = DynamicCache()  # one that forgets nothing: the hook applies windows itself
            stack.enter_context(_positioned_steps(model, call))
            stack.enter_context(active(call))
        if not has_alibi(model):
            options["position_ids"] = (mask.cumsum(-1) - 1).clamp_min(0) + start
        output: Tensor = model.generate(  # type: ignore[operator]
            ids, attention_mask=mask, max_new_tokens=max_new_tokens, pad_token_id=pad_token, **options
        )
    return [row[width:].tolist() for row in output]


def check_prompts(prompts: Sequence[Tokens], start: int, max_new_tokens: int, limit: int) -> None:
    """Refuse prompts that are missing, empty or too long for the positions left.

    Raises:
        ValueError: with the prompt, its length and what is left.
    """
    if not prompts:
        raise ValueError("there are no prompts to continue; give at least one")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; ask for at least 1")
    lengths = [len(prompt) for prompt in prompts]
    if min(lengths) == 0:
        raise ValueError(f"prompt {lengths.index(0)} has no tokens; give it at least one character")
    longest = max(lengths)
    if start + longest + max_new_tokens > limit:
        raise ValueError(
            f"prompt {lengths.index(longest)} has {longest} tokens and {max_new_tokens} new ones are asked for, but "
            f"{limit - start} of the model's {limit} positions are left behind a context that ends at {start}; shorten "
            "it, ask for fewer, or use smaller groups"
        )


@contextmanager
def _positioned_steps(model: PreTrainedModel, call: AttentionCall) -> Iterator[None]:
    """Tell the call the positions of each step's tokens (sliding windows over the context need them), and check it.

    Every step has to reach every layer: a generation that goes round the hook looks like any other.
    """

    def note(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        call.positions = kwargs.get("position_ids")
        call.layers.clear()
        call.windows.clear()

    def check(_module: nn.Module, _args: Any, _output: Any) -> None:
        check_reached(model, call.layers)

    decoder = model.get_decoder()
    handles = decoder.register_forward_pre_hook(note, with_kwargs=True), decoder.register_forward_hook(check)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _masked_steps(model: PreTrainedModel, call: AttentionCall) -> Iterator[None]:
    """Hand each step the 4D mask (and the ALiBi bias) that stands for the context and the own weight."""
    context, decoder = call.context, model.get_decoder()
    columns = context.tokens if context else 0
    start = context.end if context else 0

    def prepare(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        ids: Tensor = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        tokens = ids.shape[1]
        own = kwargs["past_key_values"].get_seq_length() + tokens
        padding = kwargs.get("attention_mask")
        if padding is None:
            padding = torch.ones(ids.shape[0], own, dtype=torch.long, device=ids.device)
        kwargs["attention_mask"] = generation_mask(padding, tokens, columns, call.log_weight, model.dtype)
        if has_alibi(model):
            positions = (padding.cumsum(-1) - 1).clamp_min(0) + start
            if context is not None:
                shared = context.positions().to(ids.device).expand(ids.shape[0], -1)
                positions = torch.cat([shared, positions], dim=1)
            decoder.build_alibi_tensor = alibi_bias(decoder, positions)
        return args, kwargs

    handle = decoder.register_forward_pre_hook(prepare, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
        vars(decoder).pop("build_alibi_tensor", None)
