"""The report on SST-2 and TREC: six methods, four calibrations, up to a thousand demonstrations, and the own weight.

    python benchmarks/sst2_trec.py --report docs/sst2-trec.md

Two processes of one thread each share the work. Stopped and started again it goes on; finished, it only writes the
report anew.
"""

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd

from lmops_lab.icl.calibration import CALIBRATIONS
from lmops_lab.icl.comparison import Comparison, Point, compare, compare_answers, method_pairs
from lmops_lab.icl.curve import ZERO_SHOT, ICLCurve
from lmops_lab.icl.figure import STYLE
from lmops_lab.icl.panels import Drawn, curve_panels, headline, small_multiples
from lmops_lab.icl.results import Sweep
from lmops_lab.icl.sweep import run_sweep
from lmops_lab.machine import choose_device, choose_dtype

# Demonstrations as the training data have them: balanced draws would end at 516 with TREC's 86 abbreviations.
COMMON = {
    "method": ["structured", "windows", "ape", "ensemble", "nbce", "sequential"],
    "calibration": list(CALIBRATIONS),
    "group_size": 64,
    "balanced": False,
}
TASKS = {
    "SST-2": {"template": "Sentence: {text} Sentiment:", "test_split": "validation"},
    "TREC": {"template": "Question: {text} Type:", "test_split": "test"},
}
KS = {"SST-2": ([0, 8, 64, 512], 1024), "TREC": ([0, 6, 48, 384], 1002)}
WEIGHTS = {"1": "1", "sqrt_groups": "√M", "groups": "M", "2groups": "2M"}
USED = "batch"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--sst2", default="../shared/data/sst2", help="folder, or the published task 'sst2'")
    options.add_argument("--trec", default="../shared/data/trec", help="folder, or the published task 'trec'")
    options.add_argument("--folder", type=Path, default=Path("runs/sst2-trec"), help="where finished cells stay")
    options.add_argument("--seeds", type=int, default=6)
    options.add_argument("--queries", type=int, default=200)
    options.add_argument("--report", type=Path, help="write the report there, its figures beside it")
    chosen = options.parse_args()
    where = {"SST-2": chosen.sst2, "TREC": chosen.trec}
    sweeps: dict[str, list[Sweep]] = {name: [] for name in TASKS}
    for name, (few, many) in KS.items():
        for folder, k, seeds in ((f"{name}-few", few, chosen.seeds), (f"{name}-many", [many], min(3, chosen.seeds))):
            task = {"name": where[name], **(TASKS[name] if Path(where[name]).is_dir() else {})}
            weights = list(map(_weight, WEIGHTS)) if k is few else ["groups"]
            grid = {
                **COMMON,
                "own_weight": weights,
                "task": [task],
                "k": k,
                "seed": list(range(1, seeds + 1)),
                "queries": chosen.queries,
            }
            sweeps[name].append(timed_sweep(grid, chosen.folder / folder.lower()))
    curves = {name: {w: joined(name, both, w) for w in WEIGHTS} for name, both in sweeps.items()}
    text, figures, drawn = report(curves)
    minutes = sum(json.loads((sweep.folder / "seconds.json").read_text()) for both in sweeps.values() for sweep in both)
    figures["minutes"] = round(minutes / 60, 1)
    if chosen.report:
        dtype = str(choose_dtype("auto", choose_device()).dtype).removeprefix("torch.")
        text = text.replace("MINUTES", f"The whole took {minutes / 60:.0f} minutes in {dtype}.")
        chosen.report.write_text(text, encoding="utf-8")
        for name, one in drawn.items():
            paths = one.save(chosen.folder, name)
            (chosen.report.parent / f"{name}.svg").write_bytes(paths["svg"].read_bytes())
    print(text)
    print(json.dumps(figures))


def timed_sweep(grid: dict[str, Any], folder: Path) -> Sweep:
    """Run what is missing, and add its seconds to those of earlier starts."""
    folder.mkdir(parents=True, exist_ok=True)
    place, start = folder / "seconds.json", time.perf_counter()
    before = json.loads(place.read_text()) if place.exists() else 0.0
    try:
        return run_sweep(grid, folder, executor="dask", workers=2, threads=1)
    finally:
        place.write_text(json.dumps(before + time.perf_counter() - start))


def _weight(name: str) -> str | int:
    return int(name) if name.isdigit() else name


