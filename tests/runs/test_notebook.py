"""A notebook run end to end: real papermill, real kernel, real HTML."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from lmops_lab import cli
from lmops_lab.digests import write_record
from lmops_lab.runs.grid import run_grid
from lmops_lab.runs.notebook import (
    FINISHED,
    LOG,
    find_notebook,
    finished_run,
    freeze_widgets,
    next_folder,
    run_notebook,
)


@pytest.fixture
def notebook(tmp_path):
    node = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    node.cells = [
        nbformat.v4.new_code_cell("number = 2\noutput = None", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("from tqdm.auto import tqdm\nfor _ in tqdm(range(3)): pass\nprint(number ** 2)"),
        nbformat.v4.new_code_cell("open(f'{output}/summary.parquet', 'w').close()\nassert number < 9"),
    ]
    path = tmp_path / "notebooks" / "07_square.ipynb"
    path.parent.mkdir()
    nbformat.write(node, path)
    return path


@pytest.fixture
def here(notebook, monkeypatch):
    monkeypatch.chdir(notebook.parents[1])
    return notebook.parents[1]


def test_a_run_leaves_everything_in_its_folder(here, capsys):
    assert cli.main(["run", "07", "-p", "number=5", "--quiet"]) == 0
    folder = here / "runs" / "07_square" / "001"
    printed = capsys.readouterr().out
    for name in ("07_square.ipynb", "07_square.html", "summary.parquet", FINISHED):
        assert (folder / name).is_file()
        assert str(folder / name) in printed
    cells = nbformat.read(folder / "07_square.ipynb", as_version=4).cells
    assert any(o.get("text") == "25\n" for cell in cells if cell.cell_type == "code" for o in cell.outputs)
    record = json.loads((folder / FINISHED).read_text())
    assert record["parameters"]["number"] == 5
    assert record["seconds"] > 0


def test_the_record_and_the_log_say_how_it_came_about(here, notebook):
    folder = here / "runs" / "07_square" / "001"
    run = run_notebook(notebook, {"number": 5}, folder, progress=False, show_code=False)
    kept = json.loads((folder / FINISHED).read_text())
    assert kept["versions"]["papermill"]
    assert kept["hardware"]["cores"] >= 1
    assert kept["seeds"] == {}
    log = (folder / LOG).read_text()
    assert "Executing Cell 3" in log
    assert " INFO 25\n" in log
    assert "unknown parameter" not in log
    page = run.html.read_text()
    assert "25" in page
    assert "number ** 2" not in re.sub(r"<[^>]+>", "", page)  # code hidden


def test_a_finished_run_is_found_again_until_something_changes(here, notebook):
    root = here / "runs"
    assert finished_run(root, notebook, {}) is None
    first = run_notebook(notebook, {}, next_folder(root, notebook, {}), progress=False)
    again = finished_run(root, notebook, {"number": 2})  # a default written out is the same run
    assert again.folder == first.folder
    assert "--force" in again.report()
    assert finished_run(root, notebook, {"number": 3}) is None
    with pytest.raises(ValueError, match="did you mean 'number'"):
        finished_run(root, notebook, {"nunber": 3})
    node = nbformat.read(notebook, as_version=4)
    node.cells[1].source += "\nprint(1)"
    nbformat.write(node, notebook)
    assert finished_run(root, notebook, {}) is None


def test_a_tuple_reaches_the_notebook_as_a_list(here, notebook, capsys):
    node = nbformat.read(notebook, as_version=4)
    node.cells[0].source = "k: list[int] = [0]\noutput = None"
    node.cells[1:] = [nbformat.v4.new_code_cell("assert isinstance(k, list)\nprint(sum(k), k)")]
    nbformat.write(node, notebook)
    assert cli.main(["run", "07", "-p", "k=0,16,256", "--quiet"]) == 0
    folder = here / "runs" / "07_square" / "001"
    assert "272 [0, 16, 256]" in (folder / LOG).read_text()
    assert json.loads((folder / FINISHED).read_text())["parameters"]["k"] == [0, 16, 256]
    assert finished_run(here / "runs", notebook, {"k": [0, 16, 256]}).folder == folder
    (of_grid,) = run_grid([(notebook, {"k": (0, 16, 256)})], here / "runs")
    assert not of_grid.run.repeated
    (of_grid,) = run_grid([(notebook, {"k": (1, 2)})], here / "runs")
    assert of_grid.error == ""


def test_the_page_hides_or_shows_the_code_as_asked_without_another_run(here, capsys):
    page, kept = (here / "runs" / "07_square" / "001" / name for name in ("07_square.html", FINISHED))
    command = ["run", "07", "--quiet"]
    assert cli.main(command) == 0
    executed = json.loads(kept.read_text())["started"]
    for options, shown in (([], True), (["--hide-code"], False), (["--hide-code"], False), ([], True)):
        assert cli.main([*command, *options]) == 0
        assert ("number ** 2" in re.sub(r"<[^>]+>", "", page.read_text())) is shown
    (here / "grid.yaml").write_text("notebook: '07'\ngrid: {number: [5]}\n")
    for options, shown in ((["--hide-code"], False), ([], True)):  # run with it, then found again without
        assert cli.main(["run", "--grid", "grid.yaml", *options]) == 0
        of_grid = here / "runs" / "07_square" / "002" / page.name
        assert ("number ** 2" in re.sub(r"<[^>]+>", "", of_grid.read_text())) is shown
    shutil.rmtree(of_grid.parent)
    assert json.loads(kept.read_text())["started"] == executed
    assert [p.name for p in page.parents[1].iterdir()] == ["001"]


def test_the_html_needs_no_network(here):
    assert cli.main(["run", "07", "--quiet"]) == 0
    page = (here / "runs" / "07_square" / "001" / "07_square.html").read_text()
    assert not re.findall(r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["']https?:""", page)
    assert not re.findall(r"""(?:from|import)\s*\(?["']https?:""", page)
    assert "application/vnd.jupyter.widget" not in page


