"""A scoring function that was broken on purpose is caught by both nets: named numbers and stored outputs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from lmops_lab import cli, load_model
from tests.tiny import tiny_tokenizer_folder

ROOT = Path(__file__).parents[2]
OPENING = "# A lesson\n\n**Question.** Yes or no? **Time.** Seconds. **Hardware.** None."
QUERIES = [f"Question {i}: is it?" for i in range(6)]
LABELS = [" yes", " no", " maybe"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A project with one notebook, its stored outputs and its baseline."""
    model = tiny_tokenizer_folder(tmp_path / "notebooks", "llama")
    (tmp_path / "llama").symlink_to(model)  # nbval starts in the notebook's folder, the runner in the caller's
    node = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    node.cells = [
        nbformat.v4.new_markdown_cell(OPENING),
        nbformat.v4.new_code_cell("model = 'llama'\noutput = None", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            "from lmops_lab import load_model\nfrom lmops_lab.runs.regression import save_metrics\n"
            f"scores = load_model(model, dtype='float32').score({QUERIES}, {LABELS})"
        ),
        nbformat.v4.new_code_cell("print(scores.argmax(-1).tolist())", metadata={"tags": ["nbval-check-output"]}),
        nbformat.v4.new_code_cell("if output:\n    save_metrics(output, {'first score': scores[0, 0]})"),
    ]
    nbformat.write(node, tmp_path / "notebooks" / "07_tiny.ipynb")
    first = float(load_model(str(model), dtype="float32").score(QUERIES, LABELS)[0, 0])
    baseline = tmp_path / "notebooks" / "baselines" / "07_tiny" / "baseline.yaml"
    baseline.parent.mkdir(parents=True)
    baseline.write_text(f"metrics:\n  first score: {{value: {first}, absolute: 0.001}}\n")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["notebooks", "rebuild", "07", "--quiet"]) == 0
    return tmp_path


def break_scoring(folder):
    """A copy of the package whose scores have the wrong sign."""
    left_out = shutil.ignore_patterns("data", "__pycache__")
    shutil.copytree(ROOT / "lmops_lab", folder / "lmops_lab", ignore=left_out)
    with (folder / "lmops_lab" / "attention" / "scoring.py").open("a") as file:
        file.write("\n\n_right = score_labels\n\n\ndef score_labels(*a, **k):\n    return -_right(*a, **k)\n")


def test_both_nets_catch_it(here, capsys, monkeypatch):
    break_scoring(here / "broken")
    monkeypatch.setenv("PYTHONPATH", str(here / "broken"))

    assert cli.main(["regress"]) == 1
    was, now = re.search(r"first score +(\S+) +(\S+) .* regression", capsys.readouterr().out).groups()
    assert float(was) == pytest.approx(-float(now), rel=1e-3)

    options = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", "120", "-p", "no:cacheprovider", "-q"]
    options += ["--nbval-sanitize-with", str(ROOT / "tests" / "notebooks" / "sanitize.cfg")]
    command = [sys.executable, "-m", "pytest", *options, "notebooks/07_tiny.ipynb"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Cell 2: Cell outputs differ" in done.stdout, done.stdout  # the cell with the claim
    assert "1 failed, 3 passed" in done.stdout, done.stdout
