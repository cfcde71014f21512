"""Accuracy curves to explore: lines on and off, paired differences, a point seen from inside. No model is asked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from lmops_lab.icl.curve import ICLCurve
from lmops_lab.icl.exploring import Series, find_task, inspect_point, series_difference, series_points
from lmops_lab.icl.figure import figure_as_svg
from lmops_lab.icl.panels import curve_panels, methods_of, name_of
from lmops_lab.icl.tasks import Task
from widgets import html

_MOST_PANELS = 6
_MOST_LINES = 12  # more cannot be told apart in a picture
_MOST_ROWS = 300


class ICLCurveExplorer(html.Fallback, anywidget.AnyWidget):
    """Accuracy against the number of demonstrations, from stored results.

    Switch tasks, methods and calibrations on and off; hover or focus a point for its values; choose two lines for their
    paired difference at every k; click a point (or press Enter on it) for its confusion matrix and the queries it
    misses, with their demonstrations. Without a kernel or a network the same numbers show as a static page.

    Attributes:
        tasks, methods, calibrations: names of what is shown; set them to switch.
        left, right: numbers in `series` of the two lines that are compared.
        selected: [number in `series`, k] of the point that is looked into, or [].
        series: lines with their points; one is appended when it is first switched on.
        difference, detail: what is shown about left minus right and about the selected point.
        message: what could not be shown, and why.
    """

    _esm = html.front("icl_curve.js")
    _css = html.STYLE.read_text(encoding="utf-8") + Path(__file__).with_name("icl_curve.css").read_text(
        encoding="utf-8"
    )

    available = traitlets.Dict().tag(sync=True)
    tasks = traitlets.List(traitlets.Unicode()).tag(sync=True)
    methods = traitlets.List(traitlets.Unicode()).tag(sync=True)
    calibrations = traitlets.List(traitlets.Unicode()).tag(sync=True)
    series: traitlets.List[Any] = traitlets.List().tag(sync=True)
    left = traitlets.Int(0).tag(sync=True)
    right = traitlets.Int(0).tag(sync=True)
    selected: traitlets.List[Any] = traitlets.List().tag(sync=True)
    difference = traitlets.Dict().tag(sync=True)
    detail = traitlets.Dict().tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)

    def __init__(
        self,
        curves: ICLCurve | Sequence[ICLCurve],
        calibration: str | Sequence[str] | None = None,
        *,
        methods: Sequence[str] | None = None,
        tasks: Sequence[Task] = (),
    ) -> None:
        """Show curves.

        Args:
            curves: one a task.
            calibration: shown at first; default "batch", or "raw" where a task has no fixed labels.
            methods: shown at first; default all, or the first 12 of more.
            tasks: the data the curves were run on, for the texts of queries and demonstrations (embedded tasks are
                found by themselves).
        """
        given = [curves] if isinstance(curves, ICLCurve) else list(curves)
        self._curves = _by_name(given)
        self._tasks = {name: find_task(curve, tasks) for name, curve in self._curves.items()}
        known = list(dict.fromkeys(method for curve in given for method, _ in curve.points()))
        ways = [name for name in (given[0].calibrations if given else ()) if all(name in c.calibrations for c in given)]
        usual = "batch" if "batch" in ways else "raw"
        chosen = usual if calibration is None else calibration
        shown = [chosen] if isinstance(chosen, str) else list(chosen)
        super().__init__(
            available={"tasks": list(self._curves), "methods": known, "calibrations": ways},
            tasks=list(self._curves),
            methods=[name for name in methods or known[:_MOST_LINES] if name in known],
            calibrations=[name for name in shown if name in ways],
            message=_missing(given, methods or (), known, shown, ways),
        )
        self._extend()
        self.right = 0
        self.left = max(0, len(self.series) - 1)
        self._subtract()
        self.observe(self._extend, names=["methods", "calibrations"])
        self.observe(self._subtract, names=["left", "right"])
        self.observe(self._inspect, names=["selected"])

    def _extend(self, change: object = None) -> None:
        """Compute the lines that were not shown before."""
        del change
        series = list(self.series)
        there = {tuple(one["name"]) for one in series}
        for calibration in self.calibrations:
            ways = self.available["calibrations"]
            if calibration not in ways:
                self.message = f"calibration {calibration!r} is unknown; choose among {', '.join(ways)}"
                continue
            for task, curve in self._curves.items():
                for method in dict.fromkeys(method for method, _ in curve.points() if method in self.methods):
                    name = Series(task, method, calibration)
                    if name not in there:
                        series.append({"name": list(name), "points": series_points(curve, name)})
        self.series = series

    def _subtract(self, change: object = None) -> None:
        del change
        if not self.series:
            return
        try:
            left, right = (Series(*self.series[number]["name"]) for number in (self.left, self.right))
            rows = [] if left == right else series_difference(self._curves, left, right)
            self.difference = {"left": str(left), "right": str(right), "rows": rows, "why": ""}
        except (ValueError, IndexError) as error:  # an error in an observer would vanish
            self.difference = {"left": "", "right": "", "rows": [], "why": str(error)}

    def _inspect(self, change: object = None) -> None:
        del change
        if not self.selected:
            self.detail = {}
            return
        try:
            number, k = self.selected
            name = Series(*self.series[number]["name"])
            found = inspect_point(self._curves[name.task], name.method, k, name.calibration, self._tasks[name.task])
            known = self._tasks[name.task] is not None
            self.detail = {"title": f"{name}, k = {k:,}", "texts": known, "why": "", **found}
        except (ValueError, IndexError, TypeError) as error:
            self.detail = {"why": f"point {self.selected} cannot be shown: {error}"}

    def __repr__(self) -> str:
        points = sum(len(curve.points()) for curve in self._curves.values())
        return f"ICLCurveExplorer({', '.join(self._curves) or 'no results'}, {points} points)"

    def fallback(self) -> str:
        """What is shown as HTML without scripts: the curves, their numbers, the difference, the selected point."""
        parts = [html.notice(self.message)]
        curves = [self._curves[name] for name in self.tasks if name in self._curves]
        calibrations = [name for name in self.calibrations if name in self.available["calibrations"]]
        if curves and calibrations:
            methods = [name for name in self.methods if name in methods_of(curves)]
            columns = curves[: max(1, _MOST_PANELS // len(calibrations))]
            picture = figure_as_svg(curve_panels(columns, calibrations, methods=methods[:_MOST_LINES]).figure)
            parts.append(f'<div style="background:#fff">{_sized(picture)}</div>')
            if len(methods) > _MOST_LINES:
                parts.append(html.notice(f"The picture shows {_MOST_LINES} of {len(methods)} methods; choose others."))
            if len(columns) < len(curves):
                parts.append(html.notice(f"The picture shows {len(columns)} of {len(curves)} tasks, the table all."))
            parts.append(self._table())
        elif self._curves:
            parts.append(html.notice("Nothing is switched on: choose a task, a method and a calibration."))
        parts += [_difference_html(self.difference), _detail_html(self.detail)]
        return f'<div style="max-width:1100px">{"".join(parts)}</div>'

    def _table(self) -> str:
        rows = [
            (*one["name"], f"{p['k']:,}", f"{p['mean']:.3f}", f"{p['low']:.3f} to {p['high']:.3f}", len(p["seeds"]))
            for one in self.series
            if self._shown(Series(*one["name"]))
            for p in one["points"]
        ]
        names = ("task", "method", "calibration", "k", "accuracy", "95 % interval", "seeds")
        shown = html.table(names, [[html.escape(cell) for cell in row] for row in rows[:_MOST_ROWS]])
        rest = html.notice(f"{len(rows) - _MOST_ROWS:,} more rows are left out.") if len(rows) > _MOST_ROWS else ""
        return f"<details><summary>{len(rows):,} numbers</summary>{shown}{rest}</details>"

    def _shown(self, name: Series) -> bool:
        return name.task in self.tasks and name.method in self.methods and name.calibration in self.calibrations


def _by_name(curves: Sequence[ICLCurve]) -> dict[str, ICLCurve]:
    """Curves by their task's name, with the model or a number where two tasks share it."""
    named: dict[str, ICLCurve] = {}
    for curve in curves:
        name = name_of(curve)
        if name in named:
            name = f"{name} ({str(curve.about.get('model', '')).split('@')[0]})"
        number = 2
        while name in named:
            name = f"{name_of(curve)} ({number})"
            number += 1
        named[name] = curve
    return named


