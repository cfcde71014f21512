"""Every committed notebook is clean and has a baseline, and every baseline belongs to one."""

from pathlib import Path

import nbformat
import pytest

from lmops_lab.runs.hygiene import lint
from lmops_lab.runs.parameters import check_parameters, read_parameters
from lmops_lab.runs.regression import read_baseline

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
ALL = sorted(NOTEBOOKS.glob("*.ipynb"))


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_is_clean(path):
    assert lint(path) == []


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_some_of_its_claims_are_checked_by_nbval(path):
    cells = nbformat.read(path, as_version=4).cells
    tagged = [cell for cell in cells if "nbval-check-output" in cell.metadata.get("tags", ())]
    assert tagged
    assert all(cell.outputs for cell in tagged)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_has_a_baseline(path):
    assert (NOTEBOOKS / "baselines" / path.stem / "baseline.yaml").is_file(), f"lmops-lab regress {path.stem} --update"


@pytest.mark.parametrize("folder", sorted((NOTEBOOKS / "baselines").glob("*/")), ids=lambda path: path.name)
def test_its_baseline_is_complete(folder):
    baseline = read_baseline(folder)
    check_parameters(read_parameters(NOTEBOOKS / f"{folder.name}.ipynb"), baseline.parameters)
    assert len(baseline.metrics) >= 3
    assert list(folder.glob("*.svg"))
