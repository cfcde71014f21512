"""Encode groups of demonstrations: batched, right-aligned, ragged, each token computed once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from lmops_lab.attention.cache import GroupCache
from lmops_lab.attention.call import AttentionCall
from lmops_lab.attention.context import BosPolicy, GroupedContext
from lmops_lab.attention.forward import hidden_at, key_value_shapes, position_limit
from lmops_lab.attention.grouping import Tokens, group_by_count, group_by_tokens

# Tokens of one forward pass. A layer's activations for 1,024 tokens (6 MB) stay in a laptop's cache; much larger passes
# are slower on a CPU, smaller ones lose matrix-product speed.
BATCH_TOKENS = 1024


@runtime_checkable
class Encoder(Protocol):
    """What encoding needs of a language model (`lmops_lab.LanguageModel` is one)."""

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model, with the hook installed."""

    @property
    def fingerprint(self) -> str:
        """Name, revision and dtype."""

    def tokens(self, text: str) -> list[int]:
        """Token ids without special tokens."""

    def bos_tokens(self, bos: BosPolicy) -> list[int]:
        """Token ids of the prefix that a policy asks for."""


def encode_groups(
    lm: Encoder,
    demonstrations: Sequence[str] | Sequence[Tokens],
    *,
    group_size: int | None = None,
    token_budget: int | None = None,
    bos: BosPolicy = "none",
    end: int | None = None,
    cache: GroupCache | None = None,
    progress: bool = True,
) -> GroupedContext:
    """Encode demonstrations in groups that do not see each other, once, for any number of queries.

    Args:
        demonstrations: texts or token ids, each ending in its own separator (usually a line break).
        group_size: whole demonstrations a group (default 64); or
        token_budget: tokens a group, filled with whole demonstrations.
        bos: beginning-of-sequence token: "none" (default, see docs/measurements.md for why), one in every "group", or
            one "shared" by all groups.
        end: position where queries will start; default right after the longest group.
        cache: encoded groups on disk to reuse and extend.

    Raises:
        ValueError: no demonstrations, an empty one, one that is too long, or both ways of grouping at once.
    """
    if group_size is not None and token_budget is not None:
        raise ValueError(f"give group_size ({group_size}) or token_budget ({token_budget}), not both")
    if isinstance(demonstrations, str):
        raise ValueError(f"demonstrations is one text, {demonstrations[:40]!r}; give a list of texts")  # noqa: TRY004
    tokens = [lm.tokens(d) if isinstance(d, str) else d for d in demonstrations]
    if token_budget is not None:
        groups = group_by_tokens(tokens, token_budget)
    else:
        groups = group_by_count(tokens, 64 if group_size is None else group_size)
    return encode_token_groups(
        lm.model,
        groups,
        bos=bos,
        prefix=lm.bos_tokens(bos),
        model_name=lm.fingerprint,
        end=end,
        cache=cache,
        progress=progress,
    )


def encode_documents(
    lm: Encoder,
    documents: Sequence[str],
    *,
    chunk_tokens: int | None = None,
    bos: BosPolicy = "none",
    cache: GroupCache | None = None,
    progress: bool = True,
) -> GroupedContext:
    """Encode documents side by side, each as a group of its own, to answer questions over all of them.

    Args:
        documents: texts; each should end in its own separator.
        chunk_tokens: a document longer than this is cut into several groups of at most that many tokens; None keeps
            every document whole, which must then fit the model's positions.

    Raises:
        ValueError: no documents, an empty one, or one that does not fit.
    """
    if isinstance(documents, str):
        raise ValueError(f"documents is one text, {documents[:40]!r}; give a list of texts")  # noqa: TRY004
    if chunk_tokens is not None and chunk_tokens < 1:
        raise ValueError(f"chunk_tokens is {chunk_tokens}; a chunk has at least 1 token")
    pieces: list[list[int]] = []
    for number, document in enumerate(documents):
        tokens = lm.tokens(document)
        if not tokens:
            raise ValueError(f"document {number} has no tokens: {document[:40]!r}; leave it out")
        step = chunk_tokens or len(tokens)
        pieces.extend(tokens[first : first + step] for first in range(0, len(tokens), step))
    return encode_groups(lm, pieces, group_size=1, bos=bos, cache=cache, progress=progress)


