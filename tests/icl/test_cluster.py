"""A real Dask cluster of two processes: the same numbers, also when one of them is killed in the middle."""

import itertools
import os
import signal
import threading
import time

import pytest

from lmops_lab.icl.cluster import _Placement, quick_start
from lmops_lab.icl.results import Sweep
from lmops_lab.icl.sweep import plan_sweep, run_sweep
from lmops_lab.runs.jobs import read_status
from tests.icl.test_sweep import data, grid, numbers  # noqa: F401 - fixtures

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def many(grid):  # noqa: F811
    return {**grid, "seed": [1, 2, 3, 4], "own_weight": [1, "groups"], "calibration": "raw"}


def test_a_worker_that_is_killed_in_the_middle_changes_nothing(many, tmp_path):
    local = run_sweep(many, tmp_path / "local", progress=False, threads=1)
    folder, killed = tmp_path / "dask", []
    with (
        quick_start(),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        first = client.run(os.getpid)

        def kill() -> None:
            while (read_status(folder) is None) or read_status(folder).done < 8:
                time.sleep(0.01)
            killed.append(next(iter(first.values())))
            os.kill(killed[0], signal.SIGKILL)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        run_sweep(many, folder, executor="dask", scheduler=client, progress=False)
        killer.join(20)
    assert killed
    assert numbers(Sweep(folder)) == numbers(local)
    assert (folder / "table.csv").read_bytes() == (local.folder / "table.csv").read_bytes()
    log = (folder / "log.txt").read_text()
    assert "is lost" in log
    loads = [line for line in log.splitlines() if "model loads" in line]
    assert len(loads) >= 1
    assert all(" 1 model loads" in line for line in loads)


def test_pools_stay_together_and_the_last_one_is_shared(many):
    works = plan_sweep_of(many)
    placement = _Placement(works)
    seen: dict[str, list[int]] = {"a": [], "b": []}
    names = []
    while (chosen := placement.next("ab"[len(names) % 2])) is not None:
        batch, point = chosen
        seen["ab"[len(names) % 2]].append(id(batch.whole))
        names.append(point.name)
    assert sorted(names) == sorted(point.name for work in works for point in work.pool.points)
    for order in seen.values():
        changes = sum(left != right for left, right in itertools.pairwise(order))
        assert changes <= len(works) / 2 + 1


def test_what_a_lost_worker_had_not_begun_goes_to_the_others(many):
    works = plan_sweep_of(many)
    placement = _Placement(works)
    _, begun = placement.next("a")
    placement.forget("a")
    rest = []
    while (chosen := placement.next("b")) is not None:
        rest.append(chosen[1].name)
    assert sorted([begun.name, *rest]) == sorted(point.name for work in works for point in work.pool.points)


def plan_sweep_of(values):
    from lmops_lab.icl.grid import Grid

    return plan_sweep(Grid.of(values)).works


def test_no_scheduler_at_the_address(grid, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("lmops_lab.icl.cluster._ANSWER_S", 1)
    with pytest.raises(ConnectionError, match="no Dask scheduler answers at 'tcp://127.0.0.1:9'"):
        run_sweep(grid, tmp_path, executor="dask", scheduler="tcp://127.0.0.1:9", progress=False)
