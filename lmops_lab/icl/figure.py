"""The accuracy curve as a figure for a page or a talk."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmops_lab.icl.curve import ZERO_SHOT, ICLCurve
from lmops_lab.icl.statistics import Interval

STYLE = Path(__file__).with_name("lmops.mplstyle")
MARKERS = "os^Dv"
CALIBRATION_WORDS = {"raw": "no calibration", "mean": "mean over tokens", "characters": "mean over characters"}
CALIBRATION_WORDS |= {"pmi": "pointwise mutual information"}

# How far left of the smallest k > 0 the zero-shot point sits, in doublings.
_ZERO_GAP = 1.4


def plot_curve(
    curve: ICLCurve, calibration: str = "batch", *, title: str | None = None, show_seeds: bool = True
) -> Figure:
    """Accuracy against the number of demonstrations, one line a method, 95 % intervals as bands, seeds as dots.

    The axis is logarithmic with a place for 0. Lines carry their names. The zero-shot level runs through as a dashed
    line, always answering the most frequent label as a dotted one.

    Raises:
        ValueError: an unknown calibration.
    """
    with mpl.rc_context(fname=STYLE):
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        ks = sorted({k for _, k in curve.points()})
        methods = [m for m in dict.fromkeys(m for m, _ in curve.points()) if m != ZERO_SHOT]
        ends: list[tuple[float, float, str, str]] = []
        for index, method in enumerate(methods):
            colour = mpl.colors.to_hex(f"C{index}")  # now: outside this block the cycle is another one
            of_method = [k for m, k in curve.points() if m == method]
            x = [place_of(k, ks) for k in of_method]
            estimates = [curve.accuracy(method, k, calibration) for k in of_method]
            axes.fill_between(
                x, [e.low for e in estimates], [e.high for e in estimates], color=colour, alpha=0.16, linewidth=0
            )
            axes.plot(x, [e.mean for e in estimates], color=colour, marker=MARKERS[index % len(MARKERS)], zorder=3)
            if show_seeds:
                for at, k in zip(x, of_method, strict=True):
                    by_seed = curve.correct(method, k, calibration).mean(1)
                    axes.scatter(np.full(len(by_seed), at), by_seed, s=9, color=colour, alpha=0.55, linewidth=0)
            ends.append((x[-1], estimates[-1].mean, method, colour))
        right = max((place_of(k, ks) for k in ks), default=0.0)
        if (ZERO_SHOT, 0) in curve.points():
            _draw_zero_shot(axes, curve.accuracy(ZERO_SHOT, 0, calibration), place_of(0, ks))
        axes.axhline(curve.majority, color="#999999", linestyle=":", linewidth=1.2, zorder=1)
        low, high = _limits(curve, calibration)
        axes.set_ylim(low, high)
        _label_lines(axes, ends, right, (high - low) * 0.055)
        axes.text(
            right, curve.majority - 0.012 * (high - low), "most frequent label", ha="right", va="top", fontsize=8.5,
            color="#777777",
        )  # fmt: skip
        axes.set_xticks([place_of(k, ks) for k in ks], [f"{k:,}" for k in ks])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0, symbol=" %"))
        axes.set_xlabel("demonstrations in context (log scale, with a place for 0)")
        axes.set_ylabel("accuracy")
        axes.set_title(title or f"In-context learning on “{curve.about['task_name']}”")
        axes.annotate(
            _subtitle(curve, calibration), (0, 1), xytext=(0, 7), xycoords="axes fraction", textcoords="offset points",
            fontsize=9, color="#555555",
        )  # fmt: skip
    return figure


def calibration_words(name: str) -> str:
    """Return a calibration's name in words."""
    return CALIBRATION_WORDS.get(name, f"{name.replace('_', ' ')} calibration")


def write_figure(figure: Figure, target: Path | io.BytesIO, suffix: str) -> None:
    """Draw a figure to a PNG or SVG file or stream; the same figure gives the same bytes."""
    with mpl.rc_context(fname=STYLE):
        metadata = {"Date": None} if suffix == "svg" else {"Software": None}
        figure.savefig(target, format=suffix, bbox_inches="tight", metadata=metadata)


def figure_as_svg(figure: Figure) -> str:
    """A figure as one `<svg>` element for a page."""
    stream = io.BytesIO()
    write_figure(figure, stream, "svg")
    text = stream.getvalue().decode()
    return text[text.index("<svg") :]


def place_of(k: int, ks: Sequence[int]) -> float:
    """Return the position of k on the axis: log2 k, and 0 a little left of the smallest k > 0."""
    if k > 0:
        return float(np.log2(k))
    positive = [n for n in ks if n > 0]
    return float(np.log2(min(positive))) - _ZERO_GAP if positive else 0.0


def _draw_zero_shot(axes: Axes, estimate: Interval, at: float) -> None:
    bars = [[estimate.mean - estimate.low], [estimate.high - estimate.mean]]
    axes.axhline(estimate.mean, color="#444444", linestyle="--", linewidth=1, alpha=0.5, zorder=1)
    axes.errorbar([at], [estimate.mean], yerr=bars, fmt="o", color="#444444", capsize=3, linewidth=1.4, zorder=3)
    axes.annotate(
        "zero-shot", (at, estimate.mean), xytext=(7, -12), textcoords="offset points", fontsize=9, color="#444444"
    )


def _label_lines(axes: Axes, ends: Sequence[tuple[float, float, str, str]], right: float, gap: float) -> None:
    """Write each method at the end of its line, pushed apart where the ends are close."""
    height = -np.inf
    for x, y, method, colour in sorted(ends, key=lambda end: end[1]):
        shorter = x < right
        if not shorter:
            height = max(y, height + gap)
        axes.annotate(
            method, (x, y if shorter else height), xytext=(0 if shorter else 9, 9 if shorter else 0),
            textcoords="offset points", ha="center" if shorter else "left", va="bottom" if shorter else "center",
            color=colour, fontweight="bold", fontsize=10, annotation_clip=False,
        )  # fmt: skip


def _limits(curve: ICLCurve, calibration: str) -> tuple[float, float]:
    estimates = [curve.accuracy(method, k, calibration) for method, k in curve.points()]
    low = min([e.low for e in estimates] + [curve.majority])
    high = max(e.high for e in estimates)
    return max(0.0, low - 0.05), min(1.0, high + 0.03)


def _subtitle(curve: ICLCurve, calibration: str) -> str:
    model = curve.about["model"].split("@")[0]
    seeds, queries = len(curve.about["seeds"]), curve.about["queries"]
    return f"{model}, {calibration_words(calibration)}, {queries} queries, {seeds} seeds; bands: 95 % intervals"
