"""The commands for runs, grids, baselines and committed notebooks, from the command line's first word on."""

import json

import nbformat
import pytest

from lmops_lab import cli

OPENING = "# A lesson\n\n**Question.** Why?\n\n**Time.** None. **Hardware.** None."


@pytest.fixture
def here(tmp_path, monkeypatch):
    node = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    node.cells = [
        nbformat.v4.new_markdown_cell(OPENING),
        nbformat.v4.new_code_cell("number = 2\noutput = None", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            "import json\nassert number < 9\nif output:\n"
            "    with open(f'{output}/metrics.json', 'w') as file:\n"
            "        json.dump({'square': {'value': number**2}}, file)\n"
            "    with open(f'{output}/square.svg', 'w') as file:\n        file.write('<svg/>')"
        ),
    ]
    (tmp_path / "notebooks").mkdir()
    nbformat.write(node, tmp_path / "notebooks" / "07_square.ipynb")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_is_not_repeated_unless_forced(here, capsys):
    assert cli.main(["run", "07", "--quiet", "--hide-code", "--folder", "mine"]) == 0
    first = (here / "mine" / "run.json").read_text()
    assert cli.main(["run", "07", "--quiet", "--hide-code", "-p", "number=2", "--folder", "mine"]) == 0
    if (
        json.loads(first)["content"] in (here / "mine" / "run.json").read_text()
    ):  # else the package was edited meanwhile
        assert (here / "mine" / "run.json").read_text() == first
        assert "--force repeats it" in capsys.readouterr().out
    assert cli.main(["run", "07", "--quiet", "--folder", "mine", "--force"]) == 0
    assert (here / "mine" / "run.json").read_text() != first


def test_a_regression_ends_with_one_and_an_update_with_none(here, capsys):
    folder = here / "notebooks" / "baselines" / "07_square"
    folder.mkdir(parents=True)
    (folder / "baseline.yaml").write_text("parameters: {number: 3}\nmetrics:\n  square: {value: 8, absolute: 0.5}\n")
    assert cli.main(["regress"]) == 1
    out = capsys.readouterr().out
    assert "regression" in out
    assert "+1" in out
    assert "there is none" in (here / "runs" / "regress" / "report.html").read_text()  # the baseline's figure
    assert cli.main(["regress", "07", "--update"]) == 0
    assert "1 beyond tolerance" in capsys.readouterr().out
    assert "square: {value: 9.0, absolute: 0.5}" in (folder / "baseline.yaml").read_text()
    assert (folder / "square.svg").read_text() == "<svg/>"


def test_what_has_no_baseline_is_said(here, capsys):
    """A notebook without a baseline is listed and not run; a baseline's folder without its file is a failure."""
    folder = here / "notebooks" / "baselines" / "07_square"
    folder.mkdir(parents=True)
    (folder / "baseline.yaml").write_text("parameters: {number: 3}\nmetrics:\n  square: {value: 9, absolute: 0.5}\n")
    (here / "notebooks" / "08_new.ipynb").write_bytes((here / "notebooks" / "07_square.ipynb").read_bytes())
    assert cli.main(["regress"]) == 0
    out = capsys.readouterr().out
    assert "08_new: there is no baseline, so it was not run; make one with regress 08_new --update" in out
    assert "2 notebooks: 1 same, 1 without a baseline" in out
    assert "there is no baseline" in (here / "runs" / "regress" / "report.html").read_text()
    assert not (here / "runs" / "regress" / "08_new").exists()
    (folder / "baseline.yaml").unlink()
    for asked in ([], ["07"]):
        assert cli.main(["regress", *asked]) == 1
        assert "its baseline's folder has no baseline.yaml; bring it back" in capsys.readouterr().out
    assert cli.main(["regress", "07", "--update"]) == 0
    assert (folder / "baseline.yaml").is_file()
    assert cli.main(["regress", "08", "--update"]) == 0
    assert "  there is no baseline; make one" in capsys.readouterr().out
    assert cli.main(["regress", "08"]) == 0
    assert "there is no baseline" not in capsys.readouterr().out


def test_wrong_commands_end_before_anything_runs(here, capsys):
    (here / "grid.yaml").write_text("notebook: '07'\ngrid: {nunber: [1]}\n")
    for arguments, message in (
        (["run"], "name a notebook"),
        (["run", "07", "--grid", "grid.yaml"], "leave NOTEBOOK, -p and --folder out"),
        (["run", "--grid", "grid.yaml"], "did you mean 'number'"),
        (["run", "--grid", "none.yaml"], "there is no grid file 'none.yaml'"),
        (["regress"], "there is no baseline in notebooks/baselines"),
        (["regress", "99"], "'99' fits 0 notebooks"),
        (["notebooks", "lint", "99"], "'99' fits 0 notebooks"),
    ):
        assert cli.main(arguments) == 2
        assert message in capsys.readouterr().err
    assert not (here / "runs").exists()


def test_a_grid_with_a_failing_point(here, capsys):
    (here / "grid.yaml").write_text("notebook: '07'\ngrid: {number: [3, 99]}\n")
    assert cli.main(["run", "--grid", "grid.yaml", "--jobs", "2"]) == 1
    out = capsys.readouterr().out
    assert "07_square number=3" in out
    assert " failed  07_square number=99" in out
    assert "AssertionError" in out
    assert out.endswith("2 runs, 1 failed\n")
    metrics = here / "runs" / "07_square" / "001" / "metrics.json"
    assert json.loads(metrics.read_text()) == {"square": {"value": 9}}


def test_lint_from_the_command_line(here, capsys):
    assert cli.main(["notebooks", "lint"]) == 1
    assert "were executed as [None, None]" in capsys.readouterr().out
