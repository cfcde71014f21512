"""Sweeps: a grid becomes cells, each done once, each kept when it is done; the table needs no model."""

import contextlib
import errno
import itertools
import json
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from lmops_lab.digests import write_record
from lmops_lab.files import sweep_leftovers
from lmops_lab.icl import cells, experiment
from lmops_lab.icl.cells import SETTINGS, Cell, CellStore
from lmops_lab.icl.experiment import keep, run_points
from lmops_lab.icl.grid import Grid
from lmops_lab.icl.outlines import dtype_name, outline_model
from lmops_lab.icl.plan import Plan, make_plan
from lmops_lab.icl.pools import Point, Pool
from lmops_lab.icl.results import CELLS, FORMAT, MANIFEST, Sweep, check_folder
from lmops_lab.icl.tasks import Task, load_task
from lmops_lab.models import LanguageModel, load_model
from lmops_lab.runs.jobs import Job, Reporter, one_writer, report_failure, start_job

EXECUTORS = ("local", "dask")


@dataclass(frozen=True)
class Work:
    """One encoding with its points, and the model that does it: name and dtype as `load_model` takes them."""

    model: str
    dtype: str
    device: str
    fingerprint: str
    pool: Pool


@dataclass(frozen=True)
class SweepPlan:
    """Everything a grid asks for, without repetition, before anything is computed.

    Attributes:
        outlines: the models without weights, by name.
        skipped: (model, task, method, k, reason) of cells that cannot exist.
    """

    grid: Grid
    works: tuple[Work, ...]
    outlines: Mapping[str, LanguageModel]
    skipped: tuple[tuple[str, str, str, int, str], ...]

    @property
    def points(self) -> list[Point]:
        """All cells to be, in the order of the work."""
        return [point for work in self.works for point in work.pool.points]


def plan_sweep(grid: Grid, tasks: Mapping[str, Task] | None = None) -> SweepPlan:
    """Expand a grid to its cells and check all of them, without any model's weights.

    Args:
        tasks: tasks by the name that the grid gives them, where they exist only in memory.

    Raises:
        ValueError, FileNotFoundError: whatever the models, the tasks or their combination do not allow.
    """
    outlines = {name: outline_model(name, dtype=grid.dtype, device=grid.device) for name in grid.model}
    loaded = [_load_task(task, tasks or {}) for task in grid.task]
    names = [task.name for task in loaded]
    if len(set(names)) < len(names):
        raise ValueError(f"tasks have the names {names}; give each its own (rename the file or folder)")
    works: list[Work] = []
    skipped: dict[tuple[str, str, str, int, str], None] = {}
    seen: set[str] = set()
    for name, lm in outlines.items():
        for task in loaded:
            for plan in _plans(grid, lm, task):
                skipped |= {(name, task.name, *at, why): None for at, why in plan.skipped.items()}
                for pool in plan.pools:
                    new = tuple(point for point in pool.points if point.name not in seen)
                    seen |= {point.name for point in new}
                    if new:
                        held = replace(pool, points=new)
                        works.append(Work(name, dtype_name(lm), grid.device, lm.fingerprint, held))
    if not works:
        raise ValueError(f"no cell of the grid can be run: {list(skipped)}; use a smaller k or another method")
    return SweepPlan(grid, tuple(works), outlines, tuple(skipped))


def run_sweep(
    grid: Grid | Mapping[str, Any],
    folder: Path | str,
    *,
    tasks: Mapping[str, Task] | None = None,
    executor: str = "local",
    scheduler: Any = None,
    workers: int = 2,
    threads: int | None = None,
    only_missing: bool = True,
    progress: bool = True,
) -> Sweep:
    """Run every cell of a grid that `folder` does not hold yet.

    Each finished cell is written at once. Stop it, kill it, call it again: finished cells stay, the others follow, and
    the numbers are those of an undisturbed run. One process writes to a folder at a time; others may watch it.

    Args:
        executor: "local" (this process) or "dask" (a Dask cluster; `pip install lmops-lab[dask]`).
        scheduler: for "dask": address of a scheduler ("tcp://host:8786") or a `distributed.Client`; None starts a
            cluster of processes on this machine.
        workers: how many processes such a local cluster has.
        threads: threads of one model; default: torch's own number here, 1 on a Dask worker. The last digits of a score
            can depend on it, so it has to be the same where runs are compared.
        only_missing: False computes all cells anew.

    Raises:
        ValueError: anything wrong with the grid or the folder, before work begins.
        FolderBusyError: another process is writing to the folder.
        OSError: the disk is full; finished cells stay.
    """
    folder = Path(folder)
    try:
        grid = grid if isinstance(grid, Grid) else Grid.of(grid)
        if executor not in EXECUTORS:
            raise ValueError(f"executor is {executor!r}; choose among {', '.join(EXECUTORS)}")  # noqa: TRY301
        check_folder(folder)
        plan = plan_sweep(grid, tasks)
        with one_writer(folder):
            for place in (folder, folder / CELLS):  # of a process that was killed; nobody else writes here now
                sweep_leftovers(place)
            store = CellStore(folder / CELLS)
            missing = missing_points(plan, store) if only_missing else {point.name for point in plan.points}
            _check_space(folder, plan, missing)
            _write_manifest(folder, plan)
            works = [work for work in (_only(work, missing) for work in plan.works) if work.pool.points]
            total, found = len(plan.points), len(plan.points) - len(missing)
            with (
                Reporter(folder, total, found) as report,
                _explained(folder, report),
                tqdm(total=total, initial=found, desc="sweep", unit="cell", disable=not progress) as bar,
            ):
                if executor == "dask":
                    from lmops_lab.icl.cluster import run_on_dask

                    done = run_on_dask(works, scheduler=scheduler, workers=workers, threads=threads or 1, report=report)
                else:
                    done = _run_here(works, threads, report)
                with contextlib.closing(done):
                    for work, point, cell in done:
                        keep(store, work.pool, point, cell)
                        report.finished_one(_words(point))
                        bar.update()
                Sweep(folder).write_table()
    except Exception as error:
        report_failure(folder, error)
        raise
    return Sweep(folder)


