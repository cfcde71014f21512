"""Figures of a rewriter's training and of what it gained, drawn from their numbers."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lmops_lab.rewriting.evaluation import USER, Evaluation


def plot_training(curves: Mapping[str, pd.DataFrame], columns: Mapping[str, str], *, window: int = 5) -> Figure:
    """Learning curves: a panel a column, a line a training; single steps are dots, the line is their running mean.

    Args:
        curves: name -> what a training logged (`Trained.curve`, or its curve.csv).
        columns: column -> words for its axis, such as {"reward": "mean reward of a step"}.
        window: steps that the running mean looks back; evaluations, which are few, are joined as they are.

    Raises:
        ValueError: a column that no training logged, or a window below 1.
    """
    if window < 1:
        raise ValueError(f"window is {window}; a running mean looks at 1 step or more")
    for column in columns:
        if not any(column in curve for curve in curves.values()):
            known = sorted({str(name) for curve in curves.values() for name in curve})
            raise ValueError(f"no training logged {column!r}; there are {', '.join(known)}")
    figure = Figure(figsize=(7.2, 0.6 + 2.4 * len(columns)), layout="constrained")
    panels = figure.subplots(len(columns), squeeze=False)[:, 0]
    for axes, (column, words) in zip(panels, columns.items(), strict=True):
        for at, (name, curve) in enumerate(curves.items()):
            if column not in curve:
                continue
            points = curve[["step", column]].dropna()
            smooth = points[column].rolling(1 if column.startswith("eval") else window, min_periods=1).mean()
            axes.plot(points["step"], points[column], ".", color=f"C{at}", alpha=0.35, markersize=5)
            axes.plot(points["step"], smooth, color=f"C{at}", label=name)
        axes.set_ylabel(words)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(curves) > 1:
            axes.legend()
    panels[-1].set_xlabel("step")
    return figure


def plot_gains(evaluation: Evaluation, metric: str = "reward", *, against: str = USER) -> Figure:
    """What every method gains over another on the same prompts and seeds: a row a method, 95 % intervals.

    Intervals are paired bootstrap ones over prompts; with several domains each has its own mark in a row.

    Raises:
        ValueError: an unknown metric or method.
    """
    methods = [method for method in evaluation.methods if method != against]
    domains = evaluation.domains
    figure = Figure(figsize=(7.2, 1.5 + 0.5 * len(methods)), layout="constrained")
    axes = figure.subplots()
    offsets = np.linspace(-0.14, 0.14, len(domains)) if len(domains) > 1 else np.zeros(1)
    for at, (domain, offset) in enumerate(zip(domains, offsets, strict=True)):
        for row, method in enumerate(methods):
            gain, y = evaluation.difference(method, against, metric, domain), row + offset
            axes.plot([gain.low, gain.high], [y, y], color=f"C{at}", alpha=0.5)
            axes.plot(gain.mean, y, "os^D"[at % 4], color=f"C{at}", label=domain if row == 0 else None)
    axes.axvline(0, color="#555555", linewidth=1)
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_xlabel(f"{metric}, difference from “{against}”, 95 % intervals over prompts")
    if len(domains) > 1:
        figure.legend(loc="outside upper right", ncols=len(domains))  # inside it, its marks would look like data
    return figure
