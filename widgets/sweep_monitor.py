"""A running sweep, watched from any notebook: progress, time left, errors, and the curve as it grows."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets as tr

from lmops_lab.icl.cells import CellStore
from lmops_lab.icl.results import CELLS
from lmops_lab.runs.jobs import Job, JobStatus
from widgets import html

Point = tuple[str, int, float]  # name of the line, k, accuracy of one seed

_ERROR_WORDS = ("error", "failed", "warning", "traceback")
_MAX_ERRORS = 50


class SweepMonitor(html.Fallback, anywidget.AnyWidget):
    """Watches a job folder and never writes to it; the job goes on when the notebook is closed.

    Show it again by the same folder or job id, from any notebook, after a reload or a restarted kernel.

    Attributes:
        job: id of the job, the name of its folder.
        status: {"state", "done", "total", "doing", "error", "left"}; "left" in words.
        errors: lines of the log that tell of trouble, the latest last.
        curve: [{"name", "points": [[k, mean accuracy, seeds]]}] of the cells finished so far.
        message: what the reader must know (no such job, a job on another machine).
    """

    _esm = html.front("sweep_monitor.js")
    _css = html.STYLE

    job = tr.Unicode("").tag(sync=True)
    status = tr.Dict().tag(sync=True)
    errors = tr.List(tr.Unicode()).tag(sync=True)
    curve = tr.List(tr.Dict()).tag(sync=True)
    message = tr.Unicode("").tag(sync=True)

    def __init__(self, job: str | Path, *, root: str | Path = "runs", every: float = 1.0) -> None:
        """Watch a job.

        Args:
            job: its folder, or its id: the name of a folder under `root`.
            root: where job folders lie.
            every: seconds between two looks; 0 looks only when `refresh` is called.
        """
        named = Path(job)
        folder = named if named.is_dir() or len(named.parts) > 1 else Path(root) / named
        self._job = Job(folder.resolve())
        self._store = CellStore(self._job.folder / CELLS)
        self._seen: dict[str, Point | None] = {}
        self._closed = threading.Event()
        super().__init__()
        self.job = html.clean(self._job.folder.name)
        self.refresh()
        self.on_msg(self._receive)
        if every > 0:
            threading.Thread(target=self._watch, args=(every,), daemon=True).start()

    def refresh(self) -> None:
        """Look at the folder once."""
        try:
            status = self._job.status()
        except FileNotFoundError as error:
            self.message, self.status = html.clean(error), {}
            return
        errors = tuple(_errors(self._job.log(2000), status))
        points = self._points()
        with self.hold_sync():
            self.status = describe(status)
            self.errors = [html.clean(line) for line in errors][-_MAX_ERRORS:]
            self.curve = mean_curve(points)
            if self.message.startswith(repr(str(self._job.folder))):
                self.message = ""

    def cancel(self) -> None:
        """Ask the job to end; finished cells stay, and starting it again continues."""
        self._job.stop()
        self.refresh()

    def close(self) -> None:
        """Stop watching; the job goes on."""
        self._closed.set()
        super().close()

    def _watch(self, every: float) -> None:
        while not self._closed.wait(every):
            try:
                self.refresh()
            except Exception as error:  # noqa: BLE001 - a thread's error would be lost; the reader sees it here
                self.message = f"The folder could not be read: {type(error).__name__}: {html.clean(error)}"
            # A job that has ended can be started again, so the watch goes on, only slower.
            if self.status.get("state") not in {"starting", "running"}:
                self._closed.wait(4 * every)

    def _receive(self, _: object, content: dict[str, Any], __: object) -> None:
        if content.get("kind") == "cancel":
            try:
                self.cancel()
            except (ValueError, OSError) as error:
                self.message = html.clean(error)

    def _points(self) -> list[Point]:
        """Accuracy of every finished cell; each file is read once."""
        for path in sorted(self._store.folder.glob("*.parquet")):
            if path.stem not in self._seen and not path.name.startswith("."):
                self._seen[path.stem] = self._point(path.stem)
        return [point for point in self._seen.values() if point is not None]

    def _point(self, name: str) -> Point | None:
        cell = self._store.read(name)
        if cell is None or not len(cell.gold):
            return None
        try:
            about = json.loads((self._store.folder / f"{name}.json").read_text(encoding="utf-8"))
            settings = about["settings"]
        except (OSError, ValueError, KeyError, TypeError):
            settings = {}
        line = ", ".join(str(settings[key]) for key in ("model", "task") if settings.get(key))
        accuracy = float((cell.scores.argmax(axis=1) == cell.gold).mean())
        return html.clean(f"{cell.method} ({line})" if line else cell.method), cell.k, accuracy

    def __repr__(self) -> str:
        return f"SweepMonitor({self.job!r})"

    def fallback(self) -> str:
        """Progress, errors and the curve's numbers at this moment, as HTML without scripts."""
        status = self.status
        words = ""
        if status:
            share = 100 * status["done"] / max(1, status["total"])
            words = (
                f"<p><b>{html.escape(status['state'])}</b>: {status['done']} of {status['total']} cells "
                f"({share:.0f}%). {html.escape(status['left'])} {html.escape(status['doing'])}</p>"
                + html.notice(status["error"])
            )
        rows = [
            [html.escape(line["name"]), str(k), f"{accuracy:.3f}", str(seeds)]
            for line in self.curve
            for k, accuracy, seeds in line["points"]
        ]
        table = html.table(("method", "k", "accuracy", "seeds"), rows) if rows else "<p>No cell is finished yet.</p>"
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in self.errors)
        trouble = f"<ul>{lines}</ul>" if lines else ""
        title = f"<b>Job {html.escape(self.job)}</b>"
        return f'<div style="font-family:sans-serif">{title}{html.notice(self.message)}{words}{trouble}{table}</div>'