def joined(name: str, sweeps: Sequence[Sweep], weight: str) -> ICLCurve:
    """One curve from the sweep of few and, at own weight M, that of many demonstrations, under the task's name."""
    few, many = sweeps
    curves = [few.curve(own_weight=weight), *([many.curve()] if weight == "groups" else [])]
    order = [ZERO_SHOT, *COMMON["method"]]
    cells = sorted((cell for c in curves for cell in c.cells), key=lambda c: (order.index(c.method), c.k, c.seed))
    skipped = tuple(one for c in curves for one in c.skipped)
    return replace(curves[0], cells=tuple(cells), about={**curves[0].about, "task_name": name}, skipped=skipped)


def report(curves: dict[str, dict[str, ICLCurve]]) -> tuple[str, dict[str, Any], dict[str, Drawn]]:
    """The page, its figures as numbers, and its pictures."""
    usual = [of_task["groups"] for of_task in curves.values()]
    drawn = {
        "sst2-trec": curve_panels(usual, ("raw", USED), title="SST-2 and TREC: accuracy against demonstrations"),
        "sst2-trec-own-weight": own_weight_panels(curves),
    }
    parts, figures = [HEAD], {}
    for name, of_task in curves.items():
        curve = of_task["groups"]
        pairs = compare(curve, method_pairs(curve, USED))
        growth = compare(curve, growth_pairs(curve))
        calibrated = compare(curve, calibration_pairs(curve))
        weights = compare_weights(of_task)
        most = max(weighed(of_task))
        parts += [f"## {name}\n", accuracies(curve), f"### Which methods differ ({name})\n", differing(pairs)]
        parts += [f"### Does it grow with k ({name})?\n", listed(growth, "point", "against")]
        parts += [f"### What a calibration changes ({name})\n", listed(calibrated, "calibrated", "raw")]
        parts += [f"### The own weight ({name})\n", weight_table(of_task), verdict(weights)]
        parts += [listed(weights, "own weight", "against")]
        figures[name] = {
            "structured": {str(k): rounded(curve.accuracy(m, k, USED)) for m, k in curve.points() if m == "structured"},
            "zero_shot": rounded(curve.accuracy(ZERO_SHOT, 0, USED)),
            "pairs": len(pairs),
            "pairs_real": sum(one.real for one in pairs),
            "own_weight_real": [
                f"{one.left.method} - {one.right.method}, k = {one.left.k}" for one in weights if one.real
            ],
            "own_weight": {
                label: rounded(of_task[w].accuracy("structured", most, USED)) for w, label in WEIGHTS.items()
            },
        }
    return "\n".join(parts), figures, drawn


HEAD = """# SST-2 and TREC

    python benchmarks/sst2_trec.py --report docs/sst2-trec.md

The embedded model (SmolLM2-135M-Instruct), 200 queries a task (SST-2's validation split, TREC's test split), as many
draws of demonstrations as the column "draws" says, groups of 64, own weight M unless said otherwise. Demonstrations are
drawn as the training data have them, so TREC's rare abbreviations are rare in the context, too. One prompt
(`sequential`) ends where the model's 8,192 positions do. MINUTES

![Accuracy against the number of demonstrations](sst2-trec.svg)

Intervals are 95 %, over new demonstrations and new queries. Differences are paired on the same queries and draws;
**bold** ones stand at 5 % after Holm's correction for all comparisons of their table. Differences are in points.
"""


def accuracies(curve: ICLCurve) -> str:
    rows = []
    for method, k in curve.points():
        shown = [f"{curve.accuracy(method, k, c).mean:.3f}" for c in CALIBRATIONS if c != USED]
        low_high = curve.accuracy(method, k, USED)
        rows.append(
            [
                method,
                f"{k:,}",
                len(curve.seeds(method, k)),
                *shown,
                f"{low_high.mean:.3f} ({low_high.low:.3f} to {low_high.high:.3f})",
            ]
        )
    return table(["method", "k", "draws", *(c for c in CALIBRATIONS if c != USED), USED], rows)


def differing(pairs: Sequence[Comparison]) -> str:
    """The pairs of methods that differ, and how many do not."""
    real = [one for one in pairs if one.real]
    words = f"Of {len(pairs)} pairs of methods at the same k (batch calibration), {len(real)} differ:\n"
    return f"{words}\n{listed(real, 'better', 'worse')}" if real else words.replace(":\n", ".\n")


def listed(found: Sequence[Comparison], left: str, right: str) -> str:
    rows = []
    for one in found:
        flip = left == "better" and one.difference.mean < 0
        a, b = (one.right, one.left) if flip else (one.left, one.right)
        low, high = (-one.difference.high, -one.difference.low) if flip else (one.difference.low, one.difference.high)
        mean = f"{100 * (-one.difference.mean if flip else one.difference.mean):+.1f}"
        rows.append(
            [
                *named(a, b),
                f"**{mean}**" if one.real else mean,
                f"{100 * low:+.1f} to {100 * high:+.1f}",
                f"{one.adjusted:.2g}",
            ]
        )
    return table([left, right, "difference", "95 % interval", "p (Holm)"], rows)


