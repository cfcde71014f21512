"""How a seed becomes demonstrations, in one value: balance, order, wrong labels."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lmops_lab.icl.corruption import Share, corrupt_labels, flip_labels
from lmops_lab.icl.demonstrations import ORDERS, draw_demonstrations, order_demonstrations
from lmops_lab.icl.loaders import nearest
from lmops_lab.icl.tasks import CLASSIFICATION, Example, Task


@dataclass(frozen=True)
class Draw:
    """A rule that draws demonstrations; the same for every seed and k of a curve.

    Attributes:
        balanced: draw every label equally often; tasks without fixed labels are drawn at random whatever it says.
        order: "drawn", "shuffled", "sorted" or "reversed" (see `order_demonstrations`).
        corruption: share of wrong labels, 0 to 1.
        flipped: exchange every label for the next one, before the corruption.
        order_seed: of the shuffle: many orders of one set.
    """

    balanced: bool = True
    order: str = "drawn"
    corruption: Share = 0
    flipped: bool = False
    order_seed: int = 0

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            hint = nearest(self.order, ORDERS)
            raise ValueError(f"order is {self.order!r}; choose among {', '.join(ORDERS)}{hint}")
        if not 0 <= self.corruption <= 1:
            raise ValueError(f"corruption is {self.corruption}; give a share from 0 to 1 (0.25 is 25 %)")

    @property
    def settings(self) -> dict[str, Any]:
        """What distinguishes it from other draws, in plain values; the seed of a shuffle only where there is one."""
        known = asdict(self)
        if self.order != "shuffled":
            known.pop("order_seed")
        return known

    @property
    def nested(self) -> bool:
        """Whether a smaller k is the beginning of a larger one, so that a curve can cut it from one encode."""
        return self.order == "drawn"

    def demonstrations(self, task: Task, k: int, seed: int) -> list[Example]:
        """The k demonstrations of this seed.

        Labels are spoilt before the order changes, so the same examples have wrong labels in every order.

        Raises:
            ValueError: more than the data holds, or wrong labels for a task without fixed labels.
        """
        classification = task.kind == CLASSIFICATION
        if not classification and (self.corruption or self.flipped or self.order == "sorted"):
            raise ValueError(f"task {task.name!r} is of kind {task.kind!r}; it has no labels to spoil or to sort by")
        drawn = draw_demonstrations(task.train, k, seed, balanced=self.balanced and classification)
        if self.flipped:
            drawn = flip_labels(drawn, task.labels)
        if self.corruption:
            drawn = corrupt_labels(drawn, task.labels, self.corruption, seed)
        return order_demonstrations(drawn, self.order, self.order_seed, task.labels)


def pool_order(seed: int, groups: int) -> tuple[int, ...]:
    """The order in which a seed takes the groups of a pool that all seeds share; a smaller k is its beginning."""
    return tuple(np.random.default_rng([seed, 2]).permutation(groups).tolist())
