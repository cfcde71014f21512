"""What identifies a run, and what is written down about it."""

import nbformat
import pytest

from lmops_lab.runs import record


@pytest.fixture
def notebook(tmp_path):
    path = tmp_path / "n.ipynb"
    cells = [nbformat.v4.new_markdown_cell("words"), nbformat.v4.new_code_cell("a = 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def changed(notebook, edit):
    node = nbformat.read(notebook, as_version=4)
    edit(node)
    nbformat.write(node, notebook)


def test_code_and_parameters_make_the_identity(notebook):
    first = record.content_hash(notebook, {"k": [0, 4]})
    assert record.content_hash(notebook, {"k": [0, 4]}) == first
    assert record.content_hash(notebook, {"k": [0, 8]}) != first
    changed(notebook, lambda node: node.cells[1].update(source="a = 2"))
    assert record.content_hash(notebook, {"k": [0, 4]}) != first


def test_outputs_and_prose_do_not(notebook):
    first = record.content_hash(notebook, {})
    changed(notebook, lambda node: node.cells[0].update(source="other words"))
    changed(notebook, lambda node: node.cells[1].outputs.append(nbformat.v4.new_output("stream", text="1")))
    assert record.content_hash(notebook, {}) == first


def test_a_changed_data_file_is_another_run(notebook, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").write_text("{}")
    first = record.content_hash(notebook, {"sources": [{"task": str(data)}]})
    assert record.content_hash(notebook, {"sources": [{"task": str(data)}]}) == first
    (data / "test.jsonl").write_text("{}")
    assert record.content_hash(notebook, {"sources": [{"task": str(data)}]}) != first


def test_what_a_run_writes_is_no_data_of_it(notebook, tmp_path):
    """Also with a folder that was named by hand, a run is found again when it has filled it."""
    output = tmp_path / "made"
    output.mkdir()
    first = record.content_hash(notebook, {"output": str(output), "data": str(output / "data")})
    (output / "metrics.json").write_text("{}")
    assert record.content_hash(notebook, {"output": str(output), "data": str(output / "data")}) == first
    (output / "data").write_text("{}")  # named by a parameter of its own
    assert record.content_hash(notebook, {"output": str(output), "data": str(output / "data")}) != first


def test_an_edited_package_is_another_run(notebook, monkeypatch):
    first = record.content_hash(notebook, {})
    monkeypatch.setattr(record, "package_hash", lambda: "edited")
    assert record.content_hash(notebook, {}) != first


def test_versions_and_hardware_are_those_of_this_machine():
    import torch

    versions, hardware = record.versions(), record.hardware()
    assert versions["torch"] == torch.__version__
    assert {"python", "transformers", "lmops-lab", "numpy"} <= set(versions)
    assert "not installed" not in versions.values()
    assert hardware["cores"] >= 1
    assert hardware["processor"]
    assert hardware["memory_gb"] > 0.1


def test_no_checkout_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(record, "_PACKAGE", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert record.commit() is None
