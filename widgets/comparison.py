"""What a comparison of prompts holds: rows of pictures or texts over the same seeds, their scores, what differs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from widgets.html import clean
from widgets.pictures import image_hash
from widgets.prompt_text import Budget, token_budget, word_diff
from widgets.score_table import Scores, Summary, differing, orders, score_table, summaries

Cell = Image.Image | str | None


@dataclass(frozen=True, eq=False)
class Row:
    """One prompt with what it gave for every seed.

    Attributes:
        id: a name that stays when the prompt is edited.
        label: what kind of prompt it is ("original", "rewritten", ...).
        text: the prompt.
        cells: a picture or a text for every seed; None where there is none.
        keys: a hash of each cell, to tell equal ones.
        probabilities: label probabilities [seeds, labels], or None.
    """

    id: str
    label: str
    text: str
    cells: tuple[Cell, ...]
    keys: tuple[str | None, ...]
    probabilities: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Rows over the same seeds, with scores [prompts, seeds] and sentences about what is missing."""

    rows: tuple[Row, ...]
    seeds: tuple[str, ...]
    scores: Mapping[str, Scores]
    labels: tuple[str, ...] = ()
    gold: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def of_text(self) -> bool:
        """Whether cells are texts, not pictures."""
        return any(isinstance(cell, str) for row in self.rows for cell in row.cells)

    def summaries(self) -> dict[str, list[Summary]]:
        """Mean, interval and paired change of every score and row."""
        return {name: summaries(table) for name, table in self.scores.items()}

    def orders(self) -> dict[str, dict[str, list[int]]]:
        """Rows and seeds in the order of every score."""
        return orders(self.scores, len(self.rows), len(self.seeds))

    def differs(self) -> list[list[bool]]:
        """Which cells are not the first prompt's for the same seed."""
        return differing([row.keys for row in self.rows])

    def budgets(self, tokenizer: Callable[..., Any] | None, limit: int) -> list[Budget | None]:
        """Tokens of every prompt, where a tokenizer is known."""
        return [token_budget(tokenizer, row.text, limit) if tokenizer else None for row in self.rows]

    def row_of(self, row_id: str) -> int:
        """Place of a row. Raises KeyError with the known ids."""
        for i, row in enumerate(self.rows):
            if row.id == row_id:
                return i
        raise KeyError(f"no prompt {row_id!r}; known: {', '.join(row.id for row in self.rows)}")

    def with_row(
        self, row_id: str, text: str, cells: Sequence[Cell], scores: Mapping[str, Sequence[float]], *, new: bool
    ) -> "Comparison":
        """The comparison after a prompt was edited and run: in its place, or as a row of its own below it."""
        at = self.row_of(row_id)
        old = self.rows[at]
        fresh = replace(old, text=text, cells=tuple(cells), keys=_keys(cells), probabilities=None)
        if new:
            used = sum(row.label.startswith(f"{old.label}, edited") for row in self.rows)
            suffix = f" {used + 1}" if used else ""
            fresh = replace(fresh, id=f"p{len(self.rows)}", label=f"{old.label}, edited{suffix}")
        keep = at + 1 if new else at
        rows = (*self.rows[:keep], fresh, *self.rows[at + 1 :])
        tables = {}
        for name, table in self.scores.items():
            given = scores.get(name)
            line = np.full(len(self.seeds), np.nan) if given is None else np.asarray(given, dtype=np.float64)
            if line.shape != (len(self.seeds),):
                raise ValueError(f"score {name!r} gave {line.shape} numbers for {len(self.seeds)} pictures")
            tables[name] = np.concatenate([table[:keep], line[None], table[at + 1 :]])
        return replace(self, rows=rows, scores=tables)