def empty_context(lm: Encoder, bos: BosPolicy) -> GroupedContext | None:
    """The context of zero demonstrations: the BOS token alone where the policy has one, else None.

    Zero-shot queries scored with it see exactly what demonstrations would have stood behind.
    """
    prefix = lm.bos_tokens(bos)
    if not prefix:
        return None
    return encode_token_groups(
        lm.model, [[prefix]], bos="none", prefix=(), model_name=lm.fingerprint, end=len(prefix), progress=False
    )


@dataclass(frozen=True)
class _Layout:
    """Rows to encode and where their keys and values go: row i fills columns firsts[i] .. firsts[i] + lengths[i]."""

    shared: list[int]
    rows: list[list[int]]
    end: int

    @property
    def lengths(self) -> list[int]:
        return [len(row) for row in self.rows]

    @property
    def firsts(self) -> list[int]:
        return (torch.tensor([0, *self.lengths]).cumsum(0)[:-1] + len(self.shared)).tolist()


def encode_token_groups(
    model: PreTrainedModel,
    groups: Sequence[Sequence[Tokens]],
    *,
    bos: BosPolicy,
    prefix: Tokens,
    model_name: str,
    end: int | None = None,
    cache: GroupCache | None = None,
    progress: bool = True,
) -> GroupedContext:
    """Encode each group on its own, so that its last token sits at position `end - 1`.

    With `bos="group"` the prefix tokens begin every group. With `bos="shared"` they sit once at positions 0.. and every
    group sees them. Without an `end`, the longest group decides it: it starts right after the prefix.

    Args:
        groups: token ids, as groups of demonstrations.
        prefix: token ids of the prefix (usually the one BOS token); ignored with `bos="none"`.
        end: position where queries will start; at least the longest row.

    Raises:
        ValueError: a group that does not fit before `end` or into the model's positions.
    """
    start = list(prefix) if bos == "group" else []
    rows = [start + [token for tokens in group for token in tokens] for group in groups]
    shared = list(prefix) if bos == "shared" else []
    longest = len(shared) + max(map(len, rows))
    layout = _Layout(shared, rows, longest if end is None else end)
    _check_length(model, layout, longest, groups)

    columns = len(shared) + sum(layout.lengths)
    keys, values = _allocate(model, columns)
    missing = list(range(len(rows)))
    if cache is not None:
        names = [cache.name(model_name, bos, shared, layout.end - len(row), row) for row in rows]
        missing = [
            i
            for i, (name, first) in enumerate(zip(names, layout.firsts, strict=True))
            if not cache.read(name, keys, values, slice(first, first + layout.lengths[i]))
        ]
        if shared and not missing:  # the shared prefix is not a group; it takes one token's pass to encode again
            missing_prefix = encode_token_groups(
                model, [[shared]], bos="none", prefix=(), model_name=model_name, end=len(shared), progress=False
            )
            for layer in range(len(keys)):
                keys[layer][:, : len(shared)] = missing_prefix.keys[layer]
                values[layer][:, : len(shared)] = missing_prefix.values[layer]
    for batch in _encode_rows(model, layout, missing, keys, values, progress):
        for i in batch:
            if cache is None:
                continue
            cache.write(names[i], keys, values, slice(layout.firsts[i], layout.firsts[i] + layout.lengths[i]))
    return GroupedContext(
        keys=keys,
        values=values,
        prefix_tokens=len(shared),
        group_tokens=tuple(layout.lengths),
        group_examples=tuple(len(group) for group in groups),
        end=layout.end,
        bos=bos,
        model=model_name,
        example_tokens=tuple(
            len(example) + (len(start) if first else 0)
            for group in groups
            for first, example in zip([True] + [False] * (len(group) - 1), group, strict=True)
        ),
    )


