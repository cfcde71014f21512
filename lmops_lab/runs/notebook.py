"""Run a parameterised notebook with papermill and keep what it made in one folder."""

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbconvert import HTMLExporter

from lmops_lab.files import write_text
from lmops_lab.runs.parameters import check_parameters, read_parameters

# Written when a run starts and when it ends; a folder with the first alone was interrupted and can be continued.
STARTED, FINISHED = "parameters.json", "run.json"


@dataclass(frozen=True)
class Run:
    """A finished notebook run.

    Attributes:
        folder: holds everything below and what the notebook itself wrote.
        notebook: the executed notebook.
        html: the same as one stand-alone page.
        seconds: wall-clock time of the execution.
    """

    folder: Path
    notebook: Path
    html: Path
    seconds: float

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
            FINISHED: "record of the run",
        }
        lines = [f"  {what.get(path.name, ''):22} {path}" for path in made]
        return "\n".join([f"finished in {self.seconds:.0f} s:", *lines])


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


def run_notebook(notebook: Path, parameters: Mapping[str, Any], folder: Path, *, progress: bool = True) -> Run:
    """Execute a notebook with checked parameters; its own files, the HTML and a record land in `folder`.

    If the notebook has a parameter `output`, it is set to `folder` unless given.

    Raises:
        ValueError: parameters that the notebook does not have.
        papermill.PapermillExecutionError: a cell failed; the notebook up to there is kept in `folder`.
    """
    known = read_parameters(notebook)
    check_parameters(known, parameters)
    values = dict(parameters)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if "output" in known:
        values.setdefault("output", str(folder))
    began = {"notebook": notebook.name, "parameters": dict(parameters), "process": os.getpid()}
    write_text(folder / STARTED, json.dumps(began, indent=1) + "\n")
    executed = folder / notebook.name
    # Its own search for parameters overlooks annotated ones and warns; they were checked above.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    start = time.perf_counter()
    papermill.execute_notebook(
        str(notebook),
        str(executed),
        values,
        kernel_name="python3",
        language="python",
        progress_bar=progress,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    seconds = time.perf_counter() - start
    freeze_widgets(executed)
    html = export_html(executed)
    record = {
        "notebook": notebook.name,
        "parameters": {**{name: p.default for name, p in known.items()}, **values},
        "seconds": round(seconds, 2),
        "cells": [cell.metadata.get("papermill", {}).get("duration") for cell in _cells(executed)],
    }
    write_text(folder / FINISHED, json.dumps(record, indent=1) + "\n")
    return Run(folder, executed, html, seconds)


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
    """The folder for a run: that of an interrupted run with the same parameters, otherwise a new, higher number."""
    parent = root / notebook.stem
    parent.mkdir(parents=True, exist_ok=True)
    numbered = sorted((p for p in parent.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    for folder in reversed(numbered):
        if not (folder / FINISHED).is_file() and _interrupted(folder, notebook, parameters):
            return folder
    number = int(numbered[-1].name) + 1 if numbered else 1
    while True:
        try:
            (parent / f"{number:03}").mkdir()
        except FileExistsError:  # another process took it
            number += 1
        else:
            return parent / f"{number:03}"


def _interrupted(folder: Path, notebook: Path, parameters: Mapping[str, Any]) -> bool:
    """Whether a run of this notebook with these parameters began here and its process is gone."""
    try:
        began = json.loads((folder / STARTED).read_text(encoding="utf-8"))
        same = (began["notebook"], began["parameters"]) == (notebook.name, json.loads(json.dumps(dict(parameters))))
        process = int(began["process"])
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
    return same


def _cells(notebook: Path) -> list[Any]:
    return [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
