"""How a query gets its demonstrations in a curve, in one value: all the same, or chosen for each query."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmops_lab.icl.loaders import nearest

WAYS = ("none", "bm25", "embedding", "groups", "mixed")
SIMILARITIES = ("bm25", "embedding")


@dataclass(frozen=True)
class Selection:
    """A rule that chooses each query's demonstrations among candidates; the same for every seed and k of a curve.

    A seed draws the candidates, and every input chooses among them: the inputs of calibrations do, too, so that they
    tell what the whole pipeline says of them.

    Attributes:
        way: "none": all queries share the seed's demonstrations.
            "bm25", "embedding": the k most similar ones by words or by the model's own mean hidden state, the most
            similar one next to the query. Each query's demonstrations are encoded for it.
            "groups": the candidates are encoded once, as groups, and each query uses the k / group_size groups whose
            members suit it best.
            "mixed": a few similar ones next to the query, and before them the seed's first k - tail demonstrations,
            encoded once for all queries (arXiv 2507.16217).
        candidates: demonstrations that a seed draws to choose from.
        similarity: "bm25" or "embedding", of "groups" and "mixed".
        tail: how many similar ones "mixed" puts next to the query.
    """

    way: str = "none"
    candidates: int = 128
    similarity: str = "bm25"
    tail: int = 4

    def __post_init__(self) -> None:
        for what, word, known in (("selection", self.way, WAYS), ("similarity", self.similarity, SIMILARITIES)):
            if word not in known:
                raise ValueError(f"{what} is {word!r}; choose among {', '.join(known)}{nearest(word, known)}")
        for what, number in (("candidates", self.candidates), ("tail", self.tail)):
            if number < 1:
                raise ValueError(f"{what} is {number}; it starts at 1")

    def __bool__(self) -> bool:
        return self.way != "none"

    @property
    def measure(self) -> str:
        """What says how similar two texts are."""
        return self.way if self.way in SIMILARITIES else self.similarity

    @property
    def alone(self) -> bool:
        """Whether every query has a context of its own, which nothing else can use."""
        return self.way in SIMILARITIES

    @property
    def carried(self) -> int:
        """Demonstrations that travel with the query instead of being encoded before it."""
        return self.tail if self.way == "mixed" else 0

    @property
    def settings(self) -> dict[str, Any]:
        """What distinguishes it from other selections, in plain values; what has no bearing on it is left out."""
        if not self:
            return {"selection": "none"}
        known = {"selection": self.way, "candidates": self.candidates, "similarity": self.measure}
        return known | ({"tail": self.tail} if self.way == "mixed" else {})

    def check(self, ks: Sequence[int], methods: Sequence[str], group_size: int) -> None:
        """Refuse numbers of demonstrations and methods that it cannot choose for.

        Raises:
            ValueError: naming the setting and what would do.
        """
        if not self:
            return
        if max(ks) == 0:
            raise ValueError(f"k is {list(ks)}, so selection {self.way!r} has nothing to choose; give a k of 1 or more")
        if max(ks) > self.candidates:
            raise ValueError(f"k is {max(ks)} of {self.candidates} candidates; raise candidates or lower k")
        if self.way == "groups":
            if "sequential" in methods:
                raise ValueError("selection 'groups' chooses among groups, but 'sequential' has none; leave it out")
            uneven = [n for n in (*ks, self.candidates) if n % group_size]
            if uneven:
                raise ValueError(
                    f"selection 'groups' takes whole groups of {group_size}, but k or candidates is {uneven}; give "
                    f"multiples of {group_size}"
                )
        few = [k for k in ks if 0 < k <= self.carried]
        if few:
            raise ValueError(
                f"k is {few}, of which selection 'mixed' puts {self.tail} next to the query and nothing before "
                "them; give a larger k or a smaller tail"
            )


NO_SELECTION = Selection()
