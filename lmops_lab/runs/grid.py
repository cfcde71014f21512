"""Many runs at once: the points of a grid file, fanned out over processes or a Dask cluster."""

import argparse
import concurrent.futures
import itertools
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from lmops_lab.outside import read_yaml
from lmops_lab.runs.notebook import Run, find_notebook, finished_run, identity, next_folder, run_notebook, with_page
from lmops_lab.runs.parameters import check_parameters, read_parameters

_KEYS = ("notebook", "fixed", "grid", "points")


@dataclass(frozen=True)
class Job:
    """One notebook run to make.

    Attributes:
        environment: variables set for this run alone, such as LMOPS_LAB_CACHE.
        home: folder that relative paths in the parameters start from.
        content: the run's identity when it was asked for; worked out by the job where None.
        show_code: whether the HTML page has the code.
    """

    notebook: Path
    parameters: Mapping[str, Any]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    home: Path = field(default_factory=Path.cwd)
    content: str | None = None
    show_code: bool = True


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its run, or the error that ended it (one line and the whole traceback)."""

    job: Job
    run: Run | None
    error: str = ""
    traceback: str = ""


def read_grid(path: Path, notebooks: Path = Path("notebooks")) -> list[tuple[Path, dict[str, Any]]]:
    """The points of a grid file, each a notebook and its parameters, all checked.

    The file is YAML: `notebook` (a name or a list), `fixed` (parameters of every point), `grid` (name -> list of
    values; all combinations) and `points` (parameters of single points, instead of or beside `grid`).

    Raises:
        ValueError: not such a file, an empty grid, or parameters that a notebook refuses.
        FileNotFoundError: no such file or notebook.
    """
    content = _content(path)
    fixed, points = content.get("fixed") or {}, content.get("points") or []
    combinations = _combinations(path, content.get("grid") or {}, fixed)
    chosen = [*(combinations if content.get("grid") or not points else []), *points]
    named = content["notebook"] if isinstance(content["notebook"], list) else [content["notebook"]]
    found: list[tuple[Path, dict[str, Any]]] = []
    for name in named:
        notebook = find_notebook(str(name), notebooks)
        known = read_parameters(notebook)
        for point in chosen:
            parameters = {**fixed, **point}
            check_parameters(known, parameters)
            if (notebook, parameters) not in found:
                found.append((notebook, parameters))
    return found


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no grid file {str(path)!r}")
    content = read_yaml(path)
    if not isinstance(content, dict) or "notebook" not in content:
        raise ValueError(f"{path.name} names no notebook; write `notebook: '01'` and `grid:` with lists of values")
    unknown = [key for key in content if key not in _KEYS]
    if unknown:
        raise ValueError(f"{path.name} has {unknown}; a grid file holds {', '.join(_KEYS)}")
    for key, kind in (("fixed", dict), ("grid", dict), ("points", list)):
        if not isinstance(content.get(key) or kind(), kind):
            raise ValueError(f"{key} of {path.name} is {content[key]!r}; it should be a {kind.__name__}")  # noqa: TRY004
    for point in content.get("points") or []:
        if not isinstance(point, dict):
            raise ValueError(f"a point of {path.name} is {point!r}; write parameters, such as {{k: [0, 8]}}")  # noqa: TRY004
    return content


def _combinations(path: Path, grid: Mapping[str, Any], fixed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the grid's values; an empty grid has one, without parameters."""
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"grid parameter {name!r} of {path.name} is {values!r}; give a list of values to try")
        if name in fixed:
            raise ValueError(f"parameter {name!r} of {path.name} is both fixed and in the grid; keep one")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def run_grid(
    points: Iterable[tuple[Path, Mapping[str, Any]]],
    root: Path = Path("runs"),
    *,
    processes: int = 1,
    dask: str | None = None,
    force: bool = False,
    show_code: bool = True,
) -> list[Outcome]:
    """Run every point that has not been run before; failures do not stop the others.

    Args:
        root: where the run folders go, as with single runs.
        processes: how many notebooks at once on this machine; or
        dask: address of a Dask scheduler whose workers see the same files.
        force: run points again that have finished before.
        show_code: whether the HTML pages have the code, those of earlier runs too.

    Returns:
        One outcome a point, in order.
    """
    outcomes: dict[int, Outcome] = {}
    jobs: dict[int, Job] = {}
    for number, (notebook, parameters) in enumerate(points):
        done = None if force else finished_run(root, notebook, parameters)
        folder = done.folder if done else next_folder(root, notebook, parameters)
        content = identity(notebook, parameters)
        job = Job(notebook.resolve(), parameters, folder.resolve(), content=content, show_code=show_code)
        if done:
            outcomes[number] = Outcome(job, with_page(done, show_code=show_code))
        else:
            jobs[number] = job
    made = run_jobs(list(jobs.values()), processes=processes, dask=dask)
    outcomes |= dict(zip(jobs, made, strict=True))
    return [outcomes[number] for number in sorted(outcomes)]


