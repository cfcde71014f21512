"""Committed notebooks are clean and honest: a lint, one command that rebuilds all stored outputs, and both as commands.

A stored output is what the code gives on its defaults, from an empty cache, in order, and nothing of the machine that
made it: no path, no key, no widget state, no noise on stderr.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError

from lmops_lab.files import cache_folder, write_text
from lmops_lab.runs.notebook import find_notebook, freeze_widgets
from lmops_lab.runs.parameters import read_parameters

MAX_BYTES = 1_500_000
MAX_CODE_CELLS = 15

_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_WIDGET_STATE = "application/vnd.jupyter.widget-state+json"

# A path of somebody's machine, or of its scratch folders; "~", "/path/to" and addresses of the web are not.
_PATH = re.compile(
    r"(?<![\w.:/~}-])/(?:home|Users|root|tmp|var|mnt|media|opt|srv|usr|data|work|workspaces?|content|private|scratch)/\w"
    r"[\w./-]*|(?<![\w])[A-Za-z]:\\\\?(?:Users|Documents|Temp)\b[^\s\"']*"
)
_SECRET = re.compile(
    r"hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|AKIA[0-9A-Z]{16}"
    r"|xox[abpr]-[\w-]{10,}|AIza[\w-]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|(?i:api[_-]?key|secret|password|access[_-]?token)[\"']?\s*[:=]\s*[\"'][^\"'\s{}<>]{8,}[\"']"
)
_OPENING = ("Question", "Time", "Hardware")


def lint(path: Path) -> list[str]:
    """What is wrong with a committed notebook, one sentence each; an empty list is the aim."""
    problems: list[str] = []
    try:
        read_parameters(path)
    except ValueError as error:
        problems.append(str(error))
    try:
        node = nbformat.read(path, as_version=4)
    except (ValueError, AttributeError, nbformat.ValidationError):
        return problems
    size = path.stat().st_size
    if size > MAX_BYTES:
        problems.append(f"it has {size:,} bytes; keep it below {MAX_BYTES:,} (smaller figures, fewer of them)")
    return problems + _of_notebook(node) + [p for number, cell in enumerate(node.cells) for p in _of_cell(number, cell)]


def _of_notebook(node: Any) -> list[str]:
    problems = []
    kernel = node.metadata.get("kernelspec", {}).get("name")
    if kernel != "python3":
        problems.append(f"its kernelspec is {kernel!r}; it must be 'python3'")
    if "widgets" in node.metadata:
        problems.append("it stores widget state, which needs a network to show; strip metadata.widgets")
    if "papermill" in node.metadata:
        problems.append("it stores papermill's record of a run; strip metadata.papermill")
    code = [cell for cell in node.cells if cell.cell_type == "code" and cell.source.strip()]
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        problems.append(f"its cells were executed as {counts}, not once each and in order; rebuild it")
    if len(code) > MAX_CODE_CELLS:
        problems.append(f"it has {len(code)} code cells; a lesson has at most {MAX_CODE_CELLS}")
    opening = node.cells[0].source if node.cells and node.cells[0].cell_type == "markdown" else ""
    missing = [word for word in _OPENING if f"**{word}" not in opening]
    if missing:
        problems.append(f"its first cell does not state **{'**, **'.join(missing)}**")
    return problems


def _of_cell(number: int, cell: Any) -> Iterator[str]:
    for what, text in [("source", cell.source), *_texts(cell.get("outputs", ()))]:
        for kind, pattern in (("an absolute path", _PATH), ("what looks like a secret", _SECRET)):
            found = pattern.search(text)
            if found:
                shown = found[0][:60] if pattern is _PATH else f"{found[0][:6]}…"
                yield f"cell {number}: its {what} holds {kind}, {shown!r}"
    for output in cell.get("outputs", ()):
        if output.output_type == "error":
            yield f"cell {number}: it ended with {output.ename}"
        if output.output_type == "stream" and output.name == "stderr":
            first = output.text.strip().splitlines()
            yield f"cell {number}: it printed to stderr: {first[0][:80] if first else ''!r}"
        if _WIDGET_VIEW in output.get("data", {}) or _WIDGET_STATE in output.get("data", {}):
            yield f"cell {number}: it stores a live widget, which shows nothing without a kernel; keep its fallback"


def _texts(outputs: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Readable text of outputs (pictures and their base64 left out)."""
    for output in outputs:
        yield "output", output.get("text", "") + "\n".join(output.get("traceback", ()))
        for kind, data in output.get("data", {}).items():
            if kind.startswith("text/") or kind.endswith("json"):
                text = data if isinstance(data, str) else json.dumps(data)
                yield "output", re.sub(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+", "", text)


def rebuild(path: Path, *, progress: bool = True) -> list[str]:
    """Execute a notebook on its defaults, from an empty cache, and store the cleaned outputs in it.

    Returns:
        What the lint still finds. Then the notebook stays as it was.

    Raises:
        PapermillExecutionError: a cell failed; the notebook stays as it was.
    """
    with tempfile.TemporaryDirectory() as scratch, fresh_cache(Path(scratch) / "cache"):
        made = Path(scratch) / path.name
        papermill.execute_notebook(
            str(path),
            str(made),
            kernel_name="python3",
            language="python",
            progress_bar=progress,
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
        )
        clean(made)
        problems = lint(made)
        if not problems:
            write_text(path, made.read_text(encoding="utf-8"))
    return problems


def clean(path: Path) -> None:
    """Take out of a notebook what belongs to one run on one machine; sources, tags, counts and outputs stay."""
    freeze_widgets(path)
    node = nbformat.read(path, as_version=4)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    node.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    node.nbformat_minor = max(5, node.nbformat_minor)  # cells have ids from 4.5 on
    for number, cell in enumerate(node.cells):
        cell.setdefault("id", f"cell-{number:02}")
        tags = list(cell.metadata.get("tags", ()))
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        for output in cell.get("outputs", ()):
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
    write_text(path, nbformat.writes(node))


@contextmanager
def fresh_cache(home: Path) -> Iterator[Path]:
    """Kernels started inside use a cache that holds converted weights alone: stored points would hide a change."""
    before = os.environ.get("LMOPS_LAB_CACHE")
    weights = (cache_folder() / "weights").resolve()
    weights.mkdir(parents=True, exist_ok=True)
    home.mkdir(parents=True)
    (home / "weights").symlink_to(weights, target_is_directory=True)
    os.environ["LMOPS_LAB_CACHE"] = str(home)
    try:
        yield home
    finally:
        if before is None:
            del os.environ["LMOPS_LAB_CACHE"]
        else:
            os.environ["LMOPS_LAB_CACHE"] = before
        shutil.rmtree(home, ignore_errors=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `lmops-lab notebooks`."""
    parser.add_argument("action", choices=("lint", "rebuild"), help="check them, or execute them on their defaults")
    parser.add_argument("notebooks", nargs="*", help="path or beginning of a name; default: all in notebooks/")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def main(options: argparse.Namespace) -> int:
    """Run `lmops-lab notebooks`: 0 if all are clean, 1 otherwise."""
    paths = [find_notebook(name) for name in options.notebooks] or sorted(Path("notebooks").glob("*.ipynb"))
    if not paths:
        raise FileNotFoundError("there are no notebooks in notebooks/; run this in the folder of the project")
    bad = 0
    for path in paths:
        try:
            problems = lint(path) if options.action == "lint" else rebuild(path, progress=not options.quiet)
        except PapermillExecutionError as error:
            problems = [f"cell {error.exec_count} failed: {error.ename}: {error.evalue}"]
        bad += bool(problems)
        what = {"lint": "clean", "rebuild": "rebuilt"}[options.action]
        sys.stdout.write(f"{path}: {what if not problems else 'unchanged' if options.action == 'rebuild' else ''}\n")
        sys.stdout.writelines(f"  {problem}\n" for problem in problems)
    return 1 if bad else 0