def _missing(
    curves: Sequence[ICLCurve],
    methods: Sequence[str],
    known: Sequence[str],
    calibrations: Sequence[str],
    ways: Sequence[str],
) -> str:
    """What was asked for and is not shown, in a sentence."""
    if not curves:
        return "There are no results to show: give at least one curve (icl_curve(...) or ICLCurve.load(folder))."
    words = []
    absent = [name for name in methods if name not in known]
    if absent:
        words.append(f"The results have no method {', '.join(absent)}; they have {', '.join(known)}.")
    unknown = [name for name in calibrations if name not in ways]
    if unknown:
        words.append(f"There is no calibration {', '.join(unknown)}; there are {', '.join(ways)}.")
    if not methods and len(known) > _MOST_LINES:
        words.append(f"{_MOST_LINES} of {len(known)} methods are switched on; switch on others as you like.")
    return " ".join(words)


def _difference_html(difference: dict[str, Any]) -> str:
    if difference.get("why") or not difference.get("rows"):
        return html.notice(difference.get("why", ""))
    rows = [
        [
            f"{row['k']:,}",
            f"{100 * row['mean']:+.1f}",
            f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}",
            f"{row['p_holm']:.3g}",
            html.escape("real" if row["real"] else f"not told apart; needs {row['needed']}"),
        ]
        for row in difference["rows"]
    ]
    caption = f"{difference['left']} minus {difference['right']}"
    return html.table(("k", "points", "95 % interval", "p (Holm)", "verdict"), rows, caption=caption)


