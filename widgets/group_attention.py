"""Where a query's attention goes: layers by groups, or layers by heads, down to single demonstrations."""

from collections.abc import Sequence
from typing import Any

import anywidget
import numpy as np
import traitlets as tr
from numpy.typing import ArrayLike

from widgets import html
from widgets.attention_mass import group_mass

_TEXT_LIMIT = 2000  # characters of a demonstration that travel to the browser
_STATIC_COLUMNS = 40


class GroupAttention(html.Fallback, anywidget.AnyWidget):
    """A heat map of attention shares; a click or Enter on a cell shows that group's demonstrations.

    Attributes:
        head: the head shown, from 0; the number of heads means their mean.
        own: whether the own part is shown; without it, shares are among the groups.
        by_head: False: layers by groups. True: layers by heads, for the selected group.
        selected: [layer, column] of the selected cell, or [].
        detail: what is known about the selected group: {"title", "rows": [{"text", "share", "layer"}]}.
        message: what the reader must know.
    """

    _esm = html.front("group_attention.js")
    _css = html.STYLE

    shape = tr.List(tr.Int()).tag(sync=True)
    values = tr.Bytes(b"").tag(sync=True)
    among = tr.Bytes(b"").tag(sync=True)
    columns = tr.List(tr.Unicode()).tag(sync=True)
    head = tr.Int(0).tag(sync=True)
    own = tr.Bool(default_value=True).tag(sync=True)
    by_head = tr.Bool(default_value=False).tag(sync=True)
    selected = tr.List(tr.Int()).tag(sync=True)
    detail = tr.Dict().tag(sync=True)
    message = tr.Unicode("").tag(sync=True)

    def __init__(
        self,
        mass: ArrayLike,
        texts: Sequence[str] = (),
        *,
        demonstrations: Sequence[Sequence[str]] = (),
        demonstration_mass: Sequence[ArrayLike] = (),
    ) -> None:
        """Show attention shares [layers, heads, groups + 1], the last column being the own part.

        Args:
            mass: shares of attention, each head's summing to 1.
            texts: text of each group.
            demonstrations: for each group the texts of its demonstrations.
            demonstration_mass: for each group [layers, heads, demonstrations].

        Raises:
            ValueError: shapes or counts that do not fit, shares that are none.
        """
        self._mass = group_mass(mass, texts, demonstrations=demonstrations, demonstration_mass=demonstration_mass)
        layers, heads, columns = self._mass.mass.shape
        super().__init__()
        self.shape = [layers, heads + 1, columns]
        self.values = self._mass.with_mean_head().astype("<f4").tobytes()
        self.among = self._mass.among_groups().astype("<f4").tobytes()
        self.columns = self._mass.columns
        self.head = heads
        self.message = "\n".join(self._mass.notes)
        self.observe(self._explain, names="selected")

    def _explain(self, change: dict[str, Any]) -> None:
        self.detail = self.explain(*change["new"]) if len(change["new"]) == 2 else {}

    def explain(self, layer: int, column: int) -> dict[str, Any]:
        """What is known about a cell: its share, and the demonstrations of its group."""
        layers, _, columns = self._mass.mass.shape
        if not (0 <= layer < layers and 0 <= column < columns):
            return {"title": f"no cell ({layer}, {column}) in {layers} layers and {columns} columns", "rows": []}
        share = self._mass.mass[layer, :, column]
        name, best = self._mass.columns[column], int(share.argmax()) + 1
        title = f"layer {layer + 1}, {name}: mean share {share.mean():.4f}, largest {share.max():.4f} (head {best})"
        if column == columns - 1:
            return {"title": title, "rows": []}
        rows = [
            {"text": html.clean(text)[:_TEXT_LIMIT], "share": None if mean is None else round(mean, 6), "layer": peak}
            for text, mean, peak in self._mass.of_demonstrations(column)
        ]
        return {"title": title, "rows": rows}

    def __repr__(self) -> str:
        layers, heads, columns = self._mass.mass.shape
        return f"GroupAttention({layers} layers, {heads} heads, {columns - 1} groups)"

    def fallback(self) -> str:
        """The heat map of mean shares as a coloured table, the groups summed up, as HTML without scripts."""
        mean = self._mass.mass.mean(axis=1)  # [layers, groups + 1]
        shown = _shown_columns(mean.shape[1])
        top = float(mean.max()) or 1.0
        names = [self._mass.columns[i] for i in shown]
        rows = [
            f'<tr><th scope="row" style="font-weight:400;padding:0 6px">{layer + 1}</th>'
            + "".join(_cell(line[i], top, f"layer {layer + 1}, {name}") for i, name in zip(shown, names, strict=True))
            + "</tr>"
            for layer, line in enumerate(mean)
        ]
        head = "".join(
            f'<th scope="col" style="font-weight:400;padding:0 4px">{"own" if i == mean.shape[1] - 1 else i + 1}</th>'
            for i in shown
        )
        hidden = mean.shape[1] - len(shown)
        note = html.notice(f"{hidden} more groups are in the table below.") if hidden else ""
        heat = (
            f'<table style="border-collapse:collapse"><caption style="text-align:start">Mean share over heads: '
            f"layers by groups</caption><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        )
        summary = [
            [html.escape(name), f"{share:.4f}", f"{peak:.4f} in layer {layer}", self._texts(i)]
            for i, (name, share, layer, peak) in enumerate(self._mass.summary())
        ]
        table = html.table(("", "mean share", "largest", "demonstrations"), summary)
        return f'<div style="font-family:sans-serif">{html.notice(self.message)}{heat}{note}{table}</div>'

    def _texts(self, column: int) -> str:
        if column == self._mass.groups:
            return ""
        lines = [
            html.block(text if share is None else f"{share:.4f}  {text}")
            for text, share, _ in self._mass.of_demonstrations(column)
        ]
        return f"<details><summary>{len(lines)} texts</summary>{''.join(lines)}</details>"


def _shown_columns(columns: int) -> list[int]:
    """All columns, or as many evenly spread ones as a page can hold; the own part is always among them."""
    if columns <= _STATIC_COLUMNS:
        return list(range(columns))
    return sorted({int(i) for i in np.linspace(0, columns - 2, _STATIC_COLUMNS - 1)} | {columns - 1})


def _cell(share: float, top: float, name: str) -> str:
    strength = share / top
    ink = "#fff" if strength > 0.5 else "inherit"
    return (
        f'<td title="{html.escape(name)}: {share:.4f}" style="background:rgba(21,101,192,{strength:.2f});color:{ink};'
        f'padding:1px 4px;font-size:10px;text-align:center">{share:.2f}</td>'
    )
