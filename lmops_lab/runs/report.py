"""What a regression check found: a table for the terminal, a page with both figures, the `regress` command."""

import argparse
import base64
import html
import sys
from collections.abc import Sequence
from pathlib import Path

from lmops_lab.files import write_text
from lmops_lab.runs.regression import BASELINES, Comparison, Regression, regress, update

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .25em .8em .25em 0 }
th { border-bottom: 1px solid #999 } td { border-bottom: 1px solid #eee } td.n { font-variant-numeric: tabular-nums }
.regression, .missing, .failed { color: #a32a00; font-weight: bold } .same { color: #00694f } .new { color: #0060a0 }
.pair { display: flex; flex-wrap: wrap; gap: 1em } figure { flex: 1 1 440px; margin: 1em 0 } img { width: 100% }
pre { background: #f6f6f6; padding: 1em; overflow: auto }
"""
_HEAD = ("metric", "baseline", "now", "difference", "tolerance", "verdict")


def table(results: Sequence[Regression]) -> str:
    """All lines of all notebooks as aligned text, ending with what it comes to."""
    lines: list[str] = []
    for result in results:
        if result.outcome is None:
            lines.append(f"{result.notebook.stem}: {_without(result)}")
            continue
        run = result.outcome.run
        lines.append(f"{result.notebook.stem}" + (f" ({run.seconds:.0f} s)" if run else ": FAILED"))
        lines += [f"  {_without(result)}"] if result.missing else []
        if run is None:
            lines.append(f"  {result.outcome.error}")
            continue
        rows = [_HEAD, *(_row(line) for line in result.comparisons)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
        lines += ["  " + "  ".join(f"{c:{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        if not result.comparisons:
            lines.append("  it names no numbers (see lmops_lab.runs.regression.save_metrics)")
    return "\n".join([*lines, _summary(results)])


def write_report(results: Sequence[Regression], path: Path, baselines: Path = BASELINES) -> Path:
    """One stand-alone HTML page: the tables, and for every figure the baseline's and this run's side by side."""
    parts = [f"<p class='{'failed' if any(r.failed for r in results) else 'same'}'>{_summary(results)}</p>"]
    for result in results:
        parts.append(f"<h2>{html.escape(result.notebook.stem)}</h2>")
        if result.missing:
            parts.append(f"<p class='{'failed' if result.failed else 'new'}'>{html.escape(_without(result))}</p>")
        if result.outcome is None:
            continue
        if result.outcome.run is None:
            said = f"{result.outcome.error}\n\n{result.outcome.traceback}"
            parts.append(f"<p class='failed'>The run failed.</p><pre>{html.escape(said)}</pre>")
            continue
        head = "".join(f"<th>{word}</th>" for word in _HEAD)
        rows = "".join(
            "<tr>" + "".join(f"<td class='n {line.verdict if i == 5 else ''}'>{html.escape(cell)}</td>" for i, cell in
                             enumerate(_row(line))) + "</tr>"
            for line in result.comparisons
        )  # fmt: skip
        parts.append(f"<table><tr>{head}</tr>{rows}</table>")
        was, now = baselines / result.notebook.stem, result.outcome.job.folder
        for name in sorted({p.name for folder in (was, now) for p in folder.glob("*.svg")}):
            pair = "".join(
                _figure(f"{word}: {name}", folder / name) for word, folder in (("baseline", was), ("now", now))
            )
            parts.append(f"<div class='pair'>{pair}</div>")
    page = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Regression</title><style>{_STYLE}</style>"
    write_text(path, page + "<h1>Regression of the notebooks</h1>" + "\n".join(parts) + "</html>\n")
    return path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `lmops-lab regress`."""
    parser.add_argument("notebooks", nargs="*", help="path or beginning of a name; default: all with a baseline")
    parser.add_argument("--update", action="store_true", help="make the new numbers and figures the baselines")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks at once")
    parser.add_argument("--folder", type=Path, default=Path("runs/regress"), help="where runs and the report go")


def main(options: argparse.Namespace) -> int:
    """Run `lmops-lab regress`: 0 if nothing regressed (or --update), 1 otherwise, also if a baseline's file is lost."""
    results = regress(options.notebooks, options.folder, processes=options.jobs)
    sys.stdout.write(table(results) + "\n")
    # Before an update replaces the baseline's figures: the page is the record of what changed.
    path = write_report(results, options.folder / "report.html")
    sys.stdout.write(f"report: {path}\n")
    if options.update:
        update(results)
        changed = sum(line.verdict != "same" for r in results for line in r.comparisons)
        sys.stdout.write(f"baselines updated; {changed} beyond tolerance, new or gone (as above): review and commit\n")
    # An update mends what it compares; a run that failed has given nothing to update with.
    broken = [r for r in results if (r.outcome and r.outcome.run is None if options.update else r.failed)]
    return 1 if broken else 0


def _without(result: Regression) -> str:
    """What a notebook lacks to be compared, and what to do."""
    name = result.notebook.stem
    if result.missing == "file":
        return f"its baseline's folder has no baseline.yaml; bring it back, or make it with regress {name} --update"
    so = ", so it was not run" if result.outcome is None else ""
    return f"there is no baseline{so}; make one with regress {name} --update"


def _row(line: Comparison) -> tuple[str, ...]:
    was = line.was.metric if line.was else None
    difference = f"{line.now.value - was.value:+.4g}" if was and line.now else ""
    tolerance = line.was.words() if line.was else ""
    return line.name, str(was or ""), str(line.now or ""), difference, tolerance, line.verdict


def _summary(results: Sequence[Regression]) -> str:
    lines = [line for r in results for line in r.comparisons]
    counts = [(sum(line.verdict == v for line in lines), v) for v in ("same", "regression", "missing", "new")]
    failed = sum(r.outcome is not None and r.outcome.run is None for r in results)
    without = sum(bool(r.missing) for r in results)
    words = [f"{n} {word}" for n, word in counts if n] + ([f"{failed} failed runs"] if failed else [])
    words += [f"{without} without a baseline"] if without else []
    return f"{len(results)} notebooks: {', '.join(words) or 'no metrics'}"


def _figure(caption: str, path: Path) -> str:
    if not path.is_file():
        return f"<figure><figcaption>{html.escape(caption)}</figcaption><p class='missing'>there is none</p></figure>"
    # As an image, an SVG runs no scripts.
    data = base64.b64encode(path.read_bytes()).decode()
    words = html.escape(caption)
    return (
        f"<figure><figcaption>{words}</figcaption><img alt='{words}' src='data:image/svg+xml;base64,{data}'></figure>"
    )
