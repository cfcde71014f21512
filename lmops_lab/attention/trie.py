"""A token trie: all labels of a query scored in one forward pass, shared beginnings computed once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmops_lab.attention.grouping import Tokens


@dataclass(frozen=True)
class LabelTrie:
    """The labels' tokens as a tree that hangs below a query's last token.

    Only nodes with children have to be computed: the probability of a label's last token is read one node earlier. For
    single-token labels there are no nodes at all, and the query alone is the whole row.

    Attributes:
        tokens: token of each computed node.
        parents: node above it, -1 for the query's last token.
        depths: 1 for a child of the query's last token.
        paths: per label, its (node read, token) steps; node -1 is the query's last token.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    depths: tuple[int, ...]
    paths: tuple[tuple[tuple[int, int], ...], ...]

    @classmethod
    def build(cls, labels: Sequence[Tokens]) -> "LabelTrie":
        """The trie of these labels.

        Raises:
            ValueError: fewer than two labels, an empty one, or two with the same tokens.
        """
        if len(labels) < 2:
            raise ValueError(f"scoring needs at least 2 labels, got {len(labels)}")
        seen: dict[tuple[int, ...], int] = {}
        for index, label in enumerate(map(tuple, labels)):
            if not label:
                raise ValueError(f"label {index} has no tokens; give it at least one character")
            if label in seen:
                raise ValueError(f"labels {seen[label]} and {index} have the same tokens {label}; make them differ")
            seen[label] = index
        inner = sorted({tuple(label[:n]) for label in labels for n in range(1, len(label))}, key=lambda p: (len(p), p))
        node = {(): -1, **{path: i for i, path in enumerate(inner)}}
        return cls(
            tokens=tuple(path[-1] for path in inner),
            parents=tuple(node[path[:-1]] for path in inner),
            depths=tuple(len(path) for path in inner),
            paths=tuple(tuple((node[tuple(label[:n])], label[n]) for n in range(len(label))) for label in labels),
        )

    @property
    def nodes(self) -> int:
        """Nodes that have to be computed besides the query."""
        return len(self.tokens)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each label."""
        return tuple(len(path) for path in self.paths)

    def visible(self) -> Tensor:
        """Which node sees which: bool [nodes, nodes], each its ancestors and itself."""
        seen = torch.eye(self.nodes, dtype=torch.bool)
        for node, parent in enumerate(self.parents):  # parents come before their children
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen

    def distinct_tokens(self) -> list[int]:
        """Every token id that some label needs, in order."""
        return sorted({token for path in self.paths for _, token in path})

    def own_mask(self, query_lengths: Sequence[int], width: int) -> Tensor:
        """Additive mask [rows, 1, width, width] for rows of query tokens, then the nodes, then padding.

        Query tokens are causal; nodes see the whole query, their ancestors and themselves. Padding follows the causal
        rule, so that no row of the softmax is empty.
        """
        mask = torch.full((len(query_lengths), 1, width, width), -math.inf).triu(1)
        nodes = torch.where(self.visible(), 0.0, -math.inf)
        for row, length in enumerate(query_lengths):
            block = slice(length, length + self.nodes)
            mask[row, 0, block, block] = nodes
        return mask
