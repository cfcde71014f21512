"""Structured attention by the untouched model alone: the whole prompt in one row, under 4D masks, in float64.

Groups cannot see each other, the query sees all of them, and the own weight stands in the mask as its logarithm. Slow,
and written from the definition rather than from the package.
"""

import math

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask


def full_prompt_logits(model, groups, query, weight):
    """Logits [query tokens, V] of an untouched float64 model for right-aligned groups of token ids and a query."""
    config, kind = model.config, model.config.model_type
    end = max(map(len, groups))
    row = torch.tensor([[token for group in groups for token in group] + list(query)])
    spans = [range(end - len(group), end) for group in groups] + [range(end, end + len(query))]
    positions = torch.tensor([p for span in spans for p in span])
    part = torch.tensor([number for number, span in enumerate(spans) for _ in span])
    own = part == len(groups)
    order = torch.arange(len(part))
    visible = (part[:, None] == part) & (order[:, None] >= order) | own[:, None] & ~own
    # CodeGen adds its mask before it divides the scores by the root of the head width.
    log_weight = math.log(weight) * (config.n_embd // config.n_head) ** 0.5 if kind == "codegen" else math.log(weight)
    bias = torch.where(own[:, None] & own, log_weight, 0.0).to(model.dtype)
    low = -1e9

    def mask(window):
        seen = visible if window is None else visible & (positions[:, None] - positions < window)
        return torch.where(seen, bias, low)[None, None]

    options = {"position_ids": positions[None]}
    if kind in ("gemma2", "gemma3_text", "gpt_oss"):
        masks = {"full_attention": mask(None), "sliding_attention": mask(config.sliding_window)}
    else:
        masks = mask(getattr(config, "sliding_window", None))
    if kind in ("gemma2", "gpt_oss", "gemma3_text"):
        model.set_attn_implementation("eager")
    if kind == "gpt_oss":
        # A sink is weighed like the own part, so that identical groups equal one: in the query's rows it carries log M.
        _weigh_sinks(model, own, math.log(weight))
    if kind == "bloom":
        options = {}
        heads = config.n_head
        closest = 2 ** math.floor(math.log2(heads))
        slopes = [2 ** (-8 * (i + 1) / closest) for i in range(closest)]
        slopes += [2 ** (-8 * (2 * i + 1) / (2 * closest)) for i in range(heads - closest)]
        alibi = torch.tensor(slopes, dtype=model.dtype)[:, None, None] * positions
        model.transformer.build_alibi_tensor = lambda *_args, **_kwargs: alibi
    with torch.inference_mode():
        logits = model(row, attention_mask=masks, use_cache=False, **options).logits[0]
    return logits[own]


def _weigh_sinks(model, own, log_weight):
    """Give the sinks of the query's rows the own weight: eager attention knows one sink a head for all rows."""

    def attention(module, query, key, value, attention_mask, scaling, **_kwargs):
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = query @ key.transpose(2, 3) * scaling + attention_mask
        sinks = module.sinks.reshape(1, -1, 1, 1) + own.to(scores.dtype)[:, None] * log_weight
        scores = torch.cat([scores, sinks.expand(*scores.shape[:3], 1)], -1)
        return (scores.softmax(-1)[..., :-1] @ value).transpose(1, 2).contiguous(), None

    AttentionInterface.register("weighed_sinks", attention)
    AttentionMaskInterface.register("weighed_sinks", eager_mask)
    model.set_attn_implementation("weighed_sinks")
