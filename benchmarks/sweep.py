"""Sweeps under stress: killed at random moments, spread over two workers, one of them killed; and what a curve costs.

    python benchmarks/sweep.py

Everything runs in real processes with one thread each. Prints the arithmetic and ends with one line of JSON.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import distributed
import torch

from lmops_lab import icl_curve, load_model, load_task
from lmops_lab.icl.cluster import quick_start
from lmops_lab.icl.results import Sweep
from lmops_lab.icl.sweep import run_sweep
from lmops_lab.runs.jobs import read_status

# Many short cells, so that kills fall between, before and within them.
KILL_GRID = {
    "task": "questions",
    "k": [0, 1, 2, 3],
    "seed": [1, 2],
    "method": ["structured", "sequential"],
    "group_size": 2,
    "own_weight": [1, "groups", "2groups"],
    "queries": 2,
    "dtype": "float32",
}
DASK_GRID = {
    "task": "questions",
    "k": [8, 16, 24, 32],
    "seed": [1, 2, 3, 4],
    "method": "structured",
    "group_size": 8,
    "own_weight": [1, "groups"],
    "queries": 12,
    "dtype": "float32",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--model", default="smollm2-135m", help="name or folder")
    parser.add_argument("--skip-curve", action="store_true", help="leave out the cost of a curve")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="lmops-lab-sweep-"))
    survived, tried = kills(folder, {**KILL_GRID, "model": options.model}, options.kills)
    ratio, identical = dask(folder, {**DASK_GRID, "model": options.model})
    figures = {
        "dask_ratio": round(ratio, 3),
        "identical": identical,
        "kills_survived": survived,
        "kills_tried": tried,
    }
    if not options.skip_curve:
        figures["curve_ratio"] = round(curve_cost(folder, options.model), 3)
    print(json.dumps(figures))


def kills(folder: Path, grid: dict, count: int) -> tuple[int, int]:
    """SIGKILL a sweep's process at random moments and start it again; how many restarts kept every finished cell."""
    (folder / "grid.json").write_text(json.dumps(grid))
    child = started(folder, folder / "quiet")
    began(child, folder / "quiet")
    start = time.perf_counter()
    if child.wait():
        raise RuntimeError("the sweep that nobody killed did not end well")
    length = time.perf_counter() - start
    quiet = Sweep(folder / "quiet")
    print(f"undisturbed: {len(files(quiet.folder))} cells in {length:.1f} s; kills fall evenly within that time")
    dice = random.Random(0)  # noqa: S311 - moments, not secrets
    survived = tried = round_ = 0
    open_kills = 0  # whose sweep has not ended yet
    while tried < count or open_kills:
        here = folder / f"killed-{round_}"
        before = files(here)
        child = started(folder, here)
        if tried < count:
            began(child, here)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(dice.uniform(0, length))
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
                tried, open_kills = tried + 1, open_kills + 1
        code = child.wait()
        whole = before.items() <= files(here).items()  # nothing lost, nothing written twice
        print(f"kill {tried}: exit {code}, {len(before)} -> {len(files(here))} cells, untouched: {whole}", flush=True)
        if not whole:
            open_kills = max(open_kills - 1, 0)
        if code == 0:
            same = numbers(Sweep(here)) == numbers(quiet)
            tables = [(f / "table.csv").read_bytes() for f in (here, quiet.folder)]
            survived += open_kills if same and tables[0] == tables[1] else 0
            print(f"  sweep {round_} ended: final table identical: {same and tables[0] == tables[1]}", flush=True)
            round_, open_kills = round_ + 1, 0
    return survived, tried


def started(folder: Path, here: Path) -> subprocess.Popen:
    """A process of its own that runs the grid in `folder` and keeps its cells in `here`."""
    command = [sys.executable, "-m", "lmops_lab.cli", "sweep", str(folder / "grid.json"), "--folder", str(here)]
    return subprocess.Popen([*command, "--quiet", "--threads", "1"], stdout=subprocess.DEVNULL)  # noqa: S603