def named(a: Point, b: Point) -> tuple[str, str]:
    return tuple(str(p).removesuffix(f", {USED}") for p in (a, b))  # type: ignore[return-value]


def growth_pairs(curve: ICLCurve) -> list[tuple[Point, Point]]:
    """Each k of structured prompting against no demonstrations and against the k before."""
    ks = [k for method, k in curve.points() if method == "structured"]
    zero = [(Point("structured", k, USED), Point(ZERO_SHOT, 0, USED)) for k in ks]
    return zero + [(Point("structured", b, USED), Point("structured", a, USED)) for a, b in itertools.pairwise(ks)]


def calibration_pairs(curve: ICLCurve) -> list[tuple[Point, Point]]:
    return [
        (Point(method, k, calibration), Point(method, k, "raw"))
        for method, k in curve.points()
        if method in (ZERO_SHOT, "structured")
        for calibration in CALIBRATIONS
        if calibration != "raw"
    ]


def compare_weights(of_task: dict[str, ICLCurve]) -> list[Comparison]:
    """M against every other own weight, at every k with more than one group."""
    correct = {
        Point(label, k, USED): of_task[weight].correct("structured", k, USED)
        for weight, label in WEIGHTS.items()
        for k in weighed(of_task)
    }
    pairs = [
        (Point("M", k, USED), Point(label, k, USED))
        for k in weighed(of_task)
        for label in WEIGHTS.values()
        if label != "M"
    ]
    return compare_answers(correct, pairs)


def weighed(of_task: dict[str, ICLCurve]) -> list[int]:
    """The ks with more than one group that every own weight was run at."""
    return [k for method, k in of_task["1"].points() if method == "structured" and k > COMMON["group_size"]]


def weight_table(of_task: dict[str, ICLCurve]) -> str:
    rows = [
        [
            f"{k:,}",
            -(-k // COMMON["group_size"]),
            *(f"{of_task[w].accuracy('structured', k, USED).mean:.3f}" for w in WEIGHTS),
        ]
        for k in weighed(of_task)
    ]
    return table(["k", "groups M", *(f"own weight {label}" for label in WEIGHTS.values())], rows)


def verdict(weights: Sequence[Comparison]) -> str:
    """What the comparisons of own weight M with the others say."""
    real = [one for one in weights if one.real]
    if not real:
        return "No other own weight can be told apart from the paper's M.\n"
    words = [
        f"{'better' if one.difference.mean > 0 else 'worse'} than {one.right.method} at k = {one.left.k:,}"
        for one in real
    ]
    return f"The paper's M is {', '.join(words)}; the other differences cannot be told from none.\n"


def own_weight_panels(curves: dict[str, dict[str, ICLCurve]]) -> Drawn:
    """Batch-calibrated accuracy against the own weight, a panel a task, a line a k."""
    rows = []
    with mpl.rc_context(fname=STYLE):
        figure, grid = small_multiples(1, len(curves), height=3.2)
        for axes, (name, of_task) in zip(grid[0], curves.items(), strict=True):
            for number, k in enumerate(weighed(of_task)):
                found = [of_task[weight].accuracy("structured", k, USED) for weight in WEIGHTS]
                rows += [
                    {"task": name, "k": k, "own_weight": label, "accuracy": a.mean, "low": a.low, "high": a.high}
                    for label, a in zip(WEIGHTS.values(), found, strict=True)
                ]
                places = [i + 0.09 * (number - (len(weighed(of_task)) - 1) / 2) for i in range(len(WEIGHTS))]
                bars = [[a.mean - a.low for a in found], [a.high - a.mean for a in found]]
                axes.errorbar(places, [a.mean for a in found], bars, marker="o", label=f"k = {k:,}", color=f"C{number}")
            axes.set_xticks(range(len(WEIGHTS)), list(WEIGHTS.values()))
            axes.set_title(name, pad=8)
            axes.legend(loc="lower left", frameon=False, fontsize=9)
        grid[0][0].set_ylabel("accuracy")
        grid[0][0].yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0, symbol=" %"))
        figure.supxlabel("own weight (M groups)", fontsize=10.5, color="#333333")
        headline(
            figure, "How heavily a query should weigh itself", "batch calibration; bars: 95 % intervals of each point"
        )
    return Drawn(figure, pd.DataFrame(rows))


def rounded(interval: Any) -> list[float]:
    return [round(float(value), 4) for value in interval]


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
