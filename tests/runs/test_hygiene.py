"""What the lint of notebooks catches, one fault at a time, and what rebuilding leaves."""

import argparse

import nbformat
import pytest

from lmops_lab.runs.hygiene import clean, lint, main, rebuild

OPENING = "# A lesson\n\n**Question.** Why?\n\n**Time.** None. **Hardware.** None."
VIEW = "application/vnd.jupyter.widget-view+json"


def stream(text, name="stdout"):
    return nbformat.v4.new_output("stream", name=name, text=text)


def display(**data):
    return nbformat.v4.new_output("display_data", data={k.replace("_", "/"): v for k, v in data.items()})


@pytest.fixture
def notebook(tmp_path):
    def write(edit=None, path=tmp_path / "07_x.ipynb"):
        node = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
        node.cells = [
            nbformat.v4.new_markdown_cell(OPENING),
            nbformat.v4.new_code_cell("number = 2", metadata={"tags": ["parameters"]}, execution_count=1),
            nbformat.v4.new_code_cell("print(number ** 2)", execution_count=2, outputs=[stream("4\n")]),
        ]
        if edit:
            edit(node)
        nbformat.write(node, path)
        return path

    return write


def test_a_clean_notebook(notebook):
    assert lint(notebook()) == []


def put(*outputs):
    return lambda node: node.cells[2].outputs.extend(outputs)


def source(text, cell=2):
    return lambda node: node.cells[cell].update(source=text)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (source("number = int('2')", 1), "parameter 'number' of 07_x.ipynb is not a literal"),
        (lambda node: node.cells[1].metadata.pop("tags"), "has 0 cells tagged 'parameters'"),
        (lambda node: node.metadata.kernelspec.update(name="my-env"), "its kernelspec is 'my-env'"),
        (lambda node: node.cells[2].update(execution_count=7), "executed as [1, 7], not once each and in order"),
        (lambda node: node.cells[2].update(execution_count=None), "executed as [1, None]"),
        (lambda node: node.metadata.update(widgets={"state": {}}), "it stores widget state"),
        (lambda node: node.metadata.update(papermill={}), "papermill's record"),
        (put(nbformat.v4.new_output("display_data", data={VIEW: {}, "text/html": "x"})), "cell 2: it stores a live"),
        (source("open('/home/ada/data.csv')"), "cell 2: its source holds an absolute path, '/home/ada/data.csv'"),
        (source(r"open('C:\\Users\\ada\\data.csv')"), "an absolute path"),
        (put(stream("saved in /tmp/run/001")), "its output holds an absolute path, '/tmp/run/001'"),
        (put(display(text_html="<a href='/home/ada/x'>")), "its output holds an absolute path"),
        (source("token = 'hf_" + "a1B2c3D4e5" * 3 + "'"), "what looks like a secret, 'hf_a1B…'"),
        (source("api_key = 'correct-horse-battery'"), "what looks like a secret"),
        (put(stream("UserWarning: old\n  x", "stderr")), "cell 2: it printed to stderr: 'UserWarning: old'"),
        (put(nbformat.v4.new_output("error", ename="KeyError", evalue="", traceback=[])), "it ended with KeyError"),
        (put(stream("x" * 1_600_000)), "bytes; keep it below 1,500,000"),
        (source("# A lesson\n\n**Question.** Why?", 0), "does not state **Time**, **Hardware**"),
        (
            lambda node: node.cells.extend(nbformat.v4.new_code_cell("1", execution_count=3 + i) for i in range(14)),
            "it has 16 code cells",
        ),
    ],
)
def test_every_fault_is_named(notebook, edit, message):
    problems = lint(notebook(edit))
    assert len(problems) == 1
    assert message in problems[0]


@pytest.mark.parametrize(
    "text",
    [
        "https://arxiv.org/abs/2212.06713 and a/home/b, ~/tmp/x, https://example.org/home/x",
        "task=path/to/folder or ./data/x",
        "scores / data / 2",
        "token = lm.tokens('a text'); secret = None",
    ],
)
def test_harmless_text_passes(notebook, text):
    assert lint(notebook(put(stream(text)))) == []


def test_a_picture_is_not_read_as_text(notebook):
    picture = display(image_png="/tmp/abc" * 4, text_html="<img src='data:image/png;base64,/tmp/abcd/home/x'>")
    assert lint(notebook(put(picture))) == []


def test_not_a_notebook(tmp_path):
    (tmp_path / "n.ipynb").write_text("nonsense")
    assert "is not a notebook" in lint(tmp_path / "n.ipynb")[0]


def test_cleaning_keeps_what_a_reader_needs(notebook):
    def soil(node):
        node.metadata.update(papermill={"input_path": "/tmp/x"}, widgets={"state": {}})
        node.cells[2].metadata = {"papermill": {"duration": 1}, "tags": ["nbval-check-output"], "execution": {}}
        node.cells[2].outputs.append(nbformat.v4.new_output("display_data", data={VIEW: {}, "text/plain": "0%"}))

    path = notebook(soil)
    clean(path)
    node = nbformat.read(path, as_version=4)
    assert lint(path) == []
    assert node.cells[2].metadata == {"tags": ["nbval-check-output"]}
    assert [dict(o) for o in node.cells[2].outputs] == [dict(stream("4\n"))]


def test_rebuilding_executes_afresh_or_leaves_alone(notebook, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").mkdir()
    stale = notebook(put(stream("stale\n")), tmp_path / "notebooks" / "07_x.ipynb")
    assert rebuild(stale, progress=False) == []
    assert nbformat.read(stale, as_version=4).cells[2].outputs == [stream("4\n")]
    options = argparse.Namespace(action="lint", notebooks=[], quiet=True)
    assert main(options) == 0
    loud = notebook(source("import sys; print('no', file=sys.stderr)"), tmp_path / "notebooks" / "07_x.ipynb")
    before = loud.read_text()
    options = argparse.Namespace(action="rebuild", notebooks=["07"], quiet=True)
    assert main(options) == 1
    assert "it printed to stderr: 'no'" in capsys.readouterr().out
    assert loud.read_text() == before


def test_nothing_to_lint_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no notebooks in notebooks/"):
        main(argparse.Namespace(action="lint", notebooks=[], quiet=True))
