"""Figures that answer one question each: calibration's effect, sources of error, cost, confusion.

All are drawn from stored results and come with their numbers (see `lmops_lab.icl.panels.Drawn`).
"""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmops_lab.icl.comparison import Point
from lmops_lab.icl.curve import ZERO_SHOT, ICLCurve
from lmops_lab.icl.figure import STYLE, calibration_words, place_of
from lmops_lab.icl.metrics import confusion
from lmops_lab.icl.panels import (
    HALO,
    QUIET,
    Drawn,
    chosen,
    headline,
    label_ends,
    label_ks,
    look,
    methods_of,
    name_of,
    percent_axes,
    small_multiples,
)
from lmops_lab.icl.statistics import crossed


def calibration_effect(curves: Sequence[ICLCurve], before: str = "raw", after: str = "batch") -> Drawn:
    """Accuracy before and after a calibration: a row a point, with the paired difference and its 95 % interval.

    Raises:
        ValueError: no curve, or an unknown calibration.
    """
    known = methods_of(curves)
    rows: list[dict[str, Any]] = []
    for curve in curves:
        for method, k in curve.points():
            gain = curve.difference((method, k), (method, k), (after, before))
            rows.append(
                {
                    "task": name_of(curve),
                    "method": method,
                    "k": k,
                    before: curve.accuracy(method, k, before).mean,
                    after: curve.accuracy(method, k, after).mean,
                    "difference": gain.mean,
                    "low": gain.low,
                    "high": gain.high,
                }
            )
    table = pd.DataFrame(rows)
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(9.2, 0.27 * len(table) + 0.5 * len(curves) + 1.4), layout="constrained")
        heights = [1.2 + (table.task == name_of(curve)).sum() for curve in curves]
        grid = figure.subplots(
            len(curves), 2, squeeze=False, sharex="col", width_ratios=[1.5, 1], height_ratios=heights
        )
        for (left, right), curve in zip(grid, curves, strict=True):
            _effect_panel(left, right, table[table.task == name_of(curve)], known, before, after)
            left.set_title(name_of(curve), pad=6)
        left, right = grid[-1]
        left.set_xlabel("accuracy")
        right.set_xlabel("difference, points (95 % interval)")
        left.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0, symbol=" %"))
        headline(
            figure,
            f"What {calibration_words(after)} changes",
            f"hollow: {calibration_words(before)}, filled: {calibration_words(after)}; "
            "bold: the paired interval leaves out 0",
        )
    return Drawn(figure, table)


def _effect_panel(left: Axes, right: Axes, table: pd.DataFrame, known: Sequence[str], before: str, after: str) -> None:
    places = np.arange(len(table))[::-1]
    for place, row in zip(places, table.to_dict("records"), strict=True):
        colour, marker = look(row["method"], known)
        real = row["low"] > 0 or row["high"] < 0
        left.plot([row[before], row[after]], [place, place], color=colour, linewidth=2, alpha=0.45, zorder=2)
        left.plot(row[before], place, marker=marker, color=colour, markerfacecolor="white", zorder=3, markersize=5.5)
        left.plot(row[after], place, marker=marker, color=colour, zorder=4, markersize=6.5)
        right.plot([100 * row["low"], 100 * row["high"]], [place, place], color=colour, linewidth=2)
        right.plot(100 * row["difference"], place, marker=marker, color=colour, markersize=5.5)
        right.annotate(
            f"{100 * row['difference']:+.1f}", (1.02, place), xycoords=("axes fraction", "data"), va="center",
            fontsize=9, color="#222222" if real else QUIET, fontweight="bold" if real else "normal",
        )  # fmt: skip
    names = [
        row["method"] if row["k"] == 0 else f"{row['method']}, k = {row['k']:,}" for row in table.to_dict("records")
    ]
    left.set_yticks(places, names, fontsize=9)
    right.set_yticks(places, [])
    for axes in (left, right):
        axes.set_ylim(-0.7, len(table) - 0.3)
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
    right.axvline(0, color="#555555", linewidth=1, zorder=1)


