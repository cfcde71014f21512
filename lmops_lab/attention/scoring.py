"""Label log-probabilities of queries against a shared context: one forward pass per batch of queries."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from lmops_lab.attention.call import AttentionCall
from lmops_lab.attention.context import GroupedContext, Number, OwnWeight, log_own_weight
from lmops_lab.attention.forward import hidden_at, log_probabilities, position_limit
from lmops_lab.attention.grouping import Tokens
from lmops_lab.attention.trie import LabelTrie
from lmops_lab.shapes import LabelScores

# Own tokens of one forward pass, padding included.
BATCH_TOKENS = 1024


def score_labels(
    model: PreTrainedModel,
    queries: Sequence[Tokens],
    labels: Sequence[Tokens],
    *,
    context: GroupedContext | None = None,
    own_weight: OwnWeight = "groups",
    temperature: Number = 1.0,
    exponent: Number = 1.0,
    progress: bool = False,
) -> LabelScores:
    """Compute log P(label | context, query) of every label, summed over the label's tokens.

    Args:
        queries: token ids of each query, without the context.
        labels: token ids of each label, as they follow a query.
        context: encoded demonstrations; None scores the query alone from position 0.
        own_weight: factor on the query's attention to itself, default M.
        temperature, exponent: APE's T and S (see `lmops_lab.attention.methods`); 1 and 1 leave the context as it is.

    Returns:
        float32 [queries, labels], nats, in the order given.

    Raises:
        ValueError: no queries, an empty one, a query too long for the model's positions, or a score that is not a
            number.
    """
    trie = LabelTrie.build(labels)
    check_queries(model, queries, trie, context.end if context else 0)
    log_weight = log_own_weight(own_weight, context.groups) if context else 0.0
    call = AttentionCall(context, log_weight, temperature=temperature, exponent=exponent)
    scores = torch.empty(len(queries), len(labels))
    tokens = torch.tensor(trie.distinct_tokens(), device=model.device)
    with tqdm(total=len(queries), desc="score", unit="query", disable=not progress, leave=False) as bar:
        for batch, states in batches_of_states(model, queries, trie, context, call):
            sum_over_labels(scores, batch, trie, log_probabilities(model, states.flatten(0, 1), tokens))
            bar.update(len(batch))
    if not torch.isfinite(scores).all():
        row, label = (~torch.isfinite(scores)).nonzero()[0].tolist()
        raise ValueError(
            f"the score of label {label} for query {row} is {scores[row, label].item()}; the model overflowed in "
            f"{model.dtype}: load it with dtype='float32'"
        )
    return scores


def check_queries(model: PreTrainedModel, queries: Sequence[Tokens], trie: LabelTrie, start: int) -> None:
    """Refuse queries that are missing, empty or too long for the model's positions.

    Raises:
        ValueError: with the query, its length and what is left.
    """
    if not queries:
        raise ValueError("there are no queries to score; give at least one")
    limit = position_limit(model)
    lengths = [len(query) for query in queries]
    if min(lengths) == 0:
        raise ValueError(f"query {lengths.index(0)} has no tokens; a query needs at least one")
    deepest = max(trie.depths, default=0)
    if start + max(lengths) + deepest > limit:
        index = lengths.index(max(lengths))
        raise ValueError(
            f"query {index} needs positions up to {start + max(lengths) + deepest} but the model has {limit}: "
            f"{start} are taken by the context, {max(lengths)} by the query, {deepest} by the labels; "
            "use smaller groups or a shorter query"
        )


def batches_of_states(
    model: PreTrainedModel,
    queries: Sequence[Tokens],
    trie: LabelTrie,
    context: GroupedContext | None,
    call: AttentionCall,
) -> Iterator[tuple[list[int], Tensor]]:
    """Hidden states that predict the labels: (query indices, [batch, 1 + nodes, width]), longest queries first.

    A row has the state of the query's last token, then one state for every node of the label trie.
    """
    start = context.end if context else 0
    lengths = [len(query) for query in queries]
    for batch in _batches(lengths, trie.nodes):
        ids, positions, mask = _rows([queries[i] for i in batch], trie, start, model.dtype)
        own_mask = None if mask is None else mask.to(model.device)
        filled = tuple(lengths[i] + trie.nodes for i in batch)
        this = replace(call, own_mask=own_mask, lengths=filled, layers=[], windows=[])
        states = hidden_at(model, ids, positions, this)  # [B, T, width]
        last = torch.tensor([lengths[i] - 1 for i in batch], device=states.device)
        read = last[:, None] + torch.arange(trie.nodes + 1, device=states.device)  # [B, 1 + nodes]
        yield batch, states[torch.arange(len(batch), device=states.device)[:, None], read]


def sum_over_labels(scores: LabelScores, batch: Sequence[int], trie: LabelTrie, logs: Tensor) -> None:
    """Add up the tokens of every label: logs [batch * (1 + nodes), distinct tokens] into the batch's rows of scores."""
    column = {token: i for i, token in enumerate(trie.distinct_tokens())}
    logs = logs.reshape(len(batch), trie.nodes + 1, -1).cpu()
    for label, path in enumerate(trie.paths):
        nodes, columns = [node + 1 for node, _ in path], [column[token] for _, token in path]
        scores[list(batch), label] = logs[:, nodes, columns].sum(-1)


def _rows(
    queries: Sequence[Tokens], trie: LabelTrie, start: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Right-padded ids and positions [B, T] of queries with their label nodes, and the mask if there are nodes."""
    lengths = [len(query) for query in queries]
    width = max(lengths) + trie.nodes
    ids = torch.zeros(len(queries), width, dtype=torch.long)
    positions = torch.zeros_like(ids)
    depths = torch.tensor(trie.depths, dtype=torch.long)
    for row, query in enumerate(queries):
        filled = lengths[row] + trie.nodes
        ids[row, : lengths[row]] = torch.tensor(query)
        ids[row, lengths[row] : filled] = torch.tensor(trie.tokens, dtype=torch.long)
        positions[row, : lengths[row]] = torch.arange(start, start + lengths[row])
        positions[row, lengths[row] : filled] = start + lengths[row] - 1 + depths
        positions[row, filled:] = start + lengths[row] - 1
    return ids, positions, trie.own_mask(lengths, width).to(dtype) if trie.nodes else None


def _batches(lengths: Sequence[int], nodes: int) -> list[list[int]]:
    """Query indices, longest first, in batches of about `BATCH_TOKENS` padded tokens."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    width = 0
    for index in order:
        if not batches or (len(batches[-1]) + 1) * width > BATCH_TOKENS:
            batches.append([])
            width = lengths[index] + nodes
        batches[-1].append(index)
    return batches


def mean_token_scores(scores: LabelScores, label_lengths: Sequence[int]) -> LabelScores:
    """Mean instead of summed token log-probability, the usual correction for labels of unequal length."""
    if min(label_lengths) < 1 or math.prod(scores.shape[1:]) != len(label_lengths):
        raise ValueError(f"{len(label_lengths)} label lengths for {scores.shape[1]} labels: {list(label_lengths)}")
    return scores / torch.tensor(label_lengths, dtype=scores.dtype)