def _check_length(model: PreTrainedModel, layout: _Layout, longest: int, groups: Sequence[Sequence[Tokens]]) -> None:
    limit = position_limit(model)
    if longest <= layout.end < limit:
        return
    index = layout.lengths.index(max(layout.lengths))
    worst = max(range(len(groups[index])), key=lambda i: len(groups[index][i]))
    number = sum(len(group) for group in groups[:index]) + worst
    raise ValueError(
        f"group {index} ({len(groups[index])} demonstrations, {longest} tokens; its longest is demonstration {number} "
        f"with {len(groups[index][worst])}) does not fit: it has to end before position "
        f"{layout.end if longest > layout.end else limit - 1} of the model's {limit}; use smaller groups (group_size) "
        "or shorten that demonstration"
    )


def _allocate(model: PreTrainedModel, columns: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Empty keys and values [kv_heads, columns, dim] for every layer."""
    options: dict[str, Any] = {"dtype": model.dtype, "device": model.device}
    shapes = key_value_shapes(model)
    return (
        tuple(torch.empty((heads, columns, key_dim), **options) for heads, key_dim, _ in shapes),
        tuple(torch.empty((heads, columns, value_dim), **options) for heads, _, value_dim in shapes),
    )


class _LastLayerEncoded(Exception):  # noqa: N818
    """Ends a pass early: once the last layer's keys are kept, the rest of that layer would be thrown away."""


def _encode_rows(
    model: PreTrainedModel,
    layout: _Layout,
    chosen: Sequence[int],
    keys: tuple[Tensor, ...],
    values: tuple[Tensor, ...],
    progress: bool,
) -> Iterator[list[int]]:
    """Run the chosen rows through the model, write their keys and values into their columns, yield finished batches."""
    shared, lengths, firsts, end = layout.shared, layout.lengths, layout.firsts, layout.end
    skip = len(shared)
    total = sum(lengths[i] for i in chosen)
    with tqdm(total=total, desc="encode", unit="token", disable=not progress or not total, leave=False) as bar:
        for batch in _batches(chosen, lengths):
            width = max(lengths[i] for i in batch)
            ids = torch.zeros(len(batch), skip + width, dtype=torch.long)
            positions = torch.zeros_like(ids)
            for line, i in enumerate(batch):
                row = shared + layout.rows[i]
                ids[line, : len(row)] = torch.tensor(row)
                positions[line, :skip] = torch.arange(skip)
                aligned = torch.arange(end - lengths[i], end - lengths[i] + width)
                positions[line, skip:] = aligned.clamp_max(end - 1)  # padding repeats the last position

            def keep(layer: int, key: Tensor, value: Tensor, batch: Sequence[int] = batch) -> None:
                for line, i in enumerate(batch):
                    target, source = slice(firsts[i], firsts[i] + lengths[i]), slice(skip, skip + lengths[i])
                    keys[layer][:, target] = key[line, :, source]
                    values[layer][:, target] = value[line, :, source]
                keys[layer][:, :skip], values[layer][:, :skip] = key[0, :, :skip], value[0, :, :skip]
                if layer == len(keys) - 1:
                    raise _LastLayerEncoded

            try:
                hidden_at(model, ids, positions, AttentionCall(sink=keep))
            except _LastLayerEncoded:
                bar.update(sum(lengths[i] for i in batch))
                yield batch
            else:
                raise ValueError(f"{type(model).__name__} never called the attention hook of layer {len(keys) - 1}")


def _batches(chosen: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Row indices, longest first, in batches of about `BATCH_TOKENS` padded tokens (a long row goes alone)."""
    batches: list[list[int]] = []
    width = 0
    for index in sorted(chosen, key=lambda i: -lengths[i]):
        if not batches or (len(batches[-1]) + 1) * width > BATCH_TOKENS:
            batches.append([])
            width = lengths[index]
        batches[-1].append(index)
    return batches
