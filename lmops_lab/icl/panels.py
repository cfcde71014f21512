"""Figures over several curves as small multiples, drawn from stored results, each with its numbers as a table."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import optimize

from lmops_lab.files import atomic_file, write_text
from lmops_lab.icl.comparison import simultaneous_bands
from lmops_lab.icl.curve import ZERO_SHOT, ICLCurve
from lmops_lab.icl.figure import MARKERS, STYLE, calibration_words, figure_as_svg, place_of, write_figure
from lmops_lab.icl.published import Published
from lmops_lab.icl.statistics import Interval, accuracies

QUIET = "#6b6b6b"
HALO = [patheffects.withStroke(linewidth=2.5, foreground="white")]
_LABEL = 0.42  # inches from the middle of one k's label to the next


@dataclass(frozen=True, eq=False)
class Drawn:
    """A figure and the numbers it shows."""

    figure: Figure
    table: pd.DataFrame

    def save(self, folder: Path | str, name: str) -> dict[str, Path]:
        """Write name.png, name.svg and name.csv.

        Returns:
            The three paths by their suffix.
        """
        paths = {suffix: Path(folder) / f"{name}.{suffix}" for suffix in ("png", "svg", "csv")}
        for suffix in ("png", "svg"):
            with atomic_file(paths[suffix]) as temporary:
                write_figure(self.figure, temporary, suffix)
        write_text(paths["csv"], self.table.to_csv(index=False))
        return paths

    def _repr_html_(self) -> str:
        return figure_as_svg(self.figure)


def curve_panels(
    curves: Sequence[ICLCurve],
    calibrations: Sequence[str] = ("batch",),
    *,
    methods: Sequence[str] | None = None,
    simultaneous: bool = False,
    published: Published | None = None,
    title: str = "Accuracy against the number of demonstrations",
) -> Drawn:
    """Accuracy against k by method: a column a task, a row a calibration, one scale for all.

    Args:
        methods: which to draw; default all. A method has the same colour in every panel.
        simultaneous: bands that hold for a whole curve at once instead of point by point.
        published: curves of others, drawn thin and dashed beside these.

    Raises:
        ValueError: no curve, an unknown calibration, or a method that no curve has.
    """
    known = methods_of(curves)
    methods = chosen(methods, known)
    ks = sorted({k for curve in curves for m, k in curve.points() if m in methods or m == ZERO_SHOT})
    if published is not None:
        ks = sorted({*ks, *(int(k) for curve in curves for k in published.of_task(name_of(curve))["k"])})
    rows: list[dict[str, Any]] = []
    with mpl.rc_context(fname=STYLE):
        figure, grid = small_multiples(len(calibrations), len(curves), sharex="col")
        for down, calibration in enumerate(calibrations):
            for right, curve in enumerate(curves):
                axes = grid[down][right]
                shown = _curve_panel(axes, curve, calibration, methods, known, ks, simultaneous, published)
                about = {"task": name_of(curve), "calibration": calibration}
                rows += [about | row for row in shown]
                axes.set_title(name_of(curve) if down == 0 else "", pad=8)
                if right == 0:
                    words = f"{calibration_words(calibration)}\n" if len(calibrations) > 1 else ""
                    axes.set_ylabel(f"{words}accuracy")
        percent_axes(grid)
        limits = [axes.get_xlim() for axes in grid[0]]
        for axes in grid[0]:
            axes.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
        figure.supxlabel("demonstrations in context (log scale, with a place for 0)", fontsize=10.5, color="#333333")
        bands = (
            "bands: the whole curve lies inside with 95 %" if simultaneous else "bands: 95 % intervals of each point"
        )
        words = f"{calibration_words(calibrations[0])}; " if len(calibrations) == 1 else ""
        headline(figure, title, f"{words}{bands}, new demonstrations and new queries; dots: single seeds")
        figure.draw_without_rendering()
        for axes in figure.axes:
            label_ends(axes)
    return Drawn(figure, pd.DataFrame(rows))


def _curve_panel(
    axes: Axes,
    curve: ICLCurve,
    calibration: str,
    methods: Sequence[str],
    known: Sequence[str],
    ks: Sequence[int],
    simultaneous: bool,
    published: Published | None,
) -> list[dict[str, Any]]:
    """Draw one panel; returns its numbers."""
    rows: list[dict[str, Any]] = []
    ends, zero, starts = [], None, []
    for method in [ZERO_SHOT, *methods]:
        of_method = [k for m, k in curve.points() if m == method]
        if not of_method:
            continue
        tables = curve.correct_at([(method, k) for k in of_method], calibration)
        estimates = simultaneous_bands(tables) if simultaneous else accuracies(tables)
        rows += [
            {"method": method, "k": k, "accuracy": e.mean, "low": e.low, "high": e.high, "seeds": len(table)}
            for k, e, table in zip(of_method, estimates, tables, strict=True)
        ]
        x = [place_of(k, ks) for k in of_method]
        colour, marker = look(method, known)
        means, lows, highs = (np.array(side) for side in zip(*estimates, strict=True))
        if len(x) == 1:
            axes.errorbar(x, means, [means - lows, highs - means], color=colour, marker=marker, capsize=3, zorder=3)
        else:
            axes.fill_between(x, lows, highs, color=colour, alpha=0.16, linewidth=0)
            axes.plot(x, means, color=colour, marker=marker, zorder=3)
        several = [(at, table.mean(1)) for at, table in zip(x, tables, strict=True) if len(table) > 1]
        if several:
            at = np.concatenate([np.full(len(seeds), at) for at, seeds in several])
            axes.scatter(at, np.concatenate([seeds for _, seeds in several]), s=8, color=colour, alpha=0.5, linewidth=0)
        if method == ZERO_SHOT:
            zero = (x[0], estimates[0])
            axes.axhline(means[0], color=colour, linestyle="--", linewidth=1, alpha=0.5, zorder=1)
        else:
            ends.append((x[-1], float(means[-1]), method, colour, "bold"))
            starts.append(float(means[0]))
    if zero is not None:
        _name_zero_shot(axes, *zero, starts)
    if published is not None:
        rows += _published(axes, published.of_task(name_of(curve)), known, ks, ends)
    axes.axhline(curve.majority, color="#999999", linestyle=":", linewidth=1.2, zorder=1)
    label_ks(axes, sorted({row["k"] for row in rows}), ks)
    axes.annotate("most frequent label", (1, curve.majority), (0, -2), xycoords=("axes fraction", "data"), ha="right",
                  va="top", textcoords="offset points", fontsize=8, color="#777777", path_effects=HALO)  # fmt: skip
    axes.margins(y=0.09)
    axes.lmops_ends = ends  # type: ignore[attr-defined]
    return rows


def _name_zero_shot(axes: Axes, x: float, estimate: Interval, starts: Sequence[float]) -> None:
    """Write the name on the side of the point where the lines do not begin."""
    below = starts and float(np.mean(starts)) >= estimate.mean
    side, y, away = ("top", estimate.low, -3) if below else ("bottom", estimate.high, 3)
    axes.annotate("zero-shot", (x, y), (-5, away), textcoords="offset points", ha="left", va=side,
                  fontsize=8.5, color=look(ZERO_SHOT, ())[0], path_effects=HALO, zorder=4)  # fmt: skip


def _published(
    axes: Axes,
    table: pd.DataFrame,
    known: Sequence[str],
    ks: Sequence[int],
    ends: list[tuple[float, float, str, str, str]],
) -> list[dict[str, Any]]:
    rows = []
    for (source, method), part in table.sort_values("k").groupby(["source", "method"], sort=False):
        x = [place_of(int(k), ks) for k in part["k"]]
        colour = look(str(method), known)[0] if method in known else QUIET
        axes.plot(x, part["accuracy"], color=colour, linestyle=(0, (4, 2)), linewidth=1.3, marker="s", markersize=3.5,
                  markerfacecolor="white", zorder=2)  # fmt: skip
        ends.append((x[-1], float(part["accuracy"].iloc[-1]), f"{method}\n{source}", colour, "normal"))
        name = f"{method} ({source})"
        rows += [
            {"method": name, "k": int(row["k"]), "accuracy": float(row["accuracy"]),
             "low": float(row.get("low", np.nan)), "high": float(row.get("high", np.nan)), "seeds": 0}
            for row in part.to_dict("records")
        ]  # fmt: skip
    return rows


def methods_of(curves: Sequence[ICLCurve]) -> list[str]:
    """All methods with demonstrations, in the order they are met.

    Raises:
        ValueError: no curve.
    """
    if not curves:
        raise ValueError("there is no curve to draw; give at least one")
    return list(dict.fromkeys(m for curve in curves for m, _ in curve.points() if m != ZERO_SHOT))


def chosen(methods: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """Return the methods asked for, all by default.

    Raises:
        ValueError: one that no curve has.
    """
    unknown = [name for name in methods or () if name not in known]
    if unknown:
        raise ValueError(f"no curve has the methods {unknown}; there are {list(known)}")
    return list(known if methods is None else methods)


def name_of(curve: ICLCurve) -> str:
    """Return the task's name."""
    return str(curve.about["task_name"])