def _detail_html(detail: dict[str, Any]) -> str:
    if not detail or detail["why"]:
        return html.notice(detail.get("why", ""))
    names = detail["labels"]
    matrix = [[html.escape(name), *(str(n) for n in row)] for name, row in zip(names, detail["confusion"], strict=True)]
    wrong = []
    for item in detail["wrong"]:
        missed = [answer for answer in item["answers"] if answer["wrong"]]
        by = "; ".join(f"seed {one['seed']}: {one['label']} ({one['probability']:.2f})" for one in missed)
        wrong.append([str(item["query"]), html.block(item["text"]), html.escape(item["right"]), html.escape(by)])
    listed = f"{detail['wrong_in_all']:,} queries are missed by a seed or more; {len(wrong)} are listed."
    shown = "".join(
        f"<details><summary>demonstrations of seed {one['seed']} ({len(one['texts'])} of {one['of']:,})</summary><ol>"
        + "".join(f'<li value="{place}">{html.block(text)}</li>' for place, text in one["texts"])
        + "</ol></details>"
        for one in detail["demonstrations"]
    )
    return (
        html.table(("right \\ answered", *names), matrix, caption=detail["title"])
        + html.table(("query", "text", "right", "missed by"), wrong, caption=listed)
        + shown
    )


def _sized(svg: str) -> str:
    """An SVG that fills its container; the view box keeps its proportions."""
    head, _, body = svg.partition(">")
    kept = [word for word in head.replace('" ', '"\n').splitlines() if not word.startswith(("width=", "height="))]
    return f'{" ".join(kept)} style="width:100%">{body}'