def spread_table(curves: Sequence[ICLCurve], calibration: str = "batch") -> pd.DataFrame:
    """Standard errors of the mean accuracy by source, one row a point with two seeds or more.

    From demonstrations: sqrt(seeds' variance / S); from queries: sqrt((items' variance + rest / S) / Q). More seeds
    shrink the first, more queries the second.

    Raises:
        ValueError: no point has two seeds, or an unknown calibration.
    """
    rows = []
    for curve in curves:
        for method, k in curve.points():
            correct = curve.correct(method, k, calibration)
            if len(correct) < 2:
                continue
            found = crossed(correct)
            item = float(found.item_variance) + float(found.rest_variance) / found.seeds
            rows.append(
                {
                    "task": name_of(curve),
                    "method": method,
                    "k": k,
                    "from_demonstrations": float(np.sqrt(found.seed_variance / found.seeds)),
                    "from_queries": float(np.sqrt(item / found.items)),
                    "seeds": found.seeds,
                    "queries": found.items,
                }
            )
    if not rows:
        raise ValueError("no point has two seeds or more, so their spread cannot be told; run more seeds")
    return pd.DataFrame(rows)


def spread_panels(
    curves: Sequence[ICLCurve], calibration: str = "batch", *, methods: Sequence[str] | None = None
) -> Drawn:
    """What limits us: the error from the draw of demonstrations against the error from the choice of queries.

    A column a task, a row a method; see `spread_table`.

    Raises:
        ValueError: no curve with two seeds or more, an unknown calibration or method.
    """
    methods = chosen(methods, methods_of(curves))
    table = spread_table(curves, calibration)
    table = table[table.method.isin(methods)].reset_index(drop=True)
    tasks = [name_of(curve) for curve in curves]
    shown = [method for method in methods if (table.method == method).any()]
    top = 115 * float(table[["from_demonstrations", "from_queries"]].to_numpy().max())
    with mpl.rc_context(fname=STYLE):
        figure, grid = small_multiples(len(shown), len(tasks), height=2.5)
        for row_axes, method in zip(grid, shown, strict=True):
            for axes, task in zip(row_axes, tasks, strict=True):
                part = table[(table.method == method) & (table.task == task)]
                _spread_panel(axes, part, sorted(set(table.k)))
                axes.set_ylim(-0.02 * top, top)
            row_axes[0].set_ylabel(f"{method}\nstandard error, points")
        for axes, task in zip(grid[0], tasks, strict=True):
            axes.set_title(task, pad=8)
        figure.supxlabel("demonstrations in context (log scale)", fontsize=10.5, color="#333333")
        headline(
            figure,
            "Where the uncertainty comes from",
            f"{calibration_words(calibration)}; more seeds shrink the one part, more queries the other",
        )
        figure.draw_without_rendering()
        for axes in figure.axes:
            label_ends(axes)
    return Drawn(figure, table)


def _spread_panel(axes: Axes, part: pd.DataFrame, ks: Sequence[int]) -> None:
    label_ks(axes, ks)
    x = [place_of(k, ks) for k in part.k]
    if not x:
        axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", color=QUIET, fontsize=9)
        return
    lines = (("from_demonstrations", "#D55E00", "o", "demonstrations"), ("from_queries", "#0072B2", "s", "queries"))
    axes.lmops_ends = []  # type: ignore[attr-defined]
    for column, colour, marker, name in lines:
        axes.plot(x, 100 * part[column], color=colour, marker=marker)
        axes.lmops_ends.append(  # type: ignore[attr-defined]
            (x[-1], 100 * float(part[column].iloc[-1]), name, colour, "bold")
        )


def cost_panels(curves: Sequence[ICLCurve], calibration: str = "batch", *, batch: int = 1000) -> Drawn:
    """Accuracy against the time of a query, with the points that no other one beats in both (Pareto front).

    Args:
        batch: queries that share one encoding of the context; its time is divided among them.

    Raises:
        ValueError: no curve, or an unknown calibration.
    """
    known = methods_of(curves)
    rows = []
    for curve in curves:
        frame = curve.to_frame([calibration])
        frame.insert(0, "task", name_of(curve))
        frame["seconds"] = frame.query_ms / 1e3 + frame.encode_s / batch
        frame["front"] = [
            not ((frame.seconds <= one.seconds) & (frame.accuracy > one.accuracy)).any() for one in frame.itertuples()
        ]
        rows.append(frame)
    table = pd.concat(rows, ignore_index=True)
    columns = ["task", "method", "k", "seconds", "accuracy", "low", "high", "front", "context_tokens", "kv_mb"]
    table = table[columns]
    with mpl.rc_context(fname=STYLE):
        figure, grid = small_multiples(1, len(curves), height=3.4)
        for axes, curve in zip(grid[0], curves, strict=True):
            _cost_panel(axes, table[table.task == name_of(curve)], known)
            axes.set_title(name_of(curve), pad=8)
        grid[0][0].set_ylabel("accuracy")
        percent_axes(grid)
        figure.supxlabel(
            f"seconds a query (log scale), the context encoded once for {batch:,} queries",
            fontsize=10.5,
            color="#333333",
        )
        names = ", ".join(calibration_words(c) for c in [calibration])
        headline(
            figure,
            "What accuracy costs",
            f"{names}; numbers: demonstrations; line: points that none beats in both time and accuracy",
        )
    return Drawn(figure, table)