def look(method: str, known: Sequence[str]) -> tuple[str, str]:
    """Colour and marker of a method, the same in every panel."""
    if method == ZERO_SHOT:
        return "#444444", "o"
    index = list(known).index(method)
    return mpl.colors.to_hex(f"C{index % 7}"), MARKERS[index % len(MARKERS)]


def small_multiples(
    down: int, right: int, *, width: float | None = None, height: float = 3.0, sharex: Literal[True, "col"] = True
) -> tuple[Figure, list[list[Axes]]]:
    """Axes in rows and columns with one scale, the fewer the larger. `sharex="col"`: every column has its own ticks."""
    if down * right == 1:
        width, height = 7.2, 4.2
    width = width or {1: 6.0, 2: 5.0}.get(right, 3.8)
    figure = Figure(figsize=(width * right + 0.6, height * down + 0.9), layout="constrained")
    return figure, [list(row) for row in figure.subplots(down, right, sharex=sharex, sharey=True, squeeze=False)]


def label_ks(axes: Axes, ks: Sequence[int], scale: Sequence[int] | None = None) -> None:
    """Mark every k on the axis, and write those that have room.

    Args:
        scale: all k of the figure, for the place of 0; default `ks`.
    """
    places = [place_of(k, scale or ks) for k in ks]
    figure = axes.get_figure(root=True)
    assert figure is not None
    room = _LABEL * figure.dpi / axes.get_window_extent().width * (max(places) - min(places))
    names, last = [], -np.inf
    for k, place in zip(ks, places, strict=True):
        fits = place - last >= room
        names.append(f"{k:,}" if fits else "")
        last = place if fits else last
    axes.set_xticks(places, names)
    axes.minorticks_off()


