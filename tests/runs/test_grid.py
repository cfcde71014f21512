"""Grids: read and checked whole, run in several processes, one failure never the end of the others."""

import signal
import subprocess
import sys
import time

import nbformat
import pytest

from lmops_lab.runs.grid import Job, read_grid, run_grid, run_jobs


@pytest.fixture
def here(tmp_path, monkeypatch):
    node = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    node.cells = [
        nbformat.v4.new_code_cell("number = 2\nword = 'a'\noutput = None", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            "import json, os, time\nassert number < 9\nprint(word * number)\n"
            "print(os.environ.get('LMOPS_LAB_CACHE'))\nwhile word == 'wait':\n"
            "    open(f'{output}/waiting', 'w').close(); time.sleep(0.1)"
        ),
    ]
    (tmp_path / "notebooks").mkdir()
    nbformat.write(node, tmp_path / "notebooks" / "07_repeat.ipynb")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(here, text):
    path = here / "grid.yaml"
    path.write_text(text)
    return path


def test_all_combinations_and_single_points(here):
    path = write(here, "notebook: '07'\nfixed: {word: b}\ngrid: {number: [1, 2]}\npoints: [{number: 2}, {number: 5}]")
    assert [parameters for _, parameters in read_grid(path)] == [
        {"word": "b", "number": number} for number in (1, 2, 5)
    ]


def test_points_alone_and_no_grid_at_all(here):
    assert [p for _, p in read_grid(write(here, "notebook: '07'\npoints: [{number: 5}]"))] == [{"number": 5}]
    assert [p for _, p in read_grid(write(here, "notebook: ['07']"))] == [{}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "names no notebook"),
        ("notebook: '07'\ngird: {number: [1]}", r"has \['gird'\]; a grid file holds notebook, fixed, grid, points"),
        ("notebook: '07'\ngrid: {number: 1}", "grid parameter 'number' of grid.yaml is 1; give a list"),
        ("notebook: '07'\ngrid: {number: []}", "give a list of values"),
        ("notebook: '07'\ngrid: [number]", "grid of grid.yaml is .* should be a dict"),
        ("notebook: '07'\npoints: [3]", "a point of grid.yaml is 3"),
        ("notebook: '07'\nfixed: {number: 1}\ngrid: {number: [2]}", "both fixed and in the grid"),
        ("notebook: '07'\ngrid: {nunber: [1]}", "did you mean 'number'"),
        ("notebook: '07'\ngrid: {number: [one]}", "number = 'one' is a str"),
        ("notebook: [", "is not YAML"),
    ],
)
def test_wrong_grids_are_refused_before_anything_runs(here, text, message):
    with pytest.raises(ValueError, match=message):
        read_grid(write(here, text))


def test_missing_files(here):
    with pytest.raises(FileNotFoundError, match="no grid file 'nowhere.yaml'"):
        read_grid(here.joinpath("nowhere.yaml").relative_to(here))
    with pytest.raises(FileNotFoundError, match="'99' fits 0 notebooks"):
        read_grid(write(here, "notebook: 99"))


def test_points_run_side_by_side_and_only_once(here):
    points = read_grid(write(here, "notebook: '07'\ngrid: {number: [3, 99]}"))
    good, bad = run_grid(points, processes=2)
    assert "aaa" in (good.run.folder / "07_repeat.ipynb").read_text()
    assert bad.run is None
    assert bad.error.startswith("AssertionError")
    assert "number < 9" in bad.traceback
    again, bad = run_grid(points[:1], processes=2)[0], bad.job.folder
    assert not again.run.repeated
    assert again.run.folder == good.run.folder
    assert sorted(p.name for p in (here / "runs" / "07_repeat").iterdir()) == ["001", "002"]


def test_a_dask_cluster_runs_them_too_each_with_its_environment(here):
    distributed = pytest.importorskip("distributed")
    notebook = here / "notebooks" / "07_repeat.ipynb"
    jobs = [
        Job(notebook, {"number": 4}, here / "first", {"LMOPS_LAB_CACHE": "elsewhere"}),
        Job(notebook, {"number": 99}, here / "second"),
    ]
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        first, second = run_jobs(jobs, dask=cluster.scheduler_address, progress=False)
    assert first.error == ""
    made = [(here / name / notebook.name).read_text() for name in ("first", "second")]
    assert "aaaa" in made[0]
    assert "elsewhere" in made[0]
    assert "elsewhere" not in made[1]
    assert second.error.startswith("AssertionError")


def test_a_missing_scheduler_and_no_processes(here):
    with pytest.raises(ValueError, match="0 processes; give at least 1"):
        run_jobs([], processes=0)
    with pytest.raises(ValueError, match="no Dask scheduler at 'nonsense'"):
        run_jobs([], dask="nonsense")


def test_ctrl_c_stops_the_kernels(here):
    # A test run in the background of a shell ignores Ctrl-C and would hand that down.
    (here / "go.py").write_text(
        "import signal\nfrom pathlib import Path\nfrom lmops_lab.runs.grid import run_grid\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    points = [(Path('notebooks/07_repeat.ipynb'), {'word': 'wait', 'number': n}) for n in (1, 2)]\n"
        "    run_grid(points, processes=2)\n"
    )
    running = subprocess.Popen([sys.executable, "go.py"], cwd=here, stderr=subprocess.PIPE, text=True)
    try:
        waiting = [here / "runs" / "07_repeat" / number / "waiting" for number in ("001", "002")]
        for _ in range(900):
            if all(path.exists() for path in waiting):
                break
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=30)
    finally:
        running.kill()
    assert "KeyboardInterrupt" in errors
    for path in waiting:
        path.unlink()
    time.sleep(0.5)
    assert not any(path.exists() for path in waiting)  # nothing is left that would write them again