def describe(status: JobStatus) -> dict[str, Any]:
    """A status in plain values, the time left in words."""
    return {
        "state": html.clean(status.state),
        "done": status.done,
        "total": status.total,
        "active": status.active,
        "doing": html.clean(status.doing) if status.active else "",
        "error": html.clean(status.error),
        "left": time_left(status.seconds_left) if status.active else "",
    }


def time_left(seconds: float | None) -> str:
    """An estimate as people say it.

    >>> time_left(42), time_left(600), time_left(9000), time_left(None)
    ('about 42 s left', 'about 10 min left', 'about 2.5 h left', '')
    """
    if seconds is None:
        return ""
    if seconds < 90:
        return f"about {seconds:.0f} s left"
    return f"about {seconds / 60:.0f} min left" if seconds < 5400 else f"about {seconds / 3600:.1f} h left"


def mean_curve(points: list[Point]) -> list[dict[str, Any]]:
    """Mean accuracy over seeds for each line and k.

    >>> mean_curve([("structured", 4, 0.5), ("structured", 4, 0.7), ("structured", 0, 0.4)])
    [{'name': 'structured', 'points': [[0, 0.4, 1], [4, 0.6, 2]]}]
    """
    lines: dict[str, dict[int, list[float]]] = {}
    for name, k, accuracy in points:
        lines.setdefault(name, {}).setdefault(k, []).append(accuracy)
    return [{"name": name, "points": _line(found)} for name, found in sorted(lines.items())]


def _line(found: Mapping[int, list[float]]) -> list[list[float]]:
    return [[k, round(float(np.mean(values)), 6), len(values)] for k, values in sorted(found.items())]


def _errors(log: str, status: JobStatus) -> list[str]:
    lines = [line for line in log.splitlines() if any(word in line.lower() for word in _ERROR_WORDS)]
    return [*lines, status.error] if status.error and not any(status.error in line for line in lines) else lines
