"""Demonstrations chosen for each query: by words (BM25), by the model's own mean hidden state, whole groups at a time.

A choice of single examples breaks the shared prefix: the chosen ones travel with the query (`PromptTokens.with_tail`).
A choice of groups keeps it: every query uses a subset of groups that were encoded once. The two go together: a few
similar examples next to the query, random groups from the cache before them (arXiv 2507.16217).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from lmops_lab.attention.context import GroupedContext, OwnWeight
from lmops_lab.icl.calibration import Scores
from lmops_lab.icl.prompts import PromptTokens
from lmops_lab.icl.tasks import Example
from lmops_lab.models import LanguageModel

Indices = NDArray[np.int64]

# Tokens of one forward pass, padding included.
BATCH_TOKENS = 1024


def bm25_similarity(queries: Sequence[str], pool: Sequence[str]) -> Scores:
    """BM25 score (Lucene's, k1 = 1.5, b = 0.75) of every text of the pool for every query: [queries, pool].

    Raises:
        ValueError: an empty pool.
    """
    import bm25s

    if not pool:
        raise ValueError("the pool of demonstrations is empty; give at least one text")
    # One-letter words and stop words count: a short question may have little else.
    options: dict[str, Any] = {
        "stopwords": [],
        "token_pattern": r"(?u)\b\w+\b",
        "show_progress": False,
        "return_ids": False,
    }
    words: Any = bm25s.tokenize(list(pool), **options)
    if not any(words):
        return np.zeros((len(queries), len(pool)))
    index = bm25s.BM25()
    index.index(words, show_progress=False)
    scores = np.zeros((len(queries), len(pool)))
    asked: Any = bm25s.tokenize(list(queries), **options)
    for row, query in enumerate(asked):
        known = [word for word in query if word in index.vocab_dict]
        if known:
            scores[row] = index.get_scores(known)
    return scores


def mean_hidden_states(lm: LanguageModel, texts: Sequence[str], *, progress: bool = True) -> NDArray[np.float32]:
    """Mean of the model's last hidden states over the tokens of each text: [texts, width].

    Raises:
        ValueError: no texts, one without tokens, or one longer than the model's positions.
    """
    if not texts:
        raise ValueError("there are no texts to embed; give at least one")
    rows = [lm.tokens(text) for text in texts]
    for number, row in enumerate(rows):
        if not 0 < len(row) <= lm.context_length:
            raise ValueError(f"text {number} has {len(row)} tokens; the model takes 1 to {lm.context_length}")
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found = np.empty((len(rows), int(lm.model.config.hidden_size)), np.float32)
    with tqdm(total=len(rows), desc="embed", unit="text", disable=not progress, leave=False) as bar:
        for batch in _batches(order, [len(row) for row in rows]):
            width = len(rows[batch[-1]])
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            real = torch.zeros_like(ids)
            for line, i in enumerate(batch):
                ids[line, : len(rows[i])] = torch.tensor(rows[i])
                real[line, : len(rows[i])] = 1
            ids, real = ids.to(lm.device), real.to(lm.device)
            with torch.inference_mode():
                output = lm.model.get_decoder()(input_ids=ids, attention_mask=real, use_cache=False)
            kept = output.last_hidden_state.float() * real[..., None]  # [B, T, width]
            found[batch] = (kept.sum(1) / real.sum(1)[:, None]).cpu().numpy()
            bar.update(len(batch))
    return found


def cosine_similarity(queries: NDArray[np.floating], pool: NDArray[np.floating]) -> Scores:
    """Cosine of the angle between every query's and every pool text's embedding: [queries, pool].

    Both are taken from the pool's mean first: the hidden states of a language model share one large direction, next to
    which all texts look alike.
    """
    mean = pool.mean(0, dtype=np.float64)
    left, right = (_unit(values - mean) for values in (queries, pool))
    return left @ right.T


def nearest_examples(similarity: Scores, k: int, *, exclude: Sequence[int] = ()) -> Indices:
    """The k most similar examples of each query, the most similar one last, next to the query: [queries, k].

    Args:
        exclude: examples that are not to be chosen, such as those of cached groups.

    Raises:
        ValueError: k is negative or more than there are to choose from.
    """
    left = similarity.shape[1] - len(set(exclude))
    if not 0 <= k <= left:
        raise ValueError(f"k = {k} of {left} examples ({similarity.shape[1]} less {len(set(exclude))} excluded)")
    allowed = np.array(similarity, float)
    allowed[:, list(exclude)] = -np.inf
    return np.argsort(-allowed, axis=1, kind="stable")[:, :k][:, ::-1].astype(np.int64)


def nearest_groups(similarity: Scores, members: Sequence[Sequence[int]], count: int, *, top: int = 4) -> Indices:
    """The `count` groups that suit each query best, as ascending group numbers: [queries, count].

    A group is as good as the mean similarity of its `top` best members: all of them would favour no group, one alone
    would be chance.

    Args:
        members: numbers of each group's examples in the similarity's columns.

    Raises:
        ValueError: a count below 1 or above the number of groups, or an empty group.
    """
    if not 1 <= count <= len(members) or not all(len(group) for group in members):
        raise ValueError(
            f"{count} groups of {len(members)}, of sizes {[len(g) for g in members]}; 1 or more, none empty"
        )
    best = [np.sort(similarity[:, list(group)], axis=1)[:, -top:].mean(1) for group in members]
    return np.sort(np.argsort(-np.stack(best, axis=1), axis=1, kind="stable")[:, :count], axis=1).astype(np.int64)


def random_groups(groups: int, count: int, queries: int, seed: int) -> Indices:
    """The same `count` random groups for all queries, ascending: the baseline of retrieval: [queries, count].

    Raises:
        ValueError: a count below 1 or above the number of groups.
    """
    if not 1 <= count <= groups:
        raise ValueError(f"{count} groups of {groups}; choose 1 or more")
    chosen = np.sort(np.random.default_rng([seed, 7]).permutation(groups)[:count])
    return np.tile(chosen, (queries, 1)).astype(np.int64)


def score_with_groups(
    lm: LanguageModel,
    queries: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    context: GroupedContext,
    chosen: Indices,
    *,
    own_weight: OwnWeight = "groups",
    progress: bool = True,
) -> Scores:
    """Label log-probabilities where every query uses its own groups of one encoded context: [queries, labels], nats.

    Nothing is encoded again; queries with the same choice are scored together.

    Args:
        chosen: group numbers of each query [queries, groups used].

    Raises:
        ValueError: another number of choices than queries, or whatever `LanguageModel.score` refuses.
    """
    if len(chosen) != len(queries):
        raise ValueError(f"{len(chosen)} choices of groups for {len(queries)} queries; give one each")
    scores = np.empty((len(queries), len(labels)))
    together: dict[tuple[int, ...], list[int]] = {}
    for row, groups in enumerate(chosen.tolist()):
        together.setdefault(tuple(groups), []).append(row)
    with tqdm(total=len(queries), desc="score", unit="query", disable=not progress, leave=False) as bar:
        for groups, rows in together.items():
            used = context.subset(groups)
            asked = [list(queries[row]) for row in rows]
            found = lm.score(asked, [list(label) for label in labels], context=used, own_weight=own_weight)
            scores[rows] = found.double().numpy()
            bar.update(len(rows))
    return scores


def tail_queries(
    prompts: PromptTokens, examples: Sequence[Example], pool: Sequence[Example], chosen: Indices
) -> list[list[int]]:
    """Tokens of queries that bring their chosen demonstrations along, to be scored alone or against cached groups.

    Args:
        chosen: numbers of each query's demonstrations in the pool, as `nearest_examples` gives them.

    Raises:
        ValueError: a query that passes the model's positions; it is named.
    """
    rows = [prompts.with_tail([pool[i] for i in tail], e) for e, tail in zip(examples, chosen.tolist(), strict=True)]
    longest = max(range(len(rows)), key=lambda i: len(rows[i]))
    if len(rows[longest]) >= prompts.lm.context_length:
        raise ValueError(
            f"query {longest} with its {chosen.shape[1]} demonstrations has {len(rows[longest])} tokens, the model "
            f"{prompts.lm.context_length} positions; choose fewer"
        )
    return rows


def _unit(values: NDArray[np.floating]) -> NDArray[np.floating]:
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def _batches(order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Row numbers, shortest first, in batches of about `BATCH_TOKENS` padded tokens."""
    batches: list[list[int]] = []
    for i in order:
        if not batches or (len(batches[-1]) + 1) * lengths[i] > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(i)
    return batches