def start_sweep(grid: Grid | Mapping[str, Any], folder: Path | str, arguments: Sequence[str] = ()) -> Job:
    """Run a sweep in a child process that survives this one; watch it through the job that is returned.

    Args:
        arguments: more options of `lmops-lab sweep`, such as "--executor", "dask".

    Raises:
        ValueError: a grid or a folder that cannot be used. What else is wrong stands in the job's status.
        FolderBusyError: another sweep is running there, or has just been started; its grid stays.
    """
    folder = Path(folder).resolve()
    grid = grid if isinstance(grid, Grid) else Grid.of(grid)
    check_folder(folder)
    asked = folder / "grid.json"
    command = ["-m", "lmops_lab.cli", "sweep", str(asked), "--folder", str(folder), "--quiet", *arguments]
    return start_job(folder, command, {asked.name: json.dumps(grid.to_dict(), indent=1) + "\n"})


def _write_manifest(folder: Path, plan: SweepPlan) -> None:
    about = {
        "format": FORMAT,
        "cell_format": cells.FORMAT,
        "versions": list(experiment._versions()),
        "grid": plan.grid.to_dict(),
        "labels": {p.settings["task"]: list(w.pool.questions.names) for w in plan.works for p in w.pool.points[:1]},
        "skipped": [list(entry) for entry in plan.skipped],
        "cells": {point.name: {name: point.settings.get(name) for name in SETTINGS} for point in plan.points},
    }
    write_record(folder / MANIFEST, about)


def _load_task(task: str | Mapping[str, Any], given: Mapping[str, Task]) -> Task:
    if isinstance(task, str):
        return given[task] if task in given else load_task(task)
    options = dict(task)
    return load_task(options.pop("name"), **options)


def _plans(grid: Grid, lm: LanguageModel, task: Task) -> Iterator[Plan]:
    ways = itertools.product(grid.bos, grid.draws(), grid.selections(), grid.group_size)
    for bos, draw, selection, size in ways:
        asked = (grid.k, grid.method, grid.seed, grid.queries, size, bos, grid.own_weight, draw)
        plan = make_plan(lm, task, experiment.settings(*asked, selection=selection, domain=grid.domain))
        possible = plan.questions.calibrations
        if not set(possible) & set(grid.calibration):
            raise ValueError(
                f"task {task.name!r} is of kind {task.kind!r}; it has calibration {', '.join(possible)}, of which the "
                f"grid wants none: {', '.join(grid.calibration)}"
            )
        yield plan


def missing_points(plan: SweepPlan, store: CellStore) -> set[str]:
    """Names of the cells that are not there yet, or damaged."""
    return {point.name for point in plan.points if store.read(point.name) is None}


def _only(work: Work, names: set[str]) -> Work:
    return replace(work, pool=replace(work.pool, points=tuple(p for p in work.pool.points if p.name in names)))


def _run_here(works: Sequence[Work], threads: int | None, report: Reporter) -> Generator[tuple[Work, Point, Cell]]:
    """Work through the pools in order, with one model in memory at a time."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        lm = None
        for work in works:
            if lm is None or lm.fingerprint != work.fingerprint:
                report.doing(f"loading {work.model}")
                lm = load_model(work.model, dtype=work.dtype, device=work.device)
            for point, cell in run_points(lm, work.pool, work.pool.points, tell=report.doing):
                yield work, point, cell
    finally:
        torch.set_num_threads(before)


def _words(point: Point) -> str:
    return " ".join(f"{name}={value}" for name, value in point.settings.items() if value is not None)


def needed_space(plan: SweepPlan, names: set[str]) -> int:
    """Bytes that cells take on disk: their scores, and what every file holds besides."""
    rows = 0
    for work in plan.works:
        asked = work.pool.questions
        lines = asked.numbers // len(asked.names)
        per_cell = lines * (4 * len(asked.names) + 16) + 16_000
        rows += per_cell * sum(point.name in names for point in work.pool.points)
    return rows


def _check_space(folder: Path, plan: SweepPlan, names: set[str]) -> None:
    needed, free = needed_space(plan, names) + 2**20, shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{len(names)} cells need about {needed / 1e6:.1f} MB in {str(folder)!r}, but {free / 1e6:.1f} MB are "
            "free; make room or choose another disk",
        )


@contextlib.contextmanager
def _explained(folder: Path, report: Reporter) -> Iterator[None]:
    """Say of a full disk what is lost (nothing) and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise OSError(
                errno.ENOSPC,
                f"no space left for {str(folder)!r}; {report.status.done} of {report.status.total} cells are finished "
                "and stay: make room and run the sweep again",
            ) from error
        raise
