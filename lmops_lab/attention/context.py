"""GroupedContext: demonstrations encoded once, kept as ragged keys and values that every query shares."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lmops_lab.shapes import ContextKeys, ContextValues, StoredKeys, StoredValues

# "groups" (M), "sqrt_groups" or a number; "none", "group" or "shared". Plain types: a wrong word gets our own error.
OwnWeight = int | float | str
Number = int | float
BosPolicy = str


@dataclass(frozen=True, eq=False)
class GroupedContext:
    """M groups of demonstrations as keys and values, one pair of tensors a layer, groups one after the other.

    Keys carry their positions (rotary or learned), so the columns need no padding and no mask. Every group ends at
    position `end - 1`; a query starts at `end`, whatever M is.

    Attributes:
        keys, values: per layer [kv_heads, columns, dim]; columns = shared prefix, then group 0, group 1, ... Values may
            have a width of their own.
        prefix_tokens: columns of the prefix that all groups share (0 without one).
        group_tokens: columns of each group, the shared prefix not counted.
        group_examples: demonstrations in each group.
        example_tokens: columns of each demonstration in order, where they are known (a BOS token counts as part of the
            first of its group); empty otherwise.
        end: position of the first token of a query.
        bos: where the beginning-of-sequence token sits: "none", one in every "group", or one "shared" prefix.
        model: fingerprint of the model that encoded it (see `LanguageModel.fingerprint`).
        key_scales, value_scales: of an int8 context (see `quantized`), per layer [kv_heads, 1, dim] and
            [kv_heads, columns, 1]; empty otherwise.
    """

    keys: tuple[StoredKeys, ...]
    values: tuple[StoredValues, ...]
    prefix_tokens: int
    group_tokens: tuple[int, ...]
    group_examples: tuple[int, ...]
    end: int
    bos: BosPolicy
    model: str
    example_tokens: tuple[int, ...] = ()
    key_scales: tuple[torch.Tensor, ...] = ()
    value_scales: tuple[torch.Tensor, ...] = ()

    @property
    def groups(self) -> int:
        """M, the number of groups really kept."""
        return len(self.group_tokens)

    @property
    def examples(self) -> int:
        """Demonstrations in all groups together."""
        return sum(self.group_examples)

    @property
    def tokens(self) -> int:
        """Columns of keys that a query reads in every layer."""
        return self.prefix_tokens + sum(self.group_tokens)

    def layer(self, layer: int) -> tuple[ContextKeys, ContextValues]:
        """Keys and values [kv_heads, columns, dim] of one layer, as numbers to compute with."""
        key, value = self.keys[layer], self.values[layer]
        if self.key_scales:
            return key * self.key_scales[layer], value * self.value_scales[layer]
        return key, value

    def quantized(self) -> "GroupedContext":
        """The same context in int8: about half the memory of bfloat16, a quarter of float32.

        Keys share a scale over all columns of a channel, because a few channels of keys are large everywhere; values
        have one per column, because tokens differ (Liu et al. 2024, KIVI, arXiv 2402.02750). What it costs in accuracy
        is in docs/measurements.md.
        """
        if self.key_scales:
            return self
        keys, key_scales = zip(*(_to_int8(key, dim=1) for key in self.keys), strict=True)
        values, value_scales = zip(*(_to_int8(value, dim=2) for value in self.values), strict=True)
        return replace(self, keys=keys, values=values, key_scales=key_scales, value_scales=value_scales)

    def positions(self) -> torch.Tensor:
        """Position [columns] of every column: the shared prefix from 0, each group up to `end - 1`."""
        groups = (torch.arange(self.end - tokens, self.end) for tokens in self.group_tokens)
        return torch.cat([torch.arange(self.prefix_tokens), *groups])

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(t.nbytes for t in (*self.keys, *self.values, *self.key_scales, *self.value_scales))

    def __repr__(self) -> str:
        return (
            f"GroupedContext({self.examples} demonstrations in {self.groups} groups, {self.tokens} tokens, "
            f"{self.nbytes / 1e6:.0f} MB, queries start at position {self.end})"
        )

    def save(self, path: Path | str) -> Path:
        """Write to one safetensors file (see `LanguageModel.load_context`)."""
        from lmops_lab.attention.files import save_context

        return save_context(self, path)

    def subset(self, groups: Sequence[int]) -> "GroupedContext":
        """The context of these groups only, in this order, without encoding anything again.

        A run of leading groups (0, 1, 2, ...) shares memory with this context; any other choice copies its columns.
        Positions stay as they are: groups were right-aligned to the longest one of the whole context.

        Raises:
            ValueError: an empty choice, a group twice, or one that does not exist.
        """
        chosen = list(groups)
        unknown = [g for g in chosen if not 0 <= g < self.groups]
        if not chosen or unknown or len(set(chosen)) < len(chosen):
            raise ValueError(f"groups {chosen} are no choice among 0..{self.groups - 1}: each once, at least one")
        ends = torch.tensor((0, *self.group_tokens)).cumsum(0) + self.prefix_tokens
        if chosen == list(range(len(chosen))):
            columns: slice | torch.Tensor = slice(0, int(ends[len(chosen)]))
        else:
            runs = [torch.arange(self.prefix_tokens), *(torch.arange(int(ends[g]), int(ends[g + 1])) for g in chosen)]
            columns = torch.cat(runs).to(self.keys[0].device)
        firsts = torch.tensor((0, *self.group_examples)).cumsum(0).tolist()
        lengths = tuple(n for g in chosen for n in self.example_tokens[firsts[g] : firsts[g + 1]])
        return replace(
            self._columns(columns),
            group_tokens=tuple(self.group_tokens[g] for g in chosen),
            group_examples=tuple(self.group_examples[g] for g in chosen),
            example_tokens=lengths,
        )

    def prefix_only(self) -> "GroupedContext | None":
        """What a query sees without any demonstration: the shared prefix alone, or None where there is none."""
        if not self.prefix_tokens:
            return None
        return replace(
            self._columns(slice(0, self.prefix_tokens)),
            prefix_tokens=0,
            group_tokens=(self.prefix_tokens,),
            group_examples=(0,),
            example_tokens=(),
            end=self.prefix_tokens,
        )

    def leave_one_out(self, group: int) -> "GroupedContext":
        """The context without one of its groups, without encoding anything again.

        Raises:
            ValueError: no such group, or the only one.
        """
        if self.groups < 2 or not 0 <= group < self.groups:
            raise ValueError(
                f"group {group} cannot be left out of {self.groups}; give one of at least two groups, from 0"
            )
        return self.subset([g for g in range(self.groups) if g != group])

    def _columns(self, columns: slice | torch.Tensor) -> "GroupedContext":
        def taken(layers: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return tuple(layer[:, columns] for layer in layers)

        return replace(self, keys=taken(self.keys), values=taken(self.values), value_scales=taken(self.value_scales))

    def cut(self, tokens: int, examples: int) -> "GroupedContext":
        """The first `tokens` tokens of the only group: a causal prefix, exactly as if encoded alone.

        This is how one long sequential prompt yields every smaller k (without a copy).

        Raises:
            ValueError: more than one group, or more tokens than the group has.
        """
        if self.groups != 1 or not 0 < tokens <= self.group_tokens[0]:
            raise ValueError(
                f"cannot cut {tokens} tokens from {self.groups} groups of {self.group_tokens} tokens; "
                "cutting back needs exactly one group and at most its length"
            )
        return replace(
            self._columns(slice(0, self.prefix_tokens + tokens)),
            group_tokens=(tokens,),
            group_examples=(examples,),
            example_tokens=self.example_tokens[:examples],
            end=self.end - (self.group_tokens[0] - tokens),
        )


def _to_int8(tensor: ContextKeys, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric int8 along one dimension, with scales that turn it back into the tensor's own dtype."""
    scale = tensor.abs().amax(dim, keepdim=True).float().clamp_min(1e-12) / 127
    return (tensor / scale).round().clamp(-127, 127).to(torch.int8), scale.to(tensor.dtype)