def test_runs_are_numbered_and_an_interrupted_one_is_continued(here, notebook):
    root = here / "runs"
    assert cli.main(["run", "07", "-p", "number=9", "--quiet"]) == 1  # its last cell fails
    assert next_folder(root, notebook, {"number": 9}).name == "001"
    other = next_folder(root, notebook, {})  # other parameters never take over its folder
    assert other.name == "002"
    run_notebook(notebook, {}, other, progress=False)
    assert next_folder(root, notebook, {}).name == "003"
    assert next_folder(root, notebook, {}).name == "004"  # two at once get one each


def _choose(root, notebook, together, chosen, leave):
    together.wait()
    chosen.put(next_folder(root, notebook, {}).name)
    leave.wait(60)


def test_processes_that_ask_at_once_get_a_folder_each(here, notebook):
    """One of them continues the interrupted run; all hold what they got before their notebooks begin."""
    root, context = here / "runs", multiprocessing.get_context("fork")
    dead = context.Process(target=next_folder, args=(root, notebook, {}))
    dead.start()
    dead.join()
    together, chosen, leave = context.Barrier(4), context.Queue(), context.Event()
    children = [context.Process(target=_choose, args=(root, notebook, together, chosen, leave)) for _ in range(4)]
    for child in children:
        child.start()
    try:
        assert sorted(chosen.get(timeout=30) for _ in children) == ["001", "002", "003", "004"]
        assert next_folder(root, notebook, {}).name == "005"
    finally:
        leave.set()
        for child in children:
            child.join()
    assert next_folder(root, notebook, {}).name == "004"  # theirs were never used; its own is another matter


def test_a_run_of_a_living_process_is_left_alone(here, notebook):
    folder = here / "runs" / "07_square" / "001"
    folder.mkdir(parents=True)
    began = {"notebook": notebook.name, "parameters": {}, "process": os.getppid()}
    write_record(folder / "parameters.json", began)
    assert next_folder(here / "runs", notebook, {}).name == "002"


def test_relative_paths_are_those_of_the_caller(here, notebook):
    node = nbformat.read(notebook, as_version=4)
    node.cells[1].source = "print(open('beside_the_caller.txt').read())"
    nbformat.write(node, notebook)
    (here / "beside_the_caller.txt").write_text("found")
    assert cli.main(["run", "07", "--quiet"]) == 0


def test_wrong_calls_end_before_the_kernel_starts(here, capsys):
    for arguments, message in (
        (["run", "07", "-p", "nunber=3"], "did you mean 'number'"),
        (["run", "07", "-p", "number"], "not of the form NAME=VALUE"),
        (["run", "07", "-p", "number='x'"], "is a str"),
        (["run", "99"], "'99' fits 0 notebooks; give a path or one of: 07_square"),
        (["run", "../07"], "fits 0 notebooks"),
    ):
        assert cli.main([*arguments, "--quiet"]) == 2
        assert message in capsys.readouterr().err
    assert not (here / "runs").exists()


def test_parameters_are_listed(here, capsys):
    assert cli.main(["parameters", "07"]) == 0
    assert capsys.readouterr().out == "number = 2\noutput = None\n"


def test_widgets_keep_their_fallback_only(tmp_path):
    view = "application/vnd.jupyter.widget-view+json"
    cell = nbformat.v4.new_code_cell("x")
    for data in ({view: {}, "text/plain": "0%"}, {view: {}, "text/html": "<b>kept</b>"}, {"text/plain": "plain"}):
        cell.outputs.append(nbformat.v4.new_output("display_data", data=data))
    node = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
    nbformat.write(node, tmp_path / "n.ipynb")
    freeze_widgets(tmp_path / "n.ipynb")
    frozen = nbformat.read(tmp_path / "n.ipynb", as_version=4)
    assert "widgets" not in frozen.metadata
    assert [dict(o.data) for o in frozen.cells[0].outputs] == [{"text/html": "<b>kept</b>"}, {"text/plain": "plain"}]


def test_a_path_is_a_notebook_too(notebook):
    assert find_notebook(str(notebook)) == notebook


def test_ctrl_c_stops_the_kernel_and_says_how_to_go_on(here, notebook):
    node = nbformat.read(notebook, as_version=4)
    node.cells[1].source = (
        "import os, time\nopen(f'{output}/pid', 'w').write(str(os.getpid()))\n"
        "while not os.path.exists('go'):\n    time.sleep(0.05)"
    )
    nbformat.write(node, notebook)
    # A test run in the background of a shell ignores Ctrl-C and would hand that down.
    listen = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    call = "from lmops_lab.cli import main; sys.exit(main(['run', '07', '--quiet']))"
    running = subprocess.Popen([sys.executable, "-c", listen + call], cwd=here, stderr=subprocess.PIPE, text=True)
    pid = here / "runs" / "07_square" / "001" / "pid"
    for _ in range(600):
        if pid.is_file() and pid.read_text():
            break
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    try:
        _, errors = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130
    assert "the same command continues" in errors
    for _ in range(100):
        if not Path(f"/proc/{pid.read_text()}").exists():
            break
        time.sleep(0.1)
    else:
        pytest.fail("the kernel is still running")
    (here / "go").touch()
    assert cli.main(["run", "07", "--quiet"]) == 0
    assert [p.name for p in (here / "runs" / "07_square").iterdir()] == ["001"]
