"""Run a parameterised notebook with papermill and keep what it made in one folder."""

import json
import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import papermill
from filelock import FileLock
from nbconvert import HTMLExporter

from lmops_lab.digests import check_files, file_digests, read_record, write_record
from lmops_lab.files import write_text
from lmops_lab.runs import record
from lmops_lab.runs.parameters import check_parameters, read_parameters, with_lists

# Written when a run starts and when it ends; a folder with the first alone was interrupted and can be continued.
STARTED, FINISHED = "parameters.json", "run.json"
LOG = "run.log"
_LOCK = ".lock"  # beside the folders of all notebooks, held while one of them is chosen


@dataclass(frozen=True)
class Run:
    """A finished notebook run.

    Attributes:
        folder: holds everything below and what the notebook itself wrote.
        notebook: the executed notebook.
        html: the same as one stand-alone page.
        seconds: wall-clock time of the execution.
        repeated: False if an earlier run with the same content stands in for a new one.
    """

    folder: Path
    notebook: Path
    html: Path
    seconds: float
    repeated: bool = True

    def report(self) -> str:
        """Where everything is, a line each."""
        made = sorted(p for p in self.folder.iterdir() if p.is_file() and p.name[0] != "." and p.name != STARTED)
        what = {
            self.notebook.name: "executed notebook",
            self.html.name: "stand-alone HTML",
            "curve.png": "curve (PNG)",
            "curve.svg": "curve (SVG)",
            "results.parquet": "results (all scores)",
            "summary.parquet": "results (accuracies)",
            "manifest.json": "results' manifest",
            "metrics.json": "results (named numbers)",
            FINISHED: "record of the run",
            LOG: "log",
        }
        lines = [f"  {what.get(path.name, ''):23} {path}" for path in made]
        first = f"finished in {self.seconds:.0f} s:"
        if not self.repeated:
            first = "nothing has changed since this run (--force repeats it):"
        return "\n".join([first, *lines])


def find_notebook(name: str, folder: Path = Path("notebooks")) -> Path:
    """A notebook by path, or by the beginning of its file name ("01") in the notebooks folder.

    Raises:
        FileNotFoundError: none or several match.
    """
    path = Path(name)
    if path.suffix == ".ipynb" and path.is_file():
        return path
    found = sorted(folder.glob(f"{name}*.ipynb")) if "/" not in name and name.strip("._") else []
    if len(found) != 1:
        here = ", ".join(sorted(p.stem for p in folder.glob("*.ipynb"))) or f"none in {folder}/"
        raise FileNotFoundError(f"{name!r} fits {len(found)} notebooks; give a path or one of: {here}")
    return found[0]


def run_notebook(
    notebook: Path,
    parameters: Mapping[str, Any],
    folder: Path,
    *,
    progress: bool = True,
    show_code: bool = True,
    content: str | None = None,
) -> Run:
    """Execute a notebook with checked parameters; its own files, the HTML, a log and a record land in `folder`.

    If the notebook has a parameter `output`, it is set to `folder` unless given.

    Args:
        show_code: whether the HTML page shows the code.
        content: the run's identity (see `identity`), where it was settled before; computed otherwise.

    Raises:
        ValueError: parameters that the notebook does not have.
        papermill.PapermillExecutionError: a cell failed; the notebook up to there is kept in `folder`.
    """
    known = read_parameters(notebook)
    parameters = with_lists(parameters)
    check_parameters(known, parameters)
    values = dict(parameters)
    content = content or identity(notebook, values)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if "output" in known:
        values.setdefault("output", str(folder))
    _write_started(folder, notebook, parameters, claimed=False)
    (folder / FINISHED).unlink(missing_ok=True)  # of an earlier run: this one is not finished yet
    executed = folder / notebook.name
    started = datetime.now(UTC)
    start = time.perf_counter()
    with _logged(folder / LOG):
        papermill.execute_notebook(
            str(notebook),
            str(executed),
            values,
            kernel_name="python3",
            language="python",
            progress_bar=progress,
            log_output=True,
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
        )
    seconds = time.perf_counter() - start
    freeze_widgets(executed)
    html = export_html(executed, show_code=show_code)
    complete = {**{name: p.default for name, p in known.items()}, **values}
    kept = {
        "notebook": notebook.name,
        "content": content,
        "show_code": show_code,
        "parameters": complete,
        "seeds": record.seeds(complete),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
        "cells": [cell.metadata.get("papermill", {}).get("duration") for cell in _cells(executed)],
        "commit": record.commit(),
        "versions": record.versions(),
        "hardware": record.hardware(),
    }
    kept["files"] = file_digests({path.name: path for path in (executed, html)})
    write_record(folder / FINISHED, kept)
    return Run(folder, executed, html, seconds)


def finished_run(root: Path, notebook: Path, parameters: Mapping[str, Any]) -> Run | None:
    """The latest finished run under `root` whose content hash is what a run would have now, or None.

    Raises:
        ValueError: parameters that the notebook does not have.
    """
    content = identity(notebook, parameters)
    folders = [p for p in (root / notebook.stem).glob("*") if p.name.isdigit()]
    return next(
        (run for f in sorted(folders, key=lambda p: -int(p.name)) if (run := run_in(f, notebook, content))), None
    )


