"""Where attention goes: the share of every group, or of every demonstration, in each layer and head.

The log-sum-exps of the merge hold the answer: a part with log-sum-exp `l_g` receives `exp(l_g - l)` of the attention,
`l` being that of the union. The shares of all groups, of the shared prefix and of the own part add up to 1.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lmops_lab.attention.call import AttentionCall
from lmops_lab.attention.context import GroupedContext, OwnWeight, log_own_weight
from lmops_lab.attention.forward import hidden_at, position_limit
from lmops_lab.attention.grouping import Tokens


def mass_of_tokens(
    model: PreTrainedModel,
    queries: Sequence[Tokens],
    context: GroupedContext,
    *,
    own_weight: OwnWeight = "groups",
    by: str = "group",
) -> Tensor:
    """Attention that each group receives from the queries' last tokens: [layers, heads, groups + 1], rows sum to 1.

    The last column is the own part (the query itself, with its weight, and the model's sinks where it has some). A
    shared prefix counts as a part of its own and stands first.

    Args:
        queries: token ids; the mean over all of them is returned.
        by: "group", or "demonstration" for a column each (a slower diagnostic: one attention per demonstration).

    Raises:
        ValueError: an unknown `by`, no queries, lengths of demonstrations that are not known, or a model that only the
            packed route reaches.
    """
    segments = tuple(_segments(context, by))
    if not queries or not all(queries):
        raise ValueError(f"attention mass needs queries of at least one token, got {list(map(len, queries))}")
    longest = max(map(len, queries))
    if context.end + longest > position_limit(model):
        raise ValueError(
            f"a query of {longest} tokens passes the model's {position_limit(model)} positions: {context.end} are "
            "taken by the context; shorten it"
        )
    total: dict[int, Tensor] = {}

    def add(layer: int, mass: Tensor) -> None:
        last = mass[:, 0, :, -1].T.float().cpu()  # [heads, segments + 1] of the last token
        total[layer] = total[layer] + last if layer in total else last

    log_weight = log_own_weight(own_weight, context.groups)
    for query in queries:
        call = AttentionCall(context, log_weight, segments=segments, mass=add)
        positions = torch.arange(context.end, context.end + len(query))[None]
        hidden_at(model, torch.tensor([list(query)]), positions, call)
    return torch.stack([total[layer] for layer in sorted(total)]) / len(queries)


def _segments(context: GroupedContext, by: str) -> list[slice]:
    if by == "group":
        lengths = list(context.group_tokens)
    elif by == "demonstration":
        lengths = list(context.example_tokens)
        if sum(lengths) != sum(context.group_tokens):
            raise ValueError(
                "the lengths of this context's demonstrations are not known; encode it again or use by='group'"
            )
    else:
        raise ValueError(f"by is {by!r}; choose 'group' or 'demonstration'")
    lengths = [context.prefix_tokens, *lengths] if context.prefix_tokens else lengths
    ends = list(itertools.accumulate(lengths, initial=0))
    return [slice(first, last) for first, last in itertools.pairwise(ends)]