def run_jobs(
    jobs: Sequence[Job], *, processes: int = 1, dask: str | None = None, progress: bool = True
) -> list[Outcome]:
    """Run jobs, one after another, or several at once in processes of their own or on a Dask cluster.

    Ctrl-C lets every running notebook stop at its next safe place and starts no further one.
    """
    if processes < 1:
        raise ValueError(f"{processes} processes; give at least 1")
    with (
        tqdm(total=len(jobs), unit="run", desc="runs", disable=not progress or len(jobs) < 2) as bar,
        _executor(min(processes, max(1, len(jobs))), dask) as submit,
    ):
        futures = []
        for job in jobs:
            future = submit(job)
            future.add_done_callback(lambda _: bar.update())
            futures.append(future)
        return [future.result() for future in futures]


Submit = Callable[[Job], "concurrent.futures.Future[Outcome]"]


@contextmanager
def _executor(processes: int, dask: str | None) -> Iterator[Submit]:
    """How to start a job: in fresh local processes, or through a Dask scheduler."""
    if dask is not None:
        try:
            from distributed import Client
        except ImportError as error:
            raise ValueError("runs on Dask need the package distributed: pip install 'lmops-lab[dask]'") from error
        try:
            client = Client(dask, timeout="10s")
        except (OSError, ValueError) as error:
            raise ValueError(f"there is no Dask scheduler at {dask!r} ({error}); start one or give --jobs") from error
        with client:
            # pure=False: a second run of the same job is a second run.
            executor = client.get_executor(pure=False)
            yield lambda job: executor.submit(_run, job)
        return
    if processes == 1:
        yield _now
        return
    threads = max(1, (os.cpu_count() or 1) // processes)
    executor = concurrent.futures.ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),
        initializer=_begin_process,
        initargs=(threads,),
        max_tasks_per_child=1,
    )
    try:
        yield lambda job: executor.submit(_run, job)
    except KeyboardInterrupt:
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.kill(child.pid, signal.SIGINT)
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _now(job: Job) -> "concurrent.futures.Future[Outcome]":
    """Run a job in this process, at once: the kernel is a process of its own anyway."""
    future: concurrent.futures.Future[Outcome] = concurrent.futures.Future()
    future.set_result(_run(job))
    return future


def _begin_process(threads: int) -> None:
    """Leave the terminal's group, so that Ctrl-C arrives once, from the parent; share the cores out."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def _run(job: Job) -> Outcome:
    """Run one job; whatever goes wrong becomes its outcome."""
    before, here = dict(os.environ), Path.cwd()
    os.environ.update(job.environment)
    try:
        os.chdir(job.home)
        made = run_notebook(
            job.notebook, job.parameters, job.folder, progress=False, content=job.content, show_code=job.show_code
        )
        return Outcome(job, made)
    except Exception as error:  # noqa: BLE001 - a cell may raise anything, and the other jobs go on
        lines = [getattr(error, "ename", type(error).__name__), str(getattr(error, "evalue", error))]
        return Outcome(job, None, ": ".join(lines), traceback.format_exc())
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(before)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `lmops-lab run` that concern many runs."""
    parser.add_argument("--grid", type=Path, metavar="FILE", help="run every point of a YAML grid instead")
    parser.add_argument("--jobs", type=int, default=1, help="with --grid: notebooks at once (default 1)")
    parser.add_argument("--dask", metavar="ADDRESS", help="with --grid: scheduler of a Dask cluster to run on")


def main(options: argparse.Namespace) -> int:
    """Run `lmops-lab run --grid`: a line a point at the end, 0 if none failed, 1 otherwise."""
    if options.grid is None:
        raise ValueError("name a notebook, such as `lmops-lab run 01`, or a grid file with --grid")
    if options.notebook or options.parameter or options.folder:
        raise ValueError("a grid file names its notebooks and parameters; leave NOTEBOOK, -p and --folder out")
    points = read_grid(options.grid)
    outcomes = run_grid(
        points, processes=options.jobs, dask=options.dask, force=options.force, show_code=not options.hide_code
    )
    for (notebook, parameters), outcome in zip(points, outcomes, strict=True):
        words = " ".join(f"{name}={value!r}" for name, value in parameters.items())
        state = "failed" if outcome.run is None else f"{outcome.run.seconds:.0f} s"
        if outcome.run and not outcome.run.repeated:
            state = "before"
        sys.stdout.write(f"{state:>7}  {notebook.stem} {words}\n         {outcome.job.folder}\n")
        if outcome.run is None:
            sys.stdout.write(f"         {outcome.error}\n")
    failed = sum(outcome.run is None for outcome in outcomes)
    sys.stdout.write(f"{len(outcomes)} runs, {failed} failed\n")
    return 1 if failed else 0
