"""Job folders: one writer, honest status, children that outlive their starter."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from socket import gethostname

import pytest

from lmops_lab.digests import read_record, write_record
from lmops_lab.runs.jobs import (
    FORMAT,
    FolderBusyError,
    Job,
    JobStatus,
    Reporter,
    one_writer,
    read_status,
    start_job,
)

# A job without slow imports' worth of work: it counts to 100, one step a twentieth of a second.
_COUNTING = """
import sys, time
from pathlib import Path
from lmops_lab.runs.jobs import Reporter, one_writer, stop_on_signals
stop_on_signals()
folder = Path(sys.argv[1])
with one_writer(folder), Reporter(folder, 100) as report:
    print("hello from the child", flush=True)
    for step in range(100):
        report.doing(f"step {step}")
        time.sleep(0.05)
        report.finished_one(f"step {step}")
"""


@pytest.fixture
def counting(tmp_path):
    script = tmp_path / "count.py"
    script.write_text(_COUNTING)
    return script


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_a_status_says_what_happens(tmp_path):
    with one_writer(tmp_path), Reporter(tmp_path, total=3, found=1) as report:
        assert Job(tmp_path).status().state == "running"
        report.doing("something")
        report.finished_one("a piece")
        status = Job(tmp_path).status()
        assert (status.done, status.total, status.found, status.doing) == (2, 3, 1, "something")
        assert status.seconds_left >= 0
        assert str(status).startswith("running: 2 of 3, about")
    assert Job(tmp_path).status().state == "finished"
    assert "done 2/3: a piece" in Job(tmp_path).log()


@pytest.mark.parametrize(
    ("error", "state", "why"),
    [(KeyboardInterrupt(), "stopped", ""), (ValueError("bad k"), "failed", "ValueError: bad k")],
)
def test_how_it_ended_is_kept(tmp_path, error, state, why):
    with pytest.raises(type(error)), Reporter(tmp_path, 1):
        raise error
    status = Job(tmp_path).status()
    assert (status.state, status.error) == (state, why)


def test_no_job(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no job"):
        Job(tmp_path).status()
    (tmp_path / "status.json").write_text("[]")
    assert read_status(tmp_path) is None


def _hold(folder, ready, seconds):
    with one_writer(folder), Reporter(folder, 1):
        ready.set()
        time.sleep(seconds)


def test_the_second_writer_is_refused_and_a_killed_one_holds_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready, 60))
    holder.start()
    assert ready.wait(20)
    with pytest.raises(FolderBusyError, match=f"is being written by process {holder.pid} on .*running: 0 of 1"):
        one_writer(tmp_path).__enter__()
    os.kill(holder.pid, signal.SIGKILL)
    wait_for(lambda: Job(tmp_path).status().state == "lost")  # not yet waited for: its entry is a zombie's
    assert "start it again to continue" in Job(tmp_path).status().error
    holder.join()
    with one_writer(tmp_path):
        pass


def test_a_number_that_another_process_has_now_is_not_the_job(tmp_path):
    with Reporter(tmp_path, 1):
        about = read_record(tmp_path / "status.json")
    about |= {"state": "running", "process": os.getpid(), "birth": "1"}
    write_record(tmp_path / "status.json", about)
    assert Job(tmp_path).status().state == "lost"


def test_a_job_outlives_its_starter_and_stops_when_asked(tmp_path, counting):
    """A process starts the job and is killed at once; this one watches the job, stops it, and it can be continued."""
    folder = tmp_path / "job"
    starter = f"""
import os, signal
from lmops_lab.runs.jobs import start_job
start_job({str(folder)!r}, [{str(counting)!r}, {str(folder)!r}])
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", starter], check=False).returncode == -signal.SIGKILL
    job = Job(folder)
    wait_for(lambda: job.status().done >= 2)
    assert "hello from the child" in job.log(50)
    with pytest.raises(FolderBusyError):
        start_job(folder, [str(counting), str(folder)])
    job.stop()
    status = job.wait(20)
    assert status.state == "stopped"
    assert 2 <= status.done < 100
    job.stop()  # nothing to stop


def test_a_child_that_dies_before_its_work_is_lost(tmp_path):
    job = start_job(tmp_path, ["-c", "raise SystemExit('no such grid')"])
    assert job.wait(20).state == "lost"
    assert "no such grid" in job.log()


def test_a_job_that_is_still_loading_keeps_its_folder(tmp_path):
    """Between its start and its lock a child loads libraries for seconds; a second start must not slip in there."""
    job = start_job(tmp_path, ["-c", "import time; time.sleep(60)"], {"grid.json": "first"})
    child = job.status().process
    with pytest.raises(FolderBusyError, match=f"just been started .*process {child}.*--status.*choose another folder"):
        start_job(tmp_path, ["-c", "pass"], {"grid.json": "second"})
    assert (tmp_path / "grid.json").read_text() == "first"
    assert job.status().process == child
    os.kill(child, signal.SIGKILL)
    wait_for(lambda: job.status().state == "lost")
    assert start_job(tmp_path, ["-c", "pass"], {"grid.json": "second"}).wait(20).state == "lost"
    assert (tmp_path / "grid.json").read_text() == "second"


def test_a_starter_that_was_killed_blocks_nothing(tmp_path):
    """Between its first word and its child there is no process that anyone could wait for."""
    write_record(tmp_path / "status.json", {"format": FORMAT, **asdict(JobStatus("starting", host=gethostname()))})
    assert start_job(tmp_path, ["-c", "pass"]).wait(20).state == "lost"
