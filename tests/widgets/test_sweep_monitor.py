import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lmops_lab.icl.cells import Cell, CellStore, Cost
from lmops_lab.icl.results import CELLS
from lmops_lab.runs.jobs import Reporter, one_writer
from widgets import SweepMonitor

ROOT = Path(__file__).parents[2]


def write_cell(folder, name, k, right, method="structured", seed=1):
    gold = np.zeros(10, dtype=np.int64)
    scores = np.tile(np.array([0.0, 1.0], dtype=np.float32), (10, 1))
    scores[:right] = [1.0, 0.0]
    cell = Cell(method, k, seed, scores, scores[:0], gold, np.arange(10), Cost(0.0, 0.0, 0, 0, 0))
    CellStore(folder / CELLS).write(name, cell, {})


def test_progress_errors_and_the_growing_curve(tmp_path):
    folder = tmp_path / "job-7"
    with one_writer(folder), Reporter(folder, total=4) as report:
        report.doing("loading <b>model</b>")
        monitor = SweepMonitor("job-7", root=tmp_path, every=0)
        assert (monitor.job, monitor.status["state"], monitor.status["total"]) == ("job-7", "running", 4)
        assert monitor.curve == []
        write_cell(folder, "a", 4, 6)
        report.finished_one("k=4")
        write_cell(folder, "b", 4, 8, seed=2)
        report.finished_one("k=4")
        write_cell(folder, "c", 16, 9)
        (folder / CELLS / "broken.parquet").write_bytes(b"half a file")
        report.log("error: query 3 was too long <script>")
        monitor.refresh()
        assert monitor.status["done"] == 2
        assert monitor.status["left"].startswith("about")
        assert [line["points"] for line in monitor.curve] == [[[4, 0.7, 2], [16, 0.9, 1]]]
        assert "query 3 was too long <script>" in monitor.errors[-1]
        page = monitor.fallback()
        assert "<script" not in page
        assert "<b>model" not in page
        assert "0.700" in page
    monitor.refresh()
    assert monitor.status["state"] == "finished"
    assert monitor.status["left"] == ""


def test_a_failed_job_says_why(tmp_path):
    with pytest.raises(RuntimeError), one_writer(tmp_path), Reporter(tmp_path, total=2):
        raise RuntimeError("no space left")
    monitor = SweepMonitor(tmp_path, every=0)
    assert monitor.status["state"] == "failed"
    assert any("no space left" in line for line in monitor.errors)
    assert "no space left" in monitor.fallback()


def test_a_job_that_is_not_there_gives_a_message_and_is_found_once_it_starts(tmp_path):
    monitor = SweepMonitor("later", root=tmp_path, every=0.05)
    assert "holds no job" in monitor.message
    assert "holds no job" in monitor.fallback()
    with one_writer(tmp_path / "later"), Reporter(tmp_path / "later", total=3):
        end = time.monotonic() + 20
        while not monitor.status and time.monotonic() < end:
            time.sleep(0.05)
        assert monitor.status["total"] == 3
        assert monitor.message == ""
    monitor.close()


WORKER = """
import sys, time
from pathlib import Path
from lmops_lab.runs.jobs import Reporter, one_writer, stop_on_signals
stop_on_signals()
folder = Path(sys.argv[1])
with one_writer(folder), Reporter(folder, total=1000) as report:
    for i in range(1000):
        time.sleep(0.05)
        report.finished_one(str(i))
"""


def test_a_second_monitor_attaches_by_id_and_cancels_a_real_process(tmp_path):
    folder = tmp_path / "long"
    child = subprocess.Popen([sys.executable, "-c", WORKER, str(folder)], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        first = SweepMonitor("long", root=tmp_path, every=0)
        end = time.monotonic() + 60
        while first.status.get("done", 0) < 2 and time.monotonic() < end:
            time.sleep(0.1)
            first.refresh()
        second = SweepMonitor(folder, every=0)
        assert second.status["done"] >= 2
        second._handle_custom_msg({"kind": "cancel"}, [])
        child.wait(30)
        first.refresh()
        assert first.status["state"] == "stopped"
    finally:
        child.kill()
        child.wait()


def test_a_status_that_is_no_status_is_a_message(tmp_path):
    (tmp_path / "status.json").write_text('{"state": [1')
    assert "holds no job" in SweepMonitor(tmp_path, every=0).message


def test_ten_thousand_cells_are_a_short_state(tmp_path, monkeypatch):
    folder = tmp_path / "big"
    with one_writer(folder), Reporter(folder, total=10_000):
        monitor = SweepMonitor(folder, every=0)
    monitor._seen = {str(i): (f"method {i % 4}", 2 ** (i % 10), 0.5) for i in range(10_000)}
    monitor.refresh()
    assert sum(len(line["points"]) for line in monitor.curve) == 20  # i % 4 and i % 10 meet in 20 ways
    assert repr(monitor) == "SweepMonitor('big')"
