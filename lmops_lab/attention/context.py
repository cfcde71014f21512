"""GroupedContext: demonstrations encoded once, kept as ragged keys and values that every query shares."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lmops_lab.shapes import ContextKeys

# "groups" (M), "sqrt_groups" or a number; "none", "group" or "shared". Plain types: a wrong word gets our own error.
OwnWeight = int | float | str
BosPolicy = str


@dataclass(frozen=True, eq=False)
class GroupedContext:
    """M groups of demonstrations as keys and values, one pair of tensors a layer, groups one after the other.

    Keys carry their positions (rotary or learned), so the columns need no padding and no mask. Every group ends at
    position `end - 1`; a query starts at `end`, whatever M is.

    Attributes:
        keys, values: per layer [kv_heads, columns, dim]; columns = shared prefix, then group 0, group 1, ...
        prefix_tokens: columns of the prefix that all groups share (0 without one).
        group_tokens: columns of each group, the shared prefix not counted.
        group_examples: demonstrations in each group.
        end: position of the first token of a query.
        bos: where the beginning-of-sequence token sits: "none", one in every "group", or one "shared" prefix.
        model: fingerprint of the model that encoded it (see `LanguageModel.fingerprint`).
    """

    keys: tuple[ContextKeys, ...]
    values: tuple[ContextKeys, ...]
    prefix_tokens: int
    group_tokens: tuple[int, ...]
    group_examples: tuple[int, ...]
    end: int
    bos: BosPolicy
    model: str

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

    def layer(self, layer: int) -> tuple[ContextKeys, ContextKeys]:
        """Keys and values [kv_heads, columns, dim] of one layer."""
        return self.keys[layer], self.values[layer]

    def positions(self) -> torch.Tensor:
        """Position [columns] of every column: the shared prefix from 0, each group up to `end - 1`."""
        groups = (torch.arange(self.end - tokens, self.end) for tokens in self.group_tokens)
        return torch.cat([torch.arange(self.prefix_tokens), *groups])

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

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
        return replace(
            self,
            keys=tuple(key[:, columns] for key in self.keys),
            values=tuple(value[:, columns] for value in self.values),
            group_tokens=tuple(self.group_tokens[g] for g in chosen),
            group_examples=tuple(self.group_examples[g] for g in chosen),
        )

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
        columns = slice(0, self.prefix_tokens + tokens)
        return replace(
            self,
            keys=tuple(key[:, columns] for key in self.keys),
            values=tuple(value[:, columns] for value in self.values),
            group_tokens=(tokens,),
            group_examples=(examples,),
            end=self.end - (self.group_tokens[0] - tokens),
        )


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

    def join(layers: Sequence[tuple[ContextKeys, ...]]) -> tuple[ContextKeys, ...]:
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