def concat(contexts: Sequence[GroupedContext]) -> GroupedContext:
    """One context with the groups of all of these, in order; all must stem from one model and end at one position.

    Raises:
        ValueError: nothing to join, or contexts that differ in model, end, BOS policy or shared prefix length.
    """
    if not contexts:
        raise ValueError("concat needs at least one context")
    first = contexts[0]
    for other in contexts[1:]:
        for name in ("model", "end", "bos", "prefix_tokens"):
            if getattr(first, name) != getattr(other, name):
                raise ValueError(
                    f"contexts differ in {name}: {getattr(first, name)!r} and {getattr(other, name)!r}; "
                    "encode them with the same model, bos and end"
                )
    if len(contexts) == 1:
        return first
    if any(context.key_scales for context in contexts):
        raise ValueError("int8 contexts have scales of their own and cannot be joined; join first, then quantize")

    def join(layers: Sequence[tuple[StoredKeys, ...]]) -> tuple[StoredKeys, ...]:
        skip = first.prefix_tokens
        return tuple(
            torch.cat([parts[0], *(part[:, skip:] for part in parts[1:])], dim=1) for parts in zip(*layers, strict=True)
        )

    return replace(
        first,
        keys=join([c.keys for c in contexts]),
        values=join([c.values for c in contexts]),
        group_tokens=tuple(n for c in contexts for n in c.group_tokens),
        group_examples=tuple(n for c in contexts for n in c.group_examples),
        example_tokens=tuple(n for c in contexts for n in c.example_tokens)
        if all(c.example_tokens for c in contexts)
        else (),
    )


def log_own_weight(own_weight: OwnWeight, groups: int) -> float:
    """Log of the factor on the query's own unnormalised attention: log M unless told otherwise.

    Args:
        own_weight: "groups" (M, the paper's choice), "sqrt_groups", or any number > 0 (1 gives parallel windows).

    Raises:
        ValueError: a weight that is not a positive finite number.
    """
    if own_weight == "groups":
        return math.log(groups)
    if own_weight == "sqrt_groups":
        return 0.5 * math.log(groups)
    if isinstance(own_weight, str) or not (own_weight > 0 and math.isfinite(own_weight)):
        raise ValueError(f"own_weight is {own_weight!r}; give 'groups', 'sqrt_groups' or a finite number above 0")
    return math.log(own_weight)
