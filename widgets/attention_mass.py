"""Where attention goes, by group: the shares of every layer and head, checked and summed up."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Mass = NDArray[np.float64]  # [layers, heads, groups + 1], the last one is the query's own part


@dataclass(frozen=True, eq=False)
class GroupMass:
    """Attention shares that have been checked.

    Attributes:
        mass: [layers, heads, groups + 1]; the last column is the own part (the query attending to itself).
        texts: text of each group.
        demonstrations: texts of each group's demonstrations; () where they are not known.
        demonstration_mass: per group [layers, heads, demonstrations], or () where not measured.
        notes: sentences about what is missing or odd.
    """

    mass: Mass
    texts: tuple[str, ...]
    demonstrations: tuple[tuple[str, ...], ...] = ()
    demonstration_mass: tuple[Mass, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def groups(self) -> int:
        """M."""
        return self.mass.shape[2] - 1

    @property
    def columns(self) -> list[str]:
        """Names of the columns: the groups from 1, then the own part."""
        return [f"group {i + 1}" for i in range(self.groups)] + ["own part"]

    def with_mean_head(self) -> Mass:
        """[layers, heads + 1, groups + 1]: the mean over heads comes last."""
        return np.concatenate([self.mass, self.mass.mean(axis=1, keepdims=True)], axis=1)

    def among_groups(self) -> Mass:
        """[layers, heads + 1, groups]: shares of what the groups get together; the own part is left out.

        The mean head is the mean of the heads' shares here, not the share of their mean. 0 where groups get nothing.
        """
        context = self.mass[..., :-1]
        total = context.sum(axis=-1, keepdims=True)
        shares = np.divide(context, total, out=np.zeros_like(context), where=total > 0)
        return np.concatenate([shares, shares.mean(axis=1, keepdims=True)], axis=1)

    def of_demonstrations(self, group: int) -> list[tuple[str, float | None, int | None]]:
        """A group's demonstrations: text, mean share over layers and heads, layer where it is largest (from 1)."""
        texts = self.demonstrations[group] if self.demonstrations else (self.texts[group],)
        if not self.demonstration_mass:
            return [(text, None, None) for text in texts]
        mass = self.demonstration_mass[group]
        by_layer = mass.mean(axis=1)  # [layers, demonstrations]
        return [(text, float(mass[..., i].mean()), int(by_layer[:, i].argmax()) + 1) for i, text in enumerate(texts)]

    def summary(self) -> list[tuple[str, float, int, float]]:
        """For each column: name, mean share, layer where it is largest (from 1), share there (mean over heads)."""
        by_layer = self.mass.mean(axis=1)  # [layers, groups + 1]
        peaks = by_layer.argmax(axis=0)
        return [
            (name, float(by_layer[:, i].mean()), int(peaks[i]) + 1, float(by_layer[peaks[i], i]))
            for i, name in enumerate(self.columns)
        ]


def group_mass(
    mass: ArrayLike,
    texts: Sequence[str] = (),
    *,
    demonstrations: Sequence[Sequence[str]] = (),
    demonstration_mass: Sequence[ArrayLike] = (),
) -> GroupMass:
    """Check attention shares and the texts that belong to them.

    Args:
        mass: [layers, heads, groups + 1], each row summing to 1; the last column is the own part.
        texts: text of each group.
        demonstrations: for each group the texts of its demonstrations.
        demonstration_mass: for each group [layers, heads, demonstrations].

    Raises:
        ValueError: shapes or counts that do not fit, negative shares, NaN.
    """
    table = np.asarray(mass, dtype=np.float64)
    if table.ndim != 3 or 0 in table.shape[:2] or table.shape[2] < 1:
        raise ValueError(f"attention mass has shape {table.shape}; expected [layers, heads, groups + 1]")
    if not np.isfinite(table).all() or (table < 0).any():
        odd = int((~np.isfinite(table) | (table < 0)).sum())
        raise ValueError(f"attention mass holds {odd} values that are no shares (NaN, infinite or negative)")
    groups = table.shape[2] - 1
    notes = []
    if not groups:
        notes.append("There is no group: the query attends to itself alone.")
    for what, found in (
        ("texts", texts),
        ("lists of demonstrations", demonstrations),
        ("demonstration masses", demonstration_mass),
    ):
        if len(found) not in (0, groups):
            raise ValueError(f"{len(found)} {what} for {groups} groups; give one a group")
    sums = table.sum(axis=-1)
    if np.abs(sums - 1).max() > 0.02:
        notes.append(f"Shares of a head should sum to 1; here they sum to {sums.min():.3f} to {sums.max():.3f}.")
    parts = tuple(np.asarray(part, dtype=np.float64) for part in demonstration_mass)
    for i, part in enumerate(parts):
        wanted = len(demonstrations[i]) if demonstrations else 1
        if part.shape != (*table.shape[:2], wanted):
            raise ValueError(
                f"demonstration mass of group {i + 1} has shape {part.shape}; expected {(*table.shape[:2], wanted)}"
            )
    if groups and not parts:
        notes.append("Shares of single demonstrations were not measured; a group shows its texts alone.")
    named = tuple(map(str, texts)) if texts else tuple("\n".join(d) for d in demonstrations) or ("",) * groups
    return GroupMass(table, named, tuple(tuple(map(str, d)) for d in demonstrations), parts, tuple(notes))