def began(child: subprocess.Popen, folder: Path) -> None:
    """Wait until this child does its work: its imports take far longer and would take most of the kills."""
    while child.poll() is None:
        status = read_status(folder)
        if status and status.process == child.pid:
            return
        time.sleep(0.005)


def dask(folder: Path, grid: dict) -> tuple[float, bool]:
    """Seconds of two workers over seconds of one, and whether the numbers agree, also with a worker killed."""
    local = run_sweep(grid, folder / "local", threads=1, progress=False)
    seconds, sweeps = {}, [local]
    for name, workers, kill in (("one", 1, False), ("two", 2, False), ("two, one killed", 2, True)):
        here = folder / f"dask {name}"
        with cluster(workers) as client:
            # Every worker loads the model first, so that the two are compared on the sweep's work alone.
            client.run(warm, grid["model"])
            stop = threading.Event()
            if kill:
                process = next(iter(client.run(os.getpid).values()))
                threading.Thread(target=kill_in_the_middle, args=(here, process, stop), daemon=True).start()
            start = time.perf_counter()
            sweeps.append(run_sweep(grid, here, executor="dask", scheduler=client, progress=False))
            seconds[name] = time.perf_counter() - start
            stop.set()
        log = (here / "log.txt").read_text()
        lost = "is lost" in log
        print(f"{name}: {seconds[name]:.1f} s, {len(numbers(sweeps[-1]))} cells{', a worker was lost' if lost else ''}")
        print("\n".join(f"  {line}" for line in log.splitlines() if "model loads" in line), flush=True)
        if kill and not lost:
            raise RuntimeError("the worker was not killed in time; use a larger grid")
    identical = all(numbers(sweep) == numbers(local) for sweep in sweeps)
    print(f"two workers / one: {seconds['two']:.1f} / {seconds['one']:.1f}; identical: {identical}", flush=True)
    return seconds["two"] / seconds["one"], identical


def warm(model: str) -> None:
    import lmops_lab.icl.cluster

    lmops_lab.icl.cluster.warm_up(model, "float32", 1)


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[distributed.Client]:
    with (
        quick_start(),
        distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as started,
        distributed.Client(started) as client,
    ):
        yield client


def kill_in_the_middle(folder: Path, process: int, stop: threading.Event) -> None:
    while not stop.is_set():
        status = read_status(folder)
        if status and status.total and status.done >= status.total // 3:
            os.kill(process, signal.SIGKILL)
            return
        time.sleep(0.01)


def curve_cost(folder: Path, model: str) -> float:
    """Seconds of a nested curve of 8 k and 6 seeds over those of its largest point alone for six seeds."""
    lm, task = load_model(model, dtype="float32"), load_task("questions")
    ks = [4, 8, 16, 32, 64, 128, 256, 512]
    asked = {"methods": ["structured"], "seeds": 6, "queries": 12, "group_size": 16, "progress": False}
    took = {}
    for name, k in (("largest", ks[-1:]), ("curve", ks)):
        start = time.perf_counter()
        curve = icl_curve(lm, task, k=k, folder=folder / f"curve-{name}", **asked)
        took[name] = time.perf_counter() - start
        scoring = sum(cell.cost.score_s for cell in curve.cells)
        print(f"{name}: {took[name]:.1f} s for {len(curve.cells)} points, {scoring:.1f} s of it scoring")
    apart = sum(ks) / ks[-1]
    print(f"curve / largest point, six seeds each: {took['curve']:.1f} / {took['largest']:.1f} s")
    print(f"  every k encoded by itself would encode {apart:.2f} times the tokens that the curve encodes", flush=True)
    return took["curve"] / took["largest"]


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Finished cells as their files stand on disk: a rewritten one has another inode."""
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in (folder / "cells").glob("[!.]*.parquet")}


def numbers(sweep: Sweep) -> dict[str, tuple[bytes, bytes]]:
    return {name: (cell.scores.tobytes(), cell.content_free.tobytes()) for name, _, cell in sweep.cells()}


if __name__ == "__main__":
    main()