def compare(
    prompts: Mapping[str, str] | Sequence[str],
    cells: Sequence[Sequence[Cell]] | None,
    *,
    seeds: Sequence[object] | None = None,
    scores: Mapping[str, ArrayLike] | None = None,
    probabilities: ArrayLike | None = None,
    labels: Sequence[str] = (),
    gold: Sequence[str] = (),
) -> Comparison:
    """Check and order what a comparison shows. Incomplete rows are padded and said to be so.

    Raises:
        ValueError: a number of rows, scores, seeds, labels or probabilities that does not fit.
    """
    names, texts = _named(prompts)
    grid = [list(row) for row in cells] if cells is not None else [[] for _ in names]
    if len(grid) != len(names):
        raise ValueError(f"{len(names)} prompts but {len(grid)} rows of results; give one row a prompt")
    for name, row in zip(names, grid, strict=True):
        for cell in row:
            if cell is not None and not isinstance(cell, Image.Image | str):
                raise ValueError(f"prompt {name!r} has a {type(cell).__name__}; give PIL images, texts or None")
    width = max((len(row) for row in grid), default=0)
    notes = []
    if not names:
        notes.append("There is no prompt to show.")
    elif not any(cell is not None for row in grid for cell in row):
        notes.append("There are no pictures or texts to show: the prompts stand alone.")
    short = [f"'{name}' has {len(row)}" for name, row in zip(names, grid, strict=True) if len(row) < width]
    if short and width:
        notes.append(f"Different numbers of seeds: {', '.join(short)} of {width}; the rest is shown as missing.")
    columns = _columns(seeds, width)
    padded = [[*row, *[None] * (len(columns) - len(row))] for row in grid]
    tables, more = score_table(scores or {}, len(names), len(columns))
    shares = _probabilities(probabilities, len(names), len(columns), labels)
    if gold and len(gold) != len(columns):
        raise ValueError(f"{len(gold)} right labels for {len(columns)} items; give one an item")
    rows = tuple(
        Row(f"p{i}", name, text, tuple(row), _keys(row), None if shares is None else shares[i])
        for i, (name, text, row) in enumerate(zip(names, texts, padded, strict=True))
    )
    return Comparison(rows, tuple(columns), tables, tuple(map(clean, labels)), tuple(map(clean, gold)), (*notes, *more))


def row_diff(comparison: Comparison, at: int) -> list[tuple[str, str]]:
    """A prompt against the first one, word by word; the first one is all "same"."""
    text = comparison.rows[at].text
    if at == 0:
        return [("same", text)] if text else []
    return [(kind, piece) for kind, piece in word_diff(comparison.rows[0].text, text)]


def stat_line(comparison: Comparison, at: int) -> str:
    """A row's scores in one line: mean, interval, and the paired change to the first prompt."""
    parts = []
    for name, found in comparison.summaries().items():
        s = found[at]
        if s.mean is None:
            parts.append(f"{name}: no scores")
            continue
        text = f"{name} {s.mean:.3f}" + (f" [{s.low:.3f}, {s.high:.3f}]" if s.low is not None else " (one seed)")
        if s.change is not None:
            bounds = f" [{s.change_low:+.3f}, {s.change_high:+.3f}]" if s.change_low is not None else ""
            text += f", change {s.change:+.3f}{bounds}"
        parts.append(text)
    return "; ".join(parts)


def _named(prompts: Mapping[str, str] | Sequence[str]) -> tuple[list[str], list[str]]:
    if isinstance(prompts, str):
        raise ValueError(  # noqa: TRY004 - one kind of error for everything that does not fit
            f"give a list of prompts or {{label: prompt}}, not the text {prompts[:40]!r}"
        )
    if isinstance(prompts, Mapping):
        return [clean(name) for name in prompts], [clean(text) for text in prompts.values()]
    return [f"prompt {i + 1}" for i in range(len(prompts))], [clean(text) for text in prompts]


def _columns(seeds: Sequence[object] | None, width: int) -> list[str]:
    columns = [clean(seed) for seed in seeds] if seeds is not None else [str(i) for i in range(width)]
    if width and len(columns) != width:
        raise ValueError(f"{len(columns)} seeds but {width} results a prompt; name every seed once")
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise ValueError(f"two seeds are called {twice!r}; give every column a name of its own")
    return columns


def _keys(cells: Sequence[Cell]) -> tuple[str | None, ...]:
    return tuple(image_hash(cell) if isinstance(cell, Image.Image) else cell for cell in cells)


def _probabilities(
    values: ArrayLike | None, prompts: int, items: int, labels: Sequence[str]
) -> NDArray[np.float64] | None:
    if values is None:
        return None
    table = np.asarray(values, dtype=np.float64)
    if table.shape != (prompts, items, len(labels)):
        raise ValueError(
            f"probabilities have shape {table.shape}; expected [{prompts} prompts, {items} items, {len(labels)} labels]"
        )
    return table
