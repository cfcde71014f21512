"""Prompts side by side: what each gave for the same seeds, how it scored, and what changed in its words."""

import functools
import io
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets as tr
from numpy.typing import ArrayLike
from PIL import Image

from lmops_lab.files import atomic_file
from widgets import html
from widgets.comparison import Comparison, compare, row_diff, stat_line
from widgets.comparison_page import static_page
from widgets.pictures import THUMB_BUDGET, as_png, contact_sheet, thumbnails, write_sheet
from widgets.prompt_text import CLIP_LIMIT, token_budget

Generate = Callable[[str, int], Image.Image]
Score = Callable[[str, list[Image.Image]], Mapping[str, Sequence[float]]]

TEXT_BUDGET = 6_000_000  # characters of all outputs in one trait
STATIC_BUDGET = 2_000_000  # bytes of pictures in the notebook's static copy


class PromptComparison(html.Fallback, anywidget.AnyWidget):
    """Rows of prompts, columns of seeds: pictures or texts, scores with intervals, differences.

    Attributes:
        sort_by: name of the score that orders rows and seeds; "" keeps the given order.
        only_different: show only seeds and rows that differ from the first prompt.
        stars: starred cells, a list of [row id, seed].
        view: what the full-size view shows: {} when closed, else {"row", "seed", "other", "mode", "blend"}.
        progress: the last run of an edited prompt: {"row", "done", "total", "state", "text"}.
        message: what the reader must know (missing pictures, a failed run).
    """

    _esm = html.front("prompt_comparison.js")
    _css = html.STYLE

    rows = tr.List(tr.Dict()).tag(sync=True)
    seeds = tr.List(tr.Unicode()).tag(sync=True)
    thumbs = tr.List(tr.Bytes()).tag(sync=True)
    orders = tr.Dict().tag(sync=True)
    differs: tr.List[Any] = tr.List().tag(sync=True)
    labels = tr.List(tr.Unicode()).tag(sync=True)
    gold = tr.List(tr.Unicode()).tag(sync=True)
    texts = tr.Bool(default_value=False).tag(sync=True)
    editable = tr.Bool(default_value=False).tag(sync=True)
    provenance = tr.Dict().tag(sync=True)
    sort_by = tr.Unicode("").tag(sync=True)
    only_different = tr.Bool(default_value=False).tag(sync=True)
    stars: tr.List[Any] = tr.List().tag(sync=True)
    view = tr.Dict().tag(sync=True)
    progress = tr.Dict().tag(sync=True)
    message = tr.Unicode("").tag(sync=True)

    def __init__(
        self,
        prompts: Mapping[str, str] | Sequence[str],
        images: Sequence[Sequence[Image.Image | None]] | None = None,
        *,
        outputs: Sequence[Sequence[str | None]] | None = None,
        seeds: Sequence[object] | None = None,
        scores: Mapping[str, ArrayLike] | None = None,
        probabilities: ArrayLike | None = None,
        labels: Sequence[str] = (),
        gold: Sequence[str] = (),
        generate: Generate | None = None,
        score: Score | None = None,
        tokenizer: Callable[..., Any] | None = None,
        token_limit: int = CLIP_LIMIT,
        provenance: Mapping[str, object] | None = None,
    ) -> None:
        """Show prompts over the same seeds.

        Args:
            prompts: {label: prompt} or a list of prompts; the first is what the others are compared with.
            images: pictures [prompts, seeds], the same noise in a column; None where one is missing.
            outputs: generated texts [prompts, items], instead of images.
            seeds: names of the columns (the seeds, or short names of the items).
            scores: {name: numbers [prompts, seeds]}; NaN where missing.
            probabilities: label probabilities [prompts, items, labels], with `outputs`.
            labels: names of the labels.
            gold: the right label of each item.
            generate: draws a picture from (prompt, seed); makes prompts editable. A thread calls it seed by seed.
            score: scores the pictures of one prompt: (prompt, pictures) -> {name: numbers [seeds]}.
            tokenizer: CLIP's tokenizer, for the token bar.
            token_limit: tokens that the text encoder reads.
            provenance: facts kept in every export (model, steps, ...); keys and tokens among them are hidden.

        Raises:
            ValueError: counts that do not fit, naming them.
        """
        if images is not None and outputs is not None:
            raise ValueError("give images or outputs, not both")
        cells = images if images is not None else outputs
        self._shown = compare(
            prompts, cells, seeds=seeds, scores=scores, probabilities=probabilities, labels=labels, gold=gold
        )
        if generate and seeds is not None and not all(isinstance(seed, int | np.integer) for seed in seeds):
            raise ValueError(f"running an edited prompt needs whole numbers as seeds, not {list(seeds)[:3]}")
        self._generate, self._score, self._tokenizer, self._limit = generate, score, tokenizer, token_limit
        self._cancelled = threading.Event()
        self._worker: threading.Thread | None = None
        super().__init__()
        self.provenance = html.without_secrets(provenance or {})
        self.editable = generate is not None
        self._refresh()
        self.on_msg(self._receive)

    @property
    def comparison(self) -> Comparison:
        """What is shown now, edited prompts included."""
        return self._shown

    def starred(self) -> list[tuple[str, str, Image.Image | str | None]]:
        """Starred cells as (row label, seed, picture or text)."""
        found = []
        for row_id, seed in self.stars:
            row = self._shown.rows[self._shown.row_of(row_id)]
            found.append((row.label, seed, row.cells[self._shown.seeds.index(seed)]))
        return found

    # --- running an edited prompt ---

    def run(self, row: str, text: str, *, new: bool = False, wait: bool = False) -> None:
        """Draw an edited prompt for all seeds in the background; `cancel` stops it between two pictures.

        Args:
            row: id of the row that was edited.
            text: the new prompt.
            new: keep the old row and add one below it.
            wait: return only when the run is over.

        Raises:
            ValueError: no `generate` was given, an empty prompt, a run that is still going on.
        """
        at = self._shown.row_of(row)
        if self._generate is None:
            raise ValueError("this comparison cannot run prompts: give generate=")
        if not text.strip():
            raise ValueError("the prompt is empty; write one, then run it")
        if self._worker and self._worker.is_alive():
            raise ValueError("a prompt is running already; wait for it or cancel it")
        self._cancelled.clear()
        self.message = "\n".join(self._shown.notes)
        self._progress(row, 0, "running", f"drawing '{self._shown.rows[at].label}'")
        self._worker = threading.Thread(target=self._draw, args=(row, html.clean(text), new), daemon=True)
        self._worker.start()
        if wait:
            self._worker.join()

    def cancel(self) -> None:
        """Stop a run after the picture that is being drawn; the old pictures stay."""
        self._cancelled.set()

    def _draw(self, row: str, text: str, new: bool) -> None:
        generate = self._generate
        assert generate is not None
        pictures: list[Image.Image] = []
        try:
            for seed in self._shown.seeds:
                if self._cancelled.is_set():
                    self._progress(row, len(pictures), "cancelled", "cancelled; the old pictures stay")
                    return
                pictures.append(generate(text, int(seed)))
                self._progress(row, len(pictures), "running", f"{len(pictures)} of {len(self._shown.seeds)} pictures")
            scores = self._score(text, pictures) if self._score else {}
            self._shown = self._shown.with_row(row, text, pictures, scores, new=new)
            self._refresh()
            self._progress(row, len(pictures), "done", f"{len(pictures)} pictures drawn")
        except Exception as error:  # noqa: BLE001 - a thread's error would be lost; the reader sees it in the widget
            self.message = f"The run failed: {type(error).__name__}: {html.clean(error)}"
            self._progress(row, len(pictures), "failed", "failed; the old pictures stay")

    def _progress(self, row: str, done: int, state: str, text: str) -> None:
        total = len(self._shown.seeds)
        self.progress = {"row": row, "done": done, "total": total, "state": state, "text": text}

    # --- exports ---

    def sheet(self, cell: int | None = None) -> Image.Image:
        """The grid as one picture, with labels in full, scores and provenance; `cell` pixels a picture."""
        shown = self._shown
        cell = cell or (256 if len(shown.rows) * len(shown.seeds) <= 64 else 128)
        if shown.of_text:
            raise ValueError("a sheet shows pictures; export texts with to_html")
        return contact_sheet(
            [[c if isinstance(c, Image.Image) else None for c in row.cells] for row in shown.rows],
            [f"{row.label}\n{row.text}" for row in shown.rows],
            [f"seed {seed}" for seed in shown.seeds],
            [stat_line(shown, i) for i in range(len(shown.rows))],
            provenance=self.provenance,
            cell=cell,
        )

    def to_png(self, path: str | Path, cell: int | None = None) -> Path:
        """Write the grid as one PNG; prompts and provenance are in its text chunks too. Returns the path."""
        target = Path(path)
        with atomic_file(target) as temporary, temporary.open("wb") as stream:
            stream.write(self._png(cell))
        return target

    def _png(self, cell: int | None = None) -> bytes:
        stream = io.BytesIO()
        prompts = {f"prompt: {row.label}": row.text for row in self._shown.rows}
        seeds = {"seeds": ", ".join(self._shown.seeds)}
        write_sheet(self.sheet(cell), stream, {**self.provenance, **prompts, **seeds})
        return stream.getvalue()

    # --- the browser's side ---

    def _receive(self, _: object, content: dict[str, Any], __: object) -> None:
        try:
            self._answer(content)
        except (ValueError, KeyError, TypeError) as error:
            self.message = html.clean(error.args[0] if error.args else error)

    def _answer(self, content: dict[str, Any]) -> None:
        kind = content.get("kind")
        if kind == "run":
            self.run(str(content["row"]), str(content["text"]), new=bool(content.get("new")))
        elif kind == "cancel":
            self.cancel()
        elif kind == "picture":
            row = self._shown.rows[self._shown.row_of(content["row"])]
            cell = row.cells[self._shown.seeds.index(content["seed"])]
            if isinstance(cell, Image.Image):
                key = row.keys[self._shown.seeds.index(content["seed"])]
                self.send({"kind": "picture", "key": key}, buffers=[as_png(cell)])
        elif kind == "budget" and self._tokenizer:
            budget = token_budget(self._tokenizer, str(content["text"]), self._limit)
            self.send({"kind": "budget", "row": content["row"], "budget": vars(budget)})
        elif kind == "export":
            name = f"comparison.{content['format']}"
            data = self._png() if content["format"] == "png" else html.page("Prompts", self.document()).encode()
            self.send({"kind": "export", "name": name}, buffers=[data])

    def _refresh(self) -> None:
        shown = self._shown
        notes = list(shown.notes)
        small: list[bytes] = []
        if not shown.of_text:
            small = thumbnails([c if isinstance(c, Image.Image) else None for row in shown.rows for c in row.cells])
        width = len(shown.seeds)
        longest, note = _output_limit(shown)
        notes += note
        budgets, summaries = shown.budgets(self._tokenizer, self._limit), shown.summaries()
        rows = []
        for i, row in enumerate(shown.rows):
            own = small[i * width : (i + 1) * width]
            ends = np.cumsum([0, *map(len, own)])
            entry: dict[str, Any] = {
                "id": row.id,
                "label": row.label,
                "text": row.text,
                "diff": [list(piece) for piece in row_diff(shown, i)],
                "budget": None if budgets[i] is None else vars(budgets[i]),
                "scores": {name: _plain(table[i]) for name, table in shown.scores.items()},
                "summary": {name: found[i]._asdict() for name, found in summaries.items()},
            }
            if shown.of_text:
                entry["outputs"] = [_short(cell, longest) for cell in row.cells]
                entry["probabilities"] = (
                    None if row.probabilities is None else [_plain(line) for line in row.probabilities]
                )
            else:
                entry["keys"] = list(row.keys)
                entry["spans"] = [[int(a), int(b)] if b > a else None for a, b in pairwise(ends)]
            rows.append(entry)
        with self.hold_sync():
            self.seeds, self.labels, self.gold = list(shown.seeds), list(shown.labels), list(shown.gold)
            self.texts = shown.of_text
            self.orders, self.differs = shown.orders(), shown.differs()
            self.thumbs = [b"".join(small[i * width : (i + 1) * width]) for i in range(len(rows))] if small else []
            self.rows = rows
            self.message = "\n".join(notes)

    # --- without a kernel ---

    def __repr__(self) -> str:
        kind = "items" if self._shown.of_text else "seeds"
        return f"PromptComparison({len(self._shown.rows)} prompts, {len(self._shown.seeds)} {kind})"

    def fallback(self) -> str:
        """Prompts, pictures (small copies) and numbers as HTML without scripts."""
        return self._static(STATIC_BUDGET)

    def document(self) -> str:
        """Like `fallback`, with larger pictures."""
        return self._static(30_000_000)

    def _static(self, budget: int) -> str:
        copies = [] if self._shown.of_text else self._copies(budget)
        measure = functools.partial(token_budget, self._tokenizer, limit=self._limit) if self._tokenizer else None
        stars = {(row, seed) for row, seed in self.stars}
        return static_page(self._shown, copies, stars, measure, self.provenance, self.message)

    def _copies(self, budget: int) -> list[bytes]:
        """Pictures of a static page: those of the grid where they fit, or made from them, or from the originals."""
        if budget > THUMB_BUDGET:
            cells = (cell for row in self._shown.rows for cell in row.cells)
            return thumbnails([c if isinstance(c, Image.Image) else None for c in cells], budget, sharp=True)
        sent = [
            bytes(data[span[0] : span[1]]) if span else b""
            for row, data in zip(self.rows, self.thumbs or [b""] * len(self.rows), strict=True)
            for span in row["spans"]
        ]
        if sum(map(len, sent)) <= budget:
            return sent
        return thumbnails([Image.open(io.BytesIO(data)) if data else None for data in sent], budget)


def _plain(values: Any) -> list[float | None]:
    """Numbers for JSON: five digits, None for what is not finite."""
    return [round(float(v), 5) if np.isfinite(v) else None for v in values]


def _output_limit(shown: Comparison) -> tuple[int, list[str]]:
    """How many characters of an output may travel to the browser, and a note where that is not all."""
    lengths = sorted(len(c) for row in shown.rows for c in row.cells if isinstance(c, str))
    if sum(lengths) <= TEXT_BUDGET:
        return lengths[-1] if lengths else 0, []
    longest = TEXT_BUDGET // len(lengths)
    return longest, [f"Outputs are shown up to {longest:,} characters; `comparison` holds them in full."]


def _short(cell: Any, longest: int) -> str | None:
    if not isinstance(cell, str):
        return None
    text = html.clean(cell)
    return text if len(text) <= longest else f"{text[:longest]} …"
