"""A comparison of prompts as HTML without scripts: what notebooks show on GitHub and in exports."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from widgets import html
from widgets.comparison import Comparison, row_diff, stat_line
from widgets.prompt_text import Budget

STATIC_ROWS = 200  # text items in a page; more would make it unreadable
_DIFF = {"same": "span", "added": "ins", "removed": "del"}

Measure = Callable[[str], Budget]


def static_page(
    shown: Comparison,
    copies: Sequence[bytes],
    stars: Collection[tuple[str, str]],
    measure: Measure | None,
    provenance: Mapping[str, object],
    message: str = "",
) -> str:
    """Prompts with their differences and scores, and under each its pictures or texts.

    Args:
        copies: encoded pictures, row after row, b"" where one is missing; none for texts.
        stars: (row id, seed) of starred cells.
        measure: how much of a prompt the text encoder reads; None shows no token line.
        message: what the reader must know first.
    """
    content = _texts(shown, measure) if shown.of_text else _pictures(shown, copies, stars, measure)
    parts = html.notice(message) + content + html.facts(provenance)
    return f'<div style="font-family:sans-serif">{parts}</div>'


def _prompt(shown: Comparison, at: int, measure: Measure | None) -> str:
    row = shown.rows[at]
    words = "".join(f"<{_DIFF[k]}>{html.escape(p)}</{_DIFF[k]}>" for k, p in row_diff(shown, at))
    text = f'<div dir="auto" style="white-space:pre-wrap;overflow-wrap:anywhere">{words}</div>'
    bar = ""
    if measure:
        budget = measure(row.text)
        lost = f"; not read: {budget.cut}" if budget.cut else ""
        bar = f'<div style="{html.MUTED}">{budget.tokens} of {budget.limit} tokens{html.escape(lost)}</div>'
    line = html.escape(stat_line(shown, at))
    return f"<b>{html.escape(row.label)}</b>{text}{bar}<div>{line}</div>"


def _pictures(
    shown: Comparison, copies: Sequence[bytes], stars: Collection[tuple[str, str]], measure: Measure | None
) -> str:
    width = len(shown.seeds)
    blocks = []
    for i, row in enumerate(shown.rows):
        figures = []
        for seed, data in zip(shown.seeds, copies[i * width : (i + 1) * width], strict=True):
            mark = " ★" if (row.id, seed) in stars else ""
            mime = "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
            shot = html.picture(data, f"{row.label}, seed {seed}", mime=mime) if data else "missing"
            caption = f'<figcaption style="{html.MUTED};font-size:.85em">seed {html.escape(seed)}{mark}</figcaption>'
            figures.append(f'<figure style="margin:0">{shot}{caption}</figure>')
        strip = f'<div style="display:flex;flex-wrap:wrap;gap:6px;margin:6px 0">{"".join(figures)}</div>'
        prompt = _prompt(shown, i, measure)
        blocks.append(f'<section style="border-bottom:{html.LINE};padding:8px 0">{prompt}{strip}</section>')
    return "".join(blocks)


def _texts(shown: Comparison, measure: Measure | None) -> str:
    head = ["item", *(row.label for row in shown.rows)]
    lines = []
    for j, seed in enumerate(shown.seeds[:STATIC_ROWS]):
        gold = f"<br>right: <b>{html.escape(shown.gold[j])}</b>" if shown.gold else ""
        cells = [html.escape(seed) + gold]
        for row in shown.rows:
            chances = "" if row.probabilities is None else _chances(shown.labels, row.probabilities[j])
            cells.append(html.block(row.cells[j] if row.cells[j] is not None else "missing") + chances)
        lines.append(cells)
    more = len(shown.seeds) - STATIC_ROWS
    rest = html.notice(f"{more:,} more items are not shown here.") if more > 0 else ""
    prompts = "".join(
        f'<section style="padding:4px 0">{_prompt(shown, i, measure)}</section>' for i in range(len(shown.rows))
    )
    return prompts + html.table(head, lines) + rest


def _chances(labels: Sequence[str], shares: Any) -> str:
    text = ", ".join(f"{html.escape(name)} {share:.3f}" for name, share in zip(labels, shares, strict=True))
    return f'<div style="{html.MUTED};font-size:.9em">{text}</div>'