def _cost_panel(axes: Axes, table: pd.DataFrame, known: Sequence[str]) -> None:
    front = table[table.front].sort_values("seconds")
    axes.set_xscale("log")
    axes.step(front.seconds, front.accuracy, where="post", color="#bbbbbb", linewidth=5, zorder=1, alpha=0.7)
    for method, part in table.groupby("method", sort=False):
        colour, marker = look(str(method), known)
        axes.errorbar(
            part.seconds, part.accuracy, [part.accuracy - part.low, part.high - part.accuracy], color=colour,
            marker=marker, linestyle="none", elinewidth=1, alpha=0.95, zorder=3,
        )  # fmt: skip
        for one in part.itertuples():
            below = not one.front
            axes.annotate(
                "zero-shot" if one.method == ZERO_SHOT else f"{one.k:,}", (one.seconds, one.accuracy),
                (-6 if one.method == ZERO_SHOT else 6, -4 if below else 4), textcoords="offset points", fontsize=8,
                color=colour, ha="right" if one.method == ZERO_SHOT else "left",
                va="top" if below else "bottom", path_effects=HALO,
            )  # fmt: skip
    low, high = float(table.seconds.min()), float(table.seconds.max())
    span = max(high / low, 1.5)
    axes.set_xlim(low / span**0.3, high * span**0.16)
    axes.margins(y=0.1)
    axes.xaxis.set_major_locator(mpl.ticker.LogLocator(10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    handles = [
        mpl.lines.Line2D([], [], color=look(m, known)[0], marker=look(m, known)[1], linestyle="none", label=m)
        for m in dict.fromkeys(table.method)
        if m != ZERO_SHOT
    ]
    axes.legend(handles=handles, loc="lower right", fontsize=8.5, handletextpad=0.1)


def confusion_panels(curve: ICLCurve, points: Sequence[Point | tuple[str, int, str]]) -> Drawn:
    """Which labels are mixed up: a matrix a point, rows the right label, in per cent of the row, summed over the seeds.

    Raises:
        ValueError: no point given, an unknown one or an unknown calibration.
    """
    if not points:
        raise ValueError("no point to show; give (method, k, calibration) at least once")
    named = [Point(*point) for point in points]
    names = [name if len(name) <= 14 else f"{name[:13]}…" for name in curve.labels]
    rows = []
    side = max(2.6, 0.46 * len(names) + 1.0)
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(side * len(points) + 1.2, side + 1.5), layout="constrained")
        grid = figure.subplots(1, len(points), sharey=True, squeeze=False)[0]
        for axes, point in zip(grid, named, strict=True):
            counts = confusion(curve, point.method, point.k, point.calibration)
            share = counts.to_numpy() / np.maximum(counts.to_numpy().sum(1, keepdims=True), 1)
            axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
            for (right, given), value in np.ndenumerate(share):
                ink = "white" if value > 0.55 else "#333333" if value >= 0.005 else "#bbbbbb"
                size = 9 if len(names) < 9 else 6.5
                axes.text(given, right, f"{100 * value:.0f}", ha="center", va="center", fontsize=size, color=ink)
            axes.set_xticks(range(len(names)), names, rotation=35 if len(names) > 3 else 0, fontsize=9,
                            ha="right" if len(names) > 3 else "center", rotation_mode="anchor")  # fmt: skip
            axes.set_yticks(range(len(names)), names, fontsize=9)
            axes.grid(False)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            axes.set_title(
                f"{point.method}, k = {point.k:,}\n{calibration_words(point.calibration)}", fontsize=10, pad=8
            )
            axes.set_xlabel("answered")
            found = counts.reset_index().melt(id_vars="right", value_name="count")
            found.insert(0, "point", str(point))
            rows.append(found)
        grid[0].set_ylabel("right label")
        headline(figure, f"What is mixed up on “{name_of(curve)}”", "per cent of the queries with that right label")
    return Drawn(figure, pd.concat(rows, ignore_index=True))