def headline(figure: Figure, title: str, subtitle: str) -> None:
    """A bold title over a quiet line, flush left."""
    figure.suptitle(" \n ", fontsize=11.5)  # keeps the room
    figure.text(0.01, 0.995, title, ha="left", va="top", fontsize=12.5, fontweight="bold")
    figure.text(0.01, 0.995, f"\n{subtitle}", ha="left", va="top", fontsize=9.2, color="#555555", linespacing=1.55)


def label_ends(axes: Axes) -> None:
    """Write each line's name right of the panel, near the height of its end, with a thin line that leads there.

    Names are as high as the ends where there is room, pushed apart as little as possible where there is none, and never
    above or below the panel.
    """
    ends = sorted(getattr(axes, "lmops_ends", []), key=lambda end: end[1])
    if not ends:
        return
    low, high = axes.get_ylim()
    figure = axes.get_figure(root=True)
    assert figure is not None
    size = 9.0
    line = 1.3 * size / 72 * figure.dpi / axes.get_window_extent().height * (high - low)
    heights = spread_out([end[1] for end in ends], [line * (1 + end[2].count("\n")) for end in ends], low, high)
    for (x, y, name, colour, weight), height in zip(ends, heights, strict=True):
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.8, "alpha": 0.6, "shrinkA": 1, "shrinkB": 4}
        beside = (1.03, height)
        axes.annotate(name, (x, y), beside, textcoords=axes.get_yaxis_transform(), ha="left", va="center", color=colour,
                      fontweight=weight, fontsize=size, annotation_clip=False, arrowprops=leader)  # fmt: skip


def spread_out(wanted: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Centres of labels that do not overlap, moved as little as possible (least squares) and kept within low and high.

    Args:
        wanted: where the labels would like to be, ascending.
        sizes: their heights, in the same unit.
    """
    # With each label's distance from the first taken off, "no overlap" reads "ascending": an isotonic regression.
    steps = [(one + other) / 2 for one, other in itertools.pairwise(sizes)]
    offsets = np.concatenate([[0.0], np.cumsum(steps)])
    free = optimize.isotonic_regression(np.asarray(wanted) - offsets).x
    floor = low + sizes[0] / 2
    return [float(one) for one in np.clip(free, floor, max(floor, high - sizes[-1] / 2 - offsets[-1])) + offsets]


def percent_axes(grid: list[list[Axes]]) -> None:
    """Write the vertical axes in per cent."""
    for row in grid:
        for axes in row:
            axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0, symbol=" %"))
