"""The relatives of structured prompting, a few lines each over the same encoded groups.

With `lse` the log-sum-exp of a part's scores and M the number of groups:

| method | rule | source |
|---|---|---|
| structured | own lse + log(own weight), default M | Hao et al. 2022, arXiv 2212.06713 |
| windows | own lse + 0: parallel context windows | Ratner et al. 2023, arXiv 2212.10947 |
| ape | context scores / T, context lse * S, the shared prefix left alone | Yang et al. 2025, arXiv 2502.05431 |
| ensemble | log sum_g w_g P_g(label): groups vote with their label distributions | Yang et al. 2023, arXiv 2305.15262 |
| nbce | (1 + b) log P_g* - b log P_0 a token; g* of lowest entropy | Su et al. 2024, arXiv 2403.17552 |
| sequential | one group, own weight 1: the ordinary long prompt | |
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lmops_lab.attention.call import AttentionCall
from lmops_lab.attention.context import GroupedContext, Number, OwnWeight
from lmops_lab.attention.forward import logits_at
from lmops_lab.attention.grouping import Tokens
from lmops_lab.attention.scoring import batches_of_states, check_queries, score_labels, sum_over_labels
from lmops_lab.attention.trie import LabelTrie
from lmops_lab.shapes import LabelScores

METHODS = ("structured", "windows", "ape", "ensemble", "nbce", "sequential")


def score_method(
    model: PreTrainedModel,
    queries: Sequence[Tokens],
    labels: Sequence[Tokens],
    *,
    context: GroupedContext,
    method: str = "structured",
    own_weight: OwnWeight = "groups",
    temperature: Number = 0.9,
    exponent: Number = 0.9,
    beta: Number = 0.25,
    group_weights: Sequence[Number] | None = None,
    progress: bool = False,
) -> LabelScores:
    """Log-scores of all labels by one of `METHODS`: float32 [queries, labels], nats.

    Args:
        own_weight: of structured prompting.
        temperature, exponent: T and S of APE, both in (0, ...]; at 1 and 1 it is parallel windows.
        beta: of NBCE, how strongly the answer without context is subtracted; at least 0.
        group_weights: of the ensemble, one positive number a group; default all equal.

    Raises:
        ValueError: an unknown method, a setting outside its range, or `sequential` with more than one group.
    """
    check_method(method, temperature=temperature, exponent=exponent, beta=beta)
    if method == "sequential" and context.groups != 1:
        raise ValueError(f"sequential takes one group, this context has {context.groups}; encode one long prompt")
    if method == "ensemble":
        return _ensemble(model, queries, labels, context, group_weights, progress=progress)
    if method == "nbce":
        return _nbce(model, queries, labels, context, beta)
    weight = own_weight if method == "structured" else 1.0
    ape = {"temperature": temperature, "exponent": exponent} if method == "ape" else {}
    return score_labels(model, queries, labels, context=context, own_weight=weight, progress=progress, **ape)


def check_method(method: str, *, temperature: Number = 0.9, exponent: Number = 0.9, beta: Number = 0.25) -> None:
    """Refuse an unknown method or a setting outside its range.

    Raises:
        ValueError: with the value and what is allowed.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; choose among {', '.join(METHODS)}")
    for name, value in (("temperature", temperature), ("exponent", exponent)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} is {value!r}; APE needs a finite number above 0")
    if not (beta >= 0 and math.isfinite(beta)):
        raise ValueError(f"beta is {beta!r}; NBCE needs a finite number from 0")


def _ensemble(
    model: PreTrainedModel,
    queries: Sequence[Tokens],
    labels: Sequence[Tokens],
    context: GroupedContext,
    group_weights: Sequence[Number] | None,
    *,
    progress: bool,
) -> LabelScores:
    weights = [1.0] * context.groups if group_weights is None else list(group_weights)
    if len(weights) != context.groups or not all(w > 0 and math.isfinite(w) for w in weights):
        raise ValueError(f"group_weights are {weights}; give one positive number for each of {context.groups} groups")
    votes = [
        score_labels(model, queries, labels, context=context.subset([g]), own_weight=1.0, progress=progress)
        for g in range(context.groups)
    ]
    logs = torch.log_softmax(torch.stack(votes), dim=-1)  # [groups, queries, labels]: each group's own distribution
    log_weights = torch.log_softmax(torch.tensor(weights).log(), dim=0)
    return torch.logsumexp(logs + log_weights[:, None, None], dim=0)


def _nbce(
    model: PreTrainedModel,
    queries: Sequence[Tokens],
    labels: Sequence[Tokens],
    context: GroupedContext,
    beta: float,
) -> LabelScores:
    """Naive Bayes over contexts: at every token the most certain group speaks, against the model without context.

    The shared prefix, where there is one, stands in front of the query without context too.
    """
    trie = LabelTrie.build(labels)
    check_queries(model, queries, trie, context.end)
    scores = torch.empty(len(queries), len(labels))
    prefix = context.prefix_only()
    parts = [context.subset([g]) for g in range(context.groups)]
    tokens = trie.distinct_tokens()
    # One batch after the other, and within it one group after the other: a distribution over the whole vocabulary for
    # every group at once would fill the memory.
    runs = [batches_of_states(model, queries, trie, part, AttentionCall(part)) for part in parts]
    alone = batches_of_states(model, queries, trie, prefix, AttentionCall(prefix))
    for (batch, bare), *grouped in zip(alone, *runs, strict=True):
        pooled, lowest = None, None
        for _, states in grouped:
            logs = _log_distribution(model, states)  # [rows, V]
            entropy = -(logs.exp() * logs).sum(-1)  # [rows], nats
            if pooled is None or lowest is None:
                pooled, lowest = logs, entropy
            else:
                better = entropy < lowest
                pooled = torch.where(better[:, None], logs, pooled)
                lowest = torch.where(better, entropy, lowest)
        assert pooled is not None
        mixed = torch.log_softmax((1 + beta) * pooled - beta * _log_distribution(model, bare), dim=-1)
        sum_over_labels(scores, batch, trie, mixed[:, torch.tensor(tokens, device=mixed.device)])
    return scores


def _log_distribution(model: PreTrainedModel, states: Tensor) -> Tensor:
    return logits_at(model, states.flatten(0, 1)).float().log_softmax(-1)
