"""Seeded draws of demonstrations, nested so that a smaller k is the beginning of a larger one; and their orders."""

from collections.abc import Sequence

import numpy as np

from lmops_lab.icl.loaders import nearest
from lmops_lab.icl.tasks import Example

ORDERS = ("drawn", "shuffled", "sorted", "reversed")


def draw_demonstrations(examples: Sequence[Example], k: int, seed: int, *, balanced: bool = True) -> list[Example]:
    """Draw k distinct examples in random order, reproducible from the seed.

    Nested: the draw for a smaller k with the same seed is a prefix of this one, so a curve compares like with like.
    Balanced draws go round by round, one example of every label in a new random order each round; any k then holds the
    labels as evenly as whole numbers allow.

    Raises:
        ValueError: k is negative or larger than the data (balanced: than its rarest label allows).
    """
    rng = np.random.default_rng([seed, 0])
    if not balanced:
        if not 0 <= k <= len(examples):
            raise ValueError(f"k = {k} demonstrations, but there are {len(examples)} training examples")
        return [examples[i] for i in rng.permutation(len(examples))[:k]]
    by_label: dict[str, list[Example]] = {}
    for example in examples:
        by_label.setdefault(example.label, []).append(example)
    labels = sorted(by_label)
    rarest = min(labels, key=lambda label: len(by_label[label]))
    most = len(by_label[rarest]) * len(labels)
    if not 0 <= k <= most:
        raise ValueError(
            f"k = {k} balanced demonstrations, but label {rarest!r} has only {len(by_label[rarest])} of the "
            f"{len(examples)} training examples, enough for k = {most}; lower k or use balanced=False"
        )
    shuffled = {label: [by_label[label][i] for i in rng.permutation(len(by_label[label]))] for label in labels}
    drawn: list[Example] = []
    for round_ in range(-(-k // len(labels))):
        drawn += [shuffled[labels[i]][round_] for i in rng.permutation(len(labels))]
    return drawn[:k]


def draw_queries(examples: Sequence[Example], count: int, seed: int = 0) -> list[int]:
    """Indices of `count` distinct test examples in random order; the same for every k, method and seed of a curve.

    Raises:
        ValueError: fewer than 1, or more than there are.
    """
    if not 1 <= count <= len(examples):
        raise ValueError(f"queries = {count}, but the task has {len(examples)} test examples")
    return np.random.default_rng([seed, 1]).permutation(len(examples))[:count].tolist()


def order_demonstrations(
    drawn: Sequence[Example], order: str, seed: int = 0, labels: Sequence[str] = ()
) -> list[Example]:
    """The same demonstrations in another order.

    Args:
        drawn: demonstrations as drawn.
        order: "drawn"; "shuffled" (anew for every seed, so that orders can be compared on one set); "sorted" by label,
            a stress that puts whole groups under one label; or "reversed".
        seed: of the shuffle.
        labels: the order of "sorted"; default alphabetical.

    Raises:
        ValueError: an unknown order, or an example whose label is not among `labels`.
    """
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}; choose among {', '.join(ORDERS)}{nearest(order, ORDERS)}")
    if order == "shuffled":
        return [drawn[i] for i in np.random.default_rng([seed, 6]).permutation(len(drawn))]
    if order == "sorted":
        ranks = list(labels) or sorted({example.label for example in drawn})
        unknown = sorted({example.label for example in drawn} - set(ranks))
        if unknown:
            raise ValueError(f"demonstrations have labels {unknown}, which are not among {ranks}; give all labels")
        return sorted(drawn, key=lambda example: ranks.index(example.label))
    return list(drawn) if order == "drawn" else list(drawn)[::-1]
