"""A job folder: one writer at a time, a status that anyone can watch, a log, and work that outlives its starter."""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from lmops_lab.digests import read_record, write_record
from lmops_lab.files import write_text

STATUS, LOG, LOCK = "status.json", "log.txt", ".lock"
FORMAT = "lmops-lab job 1"


class FolderBusyError(ValueError):
    """Another process is writing to the folder."""


@dataclass(frozen=True)
class JobStatus:
    """What a job is doing, as its folder tells it.

    Attributes:
        state: "starting", "running", "finished", "failed", "stopped" (on request) or "lost" (its process was killed).
        done, total: finished and planned pieces of work.
        found: pieces that were there when it began; they count as done.
        doing: what it does now, in words.
        error: why it failed.
        process, host, birth: the process that does the work; `birth` tells it from a later one of the same number.
        started, updated: Unix seconds.
        seconds_left: estimate from the pace so far; None before there is one.
    """

    state: str
    done: int = 0
    total: int = 0
    found: int = 0
    doing: str = ""
    error: str = ""
    process: int = 0
    host: str = ""
    birth: str = ""
    started: float = 0.0
    updated: float = 0.0
    seconds_left: float | None = None

    @property
    def active(self) -> bool:
        """Whether more is to come."""
        return self.state in ("starting", "running")

    def __str__(self) -> str:
        parts = [f"{self.state}: {self.done} of {self.total}"]
        if self.active and self.seconds_left is not None:
            parts.append(f"about {self.seconds_left:.0f} s left")
        return ", ".join([*parts, *filter(None, [self.doing if self.active else "", self.error])])


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Hold a folder for writing. The system frees it when the process ends, however it ends.

    Raises:
        FolderBusyError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0.5)
    try:
        lock.acquire()
    except Timeout:
        holder = read_status(folder)
        who = f"process {holder.process} on {holder.host}, {holder}" if holder else "another process"
        raise FolderBusyError(
            f"{str(folder)!r} is being written by {who}; watch it (`lmops-lab sweep {folder} --status`), wait until it "
            "ends, or choose another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


class Reporter:
    """Keeps a folder's status and log up to date while the work is done. Use it as a context inside `one_writer`.

    Leaving the context writes how it ended: finished, stopped by Ctrl-C or SIGTERM, or failed with the error.
    """

    def __init__(self, folder: Path, total: int, found: int = 0) -> None:
        self.folder = folder
        self._clock = time.perf_counter()
        now = time.time()
        process = os.getpid()
        self.status = JobStatus(
            "running", found, total, found, "", "", process, socket.gethostname(), _birth(process), now, now
        )

    def __enter__(self) -> "Reporter":  # noqa: PYI034 - beartype checks methods, and has no Self there
        self._write()
        self.log(f"start: {self.status.found} of {self.status.total} there already")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        state, why = "finished", ""
        if kind is not None:
            stopped = issubclass(kind, (KeyboardInterrupt, GeneratorExit))
            state, why = ("stopped", "") if stopped else ("failed", f"{kind.__name__}: {error}")
        self.log(f"{state}: {self.status.done} of {self.status.total} {why}".rstrip())
        with contextlib.suppress(OSError):  # a full disk must not hide the error that it caused
            self._set(state=state, error=why, doing="", seconds_left=None)

    def doing(self, what: str) -> None:
        """Say what is being done."""
        self._set(doing=what)

    def finished_one(self, what: str) -> None:
        """Count one more finished piece."""
        done = self.status.done + 1
        pace = (time.perf_counter() - self._clock) / (done - self.status.found)
        self._set(done=done, seconds_left=round(pace * (self.status.total - done), 1))
        self.log(f"done {done}/{self.status.total}: {what}")

    def log(self, line: str) -> None:
        """Append a line with the time. Line breaks and control characters in it are shown as their escapes.

        So a name that holds a line break cannot write a line of its own, nor a terminal's commands.
        """
        line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
        with contextlib.suppress(OSError), (self.folder / LOG).open("a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def _set(self, **changes: object) -> None:
        self.status = dataclasses.replace(self.status, updated=time.time(), **changes)  # type: ignore[arg-type]
        self._write()

    def _write(self) -> None:
        _write_status(self.folder, self.status)


@dataclass(frozen=True)
class Job:
    """A job folder seen from outside: read-only, from any process, at any time."""

    folder: Path

    def status(self) -> JobStatus:
        """What it is doing, or how it ended.

        Raises:
            FileNotFoundError: no job was ever started in this folder.
        """
        status = read_status(self.folder)
        if status is None:
            raise FileNotFoundError(f"{str(self.folder)!r} holds no job ({STATUS}); start one there first")
        return status

    def log(self, lines: int = 20) -> str:
        """The last lines of its log."""
        try:
            text = (self.folder / LOG).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def wait(self, seconds: int | float | None = None, every: int | float = 0.2) -> JobStatus:
        """Wait until it ends, at most this long, and return its status then."""
        end = None if seconds is None else time.monotonic() + seconds
        while (status := self.status()).active and (end is None or time.monotonic() < end):
            time.sleep(every)
        return status

    def stop(self) -> None:
        """Ask it to end; what is finished stays, and starting it again continues.

        Raises:
            ValueError: it runs on another machine.
        """
        status = self.status()
        if not status.active:
            return
        if status.host != socket.gethostname():
            raise ValueError(f"the job runs as process {status.process} on {status.host}; stop it there")
        with contextlib.suppress(ProcessLookupError):
            os.kill(status.process, signal.SIGTERM)


def start_job(folder: Path | str, arguments: Sequence[str], files: Mapping[str, str] | None = None) -> Job:
    """Run `python arguments...` as a child in its own session, with its output in the folder's log.

    It goes on when the notebook, the browser or the terminal that started it is closed. The child is expected to take
    `one_writer` and to use a `Reporter`.

    Args:
        files: what the child is to read, as names and texts; written to the folder unless it is busy.

    Raises:
        FolderBusyError: the folder is being written already, or a job that was started there is about to.
    """
    folder = Path(folder).resolve()
    with one_writer(folder):
        _check_not_starting(folder)
        for name, text in (files or {}).items():
            write_text(folder / name, text)
        _write_status(folder, JobStatus("starting", host=socket.gethostname(), started=time.time()))
        with (folder / LOG).open("ab") as log:
            child = subprocess.Popen(  # noqa: S603 - arguments come from this package, no shell is involved
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        now = time.time()
        status = JobStatus("starting", 0, 0, 0, "loading", "", child.pid, socket.gethostname(), _birth(child.pid), now)
        _write_status(folder, status)
    _children.append(child)
    return Job(folder)


def _check_not_starting(folder: Path) -> None:
    """Refuse a folder whose job has been started but has not taken the lock: it needs seconds to load its libraries.

    Only a living process of this machine counts; of another one nobody here can tell, and a lock that is free means
    that a running job has ended.
    """
    status = read_status(folder)
    if status and status.state == "starting" and status.process and status.host == socket.gethostname():
        raise FolderBusyError(
            f"a job has just been started in {str(folder)!r} (process {status.process}); watch it (`lmops-lab sweep "
            f"{folder} --status`), wait until it ends, or choose another folder"
        )


# What the fields of a status are, so that a file of somebody else's making is none.
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("state", "doing", "error", "host", "birth"), (str,)),
    **dict.fromkeys(("done", "total", "found", "process"), (int,)),
    **dict.fromkeys(("started", "updated"), (int, float)),
    "seconds_left": (int, float, type(None)),
}

# Ended children stay in the process table until someone asks for their exit code; these are asked in `read_status`.
_children: list["subprocess.Popen[bytes]"] = []


def read_status(folder: Path) -> JobStatus | None:
    """The status in a folder, None where there is none; "lost" where its process is gone without a word."""
    try:
        about = read_record(folder / STATUS)
        about.pop("format")
        status = JobStatus(**about)
        if not all(isinstance(getattr(status, name), kinds) for name, kinds in _KINDS.items()):
            return None
    except (OSError, ValueError, TypeError, KeyError):  # none, or damaged: the work itself does not depend on it
        return None
    _children[:] = [child for child in _children if child.poll() is None]
    here = status.host == socket.gethostname()
    if status.active and here and status.process and _birth(status.process) != status.birth:
        why = f"process {status.process} is gone; start it again to continue"
        return dataclasses.replace(status, state="lost", error=why, seconds_left=None)
    return status


def report_failure(folder: Path, error: BaseException) -> None:
    """Say in the folder why this process gave up before its work began; silent where another process started it."""
    status = read_status(folder)
    if status is not None and status.active and status.process == os.getpid():
        failed = dataclasses.replace(status, state="failed", error=f"{type(error).__name__}: {error}", doing="")
        _write_status(folder, failed)


def stop_on_signals() -> None:
    """Let SIGTERM and SIGINT end this process like Ctrl-C does, even if its parent ignored them."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def _write_status(folder: Path, status: JobStatus) -> None:
    write_record(folder / STATUS, {"format": FORMAT, **dataclasses.asdict(status)})


def _birth(process: int) -> str:
    """When a living process was born, "?" where the system does not tell, "" for one that is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return ""
        except PermissionError:
            return "?"
        return "?"
    return "" if fields[0] in "ZX" else fields[19]  # the state, and the start in clock ticks since boot