def run_in(folder: Path, notebook: Path, content: str) -> Run | None:
    """The finished run in a folder, if its content hash is this one and its files are there as they were written."""
    folder = folder.resolve()
    executed = folder / notebook.name
    html = executed.with_suffix(".html")
    try:
        kept = read_record(folder / FINISHED)
        same, seconds = kept["content"] == content, float(kept["seconds"])
        if same:
            check_files(folder, kept["files"])
    except (OSError, ValueError, KeyError, TypeError):  # none, or damaged: it does not stand in for a new run
        return None
    return Run(folder, executed, html, seconds, repeated=False) if same else None


def identity(notebook: Path, parameters: Mapping[str, Any]) -> str:
    """Content hash of the run that these parameters ask for now (see `record.content_hash`).

    Raises:
        ValueError: parameters that the notebook does not have.
    """
    known = read_parameters(notebook)
    parameters = with_lists(parameters)
    check_parameters(known, parameters)
    return record.content_hash(notebook, {**{name: p.default for name, p in known.items()}, **parameters})


def with_page(run: Run, *, show_code: bool) -> Run:
    """A finished run whose HTML page shows the code, or not: written again where it was made the other way."""
    kept = read_record(run.folder / FINISHED)
    if kept.get("show_code") != show_code:
        export_html(run.notebook, show_code=show_code)
        kept |= {"show_code": show_code, "files": file_digests({path.name: path for path in (run.notebook, run.html)})}
        write_record(run.folder / FINISHED, kept)
    return run


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Let papermill write what happens, and what cells print, into a file instead of to the terminal."""
    logger = logging.getLogger("papermill")
    before = logger.level, logger.propagate
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    # Its own search for parameters overlooks annotated ones and warns; they were checked by ours.
    handler.addFilter(lambda entry: not entry.getMessage().startswith("Passed unknown parameter"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.level, logger.propagate = before


def export_html(notebook: Path, *, show_code: bool = True) -> Path:
    """Write a notebook as one HTML page that needs no network.

    Widget state is left out: its JavaScript would come from a CDN, and every widget shows a static fallback instead.
    """
    node = nbformat.read(notebook, as_version=4)
    node.metadata.pop("widgets", None)
    exporter = HTMLExporter(exclude_input=not show_code, embed_images=True)
    exporter.mathjax_url = ""  # from a CDN; formulas are written in plain text
    exporter.require_js_url = ""
    exporter.mermaid_js_url = ""
    body, _ = exporter.from_notebook_node(node)
    path = notebook.with_suffix(".html")
    write_text(path, body)
    return path


def freeze_widgets(notebook: Path) -> None:
    """Keep of every widget in an executed notebook what shows without a kernel and a network.

    A stored progress bar shows the state it began in ("0 %"), and stored widget state needs JavaScript from the
    network: bars go, and widgets with an HTML fallback keep that alone.
    """
    view = "application/vnd.jupyter.widget-view+json"
    node = nbformat.read(notebook, as_version=4)
    node.metadata.pop("widgets", None)
    for cell in node.cells:
        if cell.cell_type == "code":
            data = [output.get("data", {}) for output in cell.outputs]
            cell.outputs = [o for o, d in zip(cell.outputs, data, strict=True) if view not in d or "text/html" in d]
            for output in cell.outputs:
                output.get("data", {}).pop(view, None)
    write_text(notebook, nbformat.writes(node))


def next_folder(root: Path, notebook: Path, parameters: Mapping[str, Any]) -> Path:
    """The folder for a run: that of an interrupted run with the same parameters, otherwise a new, higher number.

    The folder is this process's from then on: another one that asks while this one lives gets another folder.
    """
    parent = root / notebook.stem
    parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root / _LOCK):
        numbered = sorted((p for p in parent.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
        for folder in reversed(numbered):
            if not (folder / FINISHED).is_file() and _interrupted(folder, notebook, parameters):
                break
        else:
            folder = parent / f"{int(numbered[-1].name) + 1 if numbered else 1:03}"
            folder.mkdir()
        _write_started(folder, notebook, parameters, claimed=True)
    return folder


def _write_started(folder: Path, notebook: Path, parameters: Mapping[str, Any], *, claimed: bool) -> None:
    """Say whose folder it is. `claimed`: the run will begin here, in this process or in one that it starts."""
    began = {"notebook": notebook.name, "parameters": dict(parameters), "process": os.getpid(), "host": platform.node()}
    write_record(folder / STARTED, began | {"claimed": claimed})


def _interrupted(folder: Path, notebook: Path, parameters: Mapping[str, Any]) -> bool:
    """Whether a run of this notebook with these parameters began here, or was to begin, and its process is gone.

    A run of this very process counts, too: it has failed, or it would not be asked for again; a mere claim does not.
    """
    try:
        began = read_record(folder / STARTED)
        same = (began["notebook"], began["parameters"]) == (notebook.name, json.loads(json.dumps(dict(parameters))))
        process = int(began["process"])
        if began.get("host", platform.node()) != platform.node():
            return False  # nobody here can tell whether it still runs
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if process != os.getpid():
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return same
        except PermissionError:
            return False
        return False
    return same and not began.get("claimed")


def _cells(notebook: Path) -> list[Any]:
    return [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
