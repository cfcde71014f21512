"""The same sweep on a Dask cluster: cells go where their groups are encoded, and survive a lost worker."""

import contextlib
import multiprocessing
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from lmops_lab.icl import experiment
from lmops_lab.icl.cells import Cell
from lmops_lab.icl.pools import Point
from lmops_lab.icl.scoring import Encoded
from lmops_lab.models import LanguageModel, load_model
from lmops_lab.runs.jobs import Reporter

if TYPE_CHECKING:
    from distributed import Client, Future

    from lmops_lab.icl.sweep import Work

# Cells that a worker holds at a time: one to score, one to begin with at once when that is done.
_AHEAD = 2
_PATIENCE_S = 120.0  # how long to wait for a first or another worker
_ANSWER_S = 20  # how long a scheduler may take to answer
_INSTALL = "pip install 'lmops-lab[dask]'"


# ---- on the worker ----


@dataclass
class _Kept:
    """What a worker keeps from cell to cell: one model and the encoded groups of one pool."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    lm: LanguageModel | None = None
    asked: tuple[str, str, str] = ("", "", "")
    encoded: Encoded | None = None
    loads: int = 0
    pools: int = 0


_kept = _Kept()


@dataclass(frozen=True, eq=False)
class Done:
    """A finished cell, and what the worker process that did it has done so far."""

    cell: Cell
    process: int
    model_loads: int
    pools_encoded: int


def score_on_worker(work: "Work", point: Point, threads: int, versions: Sequence[str]) -> Done:
    """Score one cell in a worker process, with the model and the groups that it kept from the cell before.

    Raises:
        ValueError: this worker would compute with other versions or another model than the sweep's.
    """
    if list(versions) != list(experiment._versions()):
        raise ValueError(
            f"a worker has {experiment._versions()} but the sweep is run by {list(versions)} (lmops-lab, torch, "
            "transformers); install the same versions on both"
        )
    with _kept.lock:  # a worker with several threads scores one cell at a time
        lm = _model(work.model, work.dtype, work.device, threads)
        if lm.fingerprint != work.fingerprint:
            raise ValueError(f"a worker loaded {lm.fingerprint}, the sweep needs {work.fingerprint}")
        if _kept.encoded is None or _kept.encoded.lm is not lm or _kept.encoded.pool != work.pool:
            _kept.encoded = None
            _kept.encoded = Encoded(lm, work.pool)
            _kept.pools += 1
        return Done(_kept.encoded.score(point), os.getpid(), _kept.loads, _kept.pools)


def warm_up(model: str, dtype: str, threads: int, device: str = "auto") -> None:
    """Load a model into this worker process before it is needed."""
    with _kept.lock:
        _model(model, dtype, device, threads)


def _model(name: str, dtype: str, device: str, threads: int) -> LanguageModel:
    """The model that this process keeps, loaded when another one is asked for."""
    torch.set_num_threads(threads)
    if _kept.lm is None or _kept.asked != (name, dtype, device):
        _kept.lm = _kept.encoded = None  # makes room first
        _kept.lm, _kept.asked = load_model(name, dtype=dtype, device=device), (name, dtype, device)
        _kept.loads += 1
    return _kept.lm


# ---- where the sweep is run ----


@dataclass
class _Batch:
    """The cells of one pool that are still to be handed out; `work` carries no points, so it is the same for all."""

    work: "Work"
    whole: "Work"
    points: deque[Point]


class _Placement:
    """Decides which cell goes to which worker: whole pools first, half of the longest one when none is left."""

    def __init__(self, works: "Sequence[Work]") -> None:
        self.waiting = deque(
            _Batch(replace(work, pool=replace(work.pool, points=())), work, deque(work.pool.points)) for work in works
        )
        self.held: dict[str, _Batch] = {}
        self.models: dict[str, str] = {}

    def next(self, worker: str) -> tuple[_Batch, Point] | None:
        """The next cell for a worker, None where all are handed out."""
        batch = self.held.get(worker)
        if batch is None or not batch.points:
            batch = self._take(worker)
            if batch is None:
                return None
            self.held[worker] = batch
            self.models[worker] = batch.work.fingerprint
        return batch, batch.points.popleft()

    def forget(self, worker: str) -> None:
        """A worker is lost: what it had not begun goes to the others."""
        batch = self.held.pop(worker, None)
        if batch is not None and batch.points:
            self.waiting.appendleft(batch)

    def _take(self, worker: str) -> _Batch | None:
        same = [batch for batch in self.waiting if batch.work.fingerprint == self.models.get(worker)]
        if self.waiting:
            batch = same[0] if same else self.waiting[0]
            self.waiting.remove(batch)
            return batch
        longest = max(self.held.values(), key=lambda held: len(held.points), default=None)
        if longest is None or len(longest.points) < 2:  # not worth another encoding
            return None
        half = deque(longest.points.pop() for _ in range(len(longest.points) // 2))
        return _Batch(longest.work, longest.whole, deque(reversed(half)))


def run_on_dask(
    works: "Sequence[Work]", *, scheduler: Any, workers: int, threads: int, report: Reporter
) -> "Generator[tuple[Work, Point, Cell]]":
    """Yield each cell as a worker finishes it; only this process writes.

    The cells of a pool go to one worker, one after the other, so that it loads a model once and encodes a pool once. A
    cell whose worker is lost is done by another one; Dask gives a cell up that took four workers down.

    Raises:
        ValueError: Dask is not installed, or a worker cannot do the same computation.
        ConnectionError: no scheduler at the address, or no worker for two minutes.
        RuntimeError: a cell that kills its workers.
    """
    if not works:
        return
    with _client(scheduler, workers) as client:
        report.log(f"{client}")
        hands = _Hands(client, _Placement(works), threads, report)
        left = sum(len(work.pool.points) for work in works)
        try:
            while left:
                hands.look()
                hands.hand_out()
                finished = hands.take()
                if finished is not None:
                    left -= 1
                    yield finished
        finally:
            hands.close()


class _Hands:
    """Keeps every living worker busy and takes what they finish."""

    def __init__(self, client: "Client", placement: _Placement, threads: int, report: Reporter) -> None:
        self.client = client
        self.placement = placement
        self.threads = threads
        self.report = report
        self.done: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self.running: dict[Any, tuple[Future[Any], _Batch, Point, str]] = {}
        self.workers: set[str] = set()
        self.latest: dict[int, Done] = {}
        self.looked = 0.0
        self.seen = time.monotonic()

    def look(self) -> None:
        """Notice new and lost workers, twice a second."""
        now = time.monotonic()
        if self.workers and now - self.looked < 0.5:
            return
        alive = _workers(self.client)
        for worker in self.workers - alive:
            self.report.log(f"worker {worker} is lost")
            self.placement.forget(worker)
        self.workers, self.looked = alive, now
        if alive:
            self.seen = now
        elif now - self.seen > _PATIENCE_S:
            raise ConnectionError(f"no Dask worker for {_PATIENCE_S:.0f} s; start workers and run the sweep again")

    def hand_out(self) -> None:
        """Give each worker its next cells."""
        for worker in self.workers:
            while sum(at == worker for *_, at in self.running.values()) < _AHEAD:
                chosen = self.placement.next(worker)
                if chosen is None:
                    break
                future = _submit(self.client, *chosen, worker, self.threads)
                self.running[future.key] = (future, *chosen, worker)
                future.add_done_callback(self.done.put)

    def take(self) -> "tuple[Work, Point, Cell] | None":
        """The next finished cell, None if there is none for a while."""
        try:
            future = self.done.get(timeout=0.5)
        except queue.Empty:
            return None
        _, batch, point, _ = self.running.pop(future.key)
        finished = _result(future, point)
        self.latest[finished.process] = finished
        return batch.whole, point, finished.cell

    def close(self) -> None:
        """Call back what is still handed out."""
        for process, last in self.latest.items():
            self.report.log(f"worker process {process}: {last.model_loads} model loads, {last.pools_encoded} encodings")
        with contextlib.suppress(Exception):  # the cluster may be gone; what is finished is written
            self.client.cancel([future for future, *_ in self.running.values()])


def _submit(client: "Client", batch: _Batch, point: Point, worker: str, threads: int) -> "Future[Any]":
    return client.submit(
        score_on_worker,
        batch.work,
        point,
        threads,
        tuple(experiment._versions()),
        key=f"cell-{point.name}",
        workers=[worker],
        allow_other_workers=True,  # where the chosen one is lost
        pure=False,
    )


def _result(future: "Future[Any]", point: Point) -> Done:
    from distributed import KilledWorker

    if future.status == "cancelled":
        raise ConnectionError("the Dask scheduler is gone; finished cells stay: run the sweep again")
    try:
        return future.result()
    except KilledWorker as error:
        raise RuntimeError(
            f"the cell {dict(point.settings)} took down every worker that tried it ({error}); it may need more memory "
            "than a worker has"
        ) from error


def _workers(client: "Client") -> set[str]:
    """Addresses of the living workers."""
    try:
        return set(client.nthreads())
    except OSError as error:
        raise ConnectionError("the Dask scheduler is gone; finished cells stay: run the sweep again") from error


@contextmanager
def _client(scheduler: Any, workers: int) -> "Iterator[Client]":
    """A client of the given scheduler, or of a cluster of processes that ends with the block."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ValueError(f"executor='dask' needs Dask: {_INSTALL}") from error
    if scheduler is not None and not isinstance(scheduler, str):
        yield scheduler
    elif scheduler is not None:
        try:
            client = Client(scheduler, timeout=_ANSWER_S)
        except (OSError, ValueError) as error:
            raise ConnectionError(f"no Dask scheduler answers at {scheduler!r} ({error}); check the address") from error
        with client:
            yield client
    else:
        if workers < 1:
            raise ValueError(f"workers is {workers}; a cluster has at least 1")
        with (
            quick_start(),
            LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client


@contextmanager
def quick_start() -> Iterator[None]:
    """Let local workers begin with everything imported: one process imports it, the workers are copies of that one."""
    import dask
    from distributed.utils import get_mp_context

    if "forkserver" not in multiprocessing.get_all_start_methods():
        yield
        return
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context().set_forkserver_preload(["distributed", __name__])
        yield
