"""Baselines: what counts as the same number, how files are read and written, what the table and the page say."""

import json
import re

import pytest

from lmops_lab.runs.grid import Job, Outcome
from lmops_lab.runs.notebook import Run
from lmops_lab.runs.regression import (
    Baseline,
    Expected,
    Metric,
    Regression,
    compare,
    read_baseline,
    read_metrics,
    regress,
    save_metrics,
    update,
    updated,
    write_baseline,
)
from lmops_lab.runs.report import table, write_report


@pytest.mark.parametrize(
    ("expected", "now", "same"),
    [
        (Expected(Metric(0.2), "absolute", 0.1), 0.3, True),
        (Expected(Metric(0.2), "absolute", 0.1), 0.301, False),
        (Expected(Metric(0.2), "absolute", 0.0), 0.2, True),
        (Expected(Metric(-200.0), "relative", 0.05), -210.0, True),
        (Expected(Metric(-200.0), "relative", 0.05), -211.0, False),
        (Expected(Metric(0.8, 0.7, 0.85), "statistical"), 0.71, True),
        (Expected(Metric(0.8, 0.7, 0.85), "statistical"), 0.86, False),
        (Expected(Metric(0.2), "absolute", 9.0), float("nan"), False),
        (Expected(Metric(0.2), "relative", 9.0), float("inf"), False),
    ],
)
def test_each_tolerance(expected, now, same):
    assert expected.allows(Metric(now)) is same


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Metric(1.0), "exact"), "'exact' is unknown; choose among absolute, relative, statistical"),
        ((Metric(1.0), "statistical"), "needs an interval; the baseline 1.0 has none"),
        ((Metric(1.0), "absolute", -1.0), "tolerance -1.0"),
        ((Metric(1.0), "absolute", float("nan")), "tolerance nan"),
    ],
)
def test_tolerances_that_mean_nothing(arguments, message):
    with pytest.raises(ValueError, match=message):
        Expected(*arguments)


def test_metrics_are_written_and_read(tmp_path):
    save_metrics(tmp_path, {"loss": 2, "accuracy": (0.8, 0.7, 0.9)})
    assert read_metrics(tmp_path) == {"loss": Metric(2.0), "accuracy": Metric(0.8, 0.7, 0.9)}
    for bad in ((0.1, 0.2), float("nan"), (0.1, float("inf"), 1.0)):
        with pytest.raises(ValueError, match="metric 'x' is .* give one finite number"):
            save_metrics(tmp_path, {"x": bad})


def test_a_saved_curve_names_its_accuracies(tmp_path):
    import pandas as pd

    row = {"method": "structured", "k": 4, "calibration": "raw", "accuracy": 0.5, "low": 0.4, "high": 0.6}
    pd.DataFrame([row]).to_parquet(tmp_path / "summary.parquet")
    assert read_metrics(tmp_path) == {"accuracy structured k=4 raw": Metric(0.5, 0.4, 0.6)}


BASELINE = Baseline(
    {"k": [0, 4]},
    {
        "loss": Expected(Metric(2.0), "relative", 0.01),
        "accuracy": Expected(Metric(0.8, 0.7, 0.9), "statistical", 0.0),
        "gone": Expected(Metric(1.0), "absolute", 0.5),
    },
)


def test_a_baseline_survives_its_file(tmp_path):
    write_baseline(tmp_path, BASELINE)
    assert read_baseline(tmp_path) == BASELINE


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{value: 1}", "no tolerance"),
        ("{value: 1, absolute: 1, relative: 1}", r"it has \['absolute', 'relative'\]"),
        ("{absolute: 1}", "metric 'm' of .* 'value'"),
        ("{value: one, absolute: 1}", "could not convert"),
        ("3", "metric 'm'"),
    ],
)
def test_malformed_baselines_name_the_metric(tmp_path, entry, message):
    (tmp_path / "baseline.yaml").write_text(f"metrics:\n  m: {entry}\n")
    with pytest.raises(ValueError, match=message):
        read_baseline(tmp_path)


def test_a_metric_without_a_name_in_text_is_refused(tmp_path):
    """YAML reads `1`, `no` and `~` as something else than text."""
    for name in ("1", "no", "~", "1.5"):
        (tmp_path / "baseline.yaml").write_text(f"metrics:\n  {name}: {{value: 1.0, absolute: 0.1}}\n")
        with pytest.raises(ValueError, match="its name is no text; put it between quotes"):
            read_baseline(tmp_path)


def result(tmp_path, now):
    folder = tmp_path / "run"
    folder.mkdir(exist_ok=True)
    (folder / "curve.svg").write_text("<svg>new</svg>")
    save_metrics(folder, now)
    notebook = tmp_path / "notebooks" / "07_x.ipynb"
    run = Run(folder, folder / "07_x.ipynb", folder / "07_x.html", 1.0)
    lines = compare("07_x", BASELINE, read_metrics(folder))
    return Regression(notebook, Outcome(Job(notebook, {}, folder), run), lines)


def test_the_verdicts(tmp_path):
    lines = result(tmp_path, {"loss": 2.5, "accuracy": 0.75, "fresh": 1}).comparisons
    assert {line.name: line.verdict for line in lines} == {
        "loss": "regression",
        "accuracy": "same",
        "gone": "missing",
        "fresh": "new",
    }
    assert [line.failed for line in lines] == [True, False, True, False]


def test_the_table_and_the_page(tmp_path):
    found = result(tmp_path, {"loss": 2.5, "accuracy": 0.75, "gone": 1, "<b>": 1})
    text = table([found])
    assert re.search(r"loss +2 +2.5 +\+0.5 +± 1 % +regression", text)
    assert re.search(r"accuracy +0.8 \(0.7 to 0.9\) +0.75 +-0.05 +inside the interval +same", text)
    assert text.endswith("1 notebooks: 2 same, 1 regression, 1 new")
    baselines = tmp_path / "baselines"
    (baselines / "07_x").mkdir(parents=True)
    (baselines / "07_x" / "curve.svg").write_text("<svg>old</svg>")
    page = write_report([found], tmp_path / "report.html", baselines).read_text()
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    assert "<script" not in page
    assert "http" not in page


def test_updating_keeps_tolerances_and_takes_numbers(tmp_path):
    new = updated(BASELINE, {"loss": Metric(3.0), "accuracy": Metric(0.5, 0.4, 0.6), "new": Metric(1.0, 0.9, 1.1)})
    assert new.metrics == {
        "loss": Expected(Metric(3.0), "relative", 0.01),
        "accuracy": Expected(Metric(0.5, 0.4, 0.6), "statistical", 0.0),
        "new": Expected(Metric(1.0, 0.9, 1.1), "statistical"),
    }


def test_a_failed_run_is_a_failure_and_changes_no_baseline(tmp_path):
    job = Job(tmp_path / "notebooks" / "07_x.ipynb", {}, tmp_path / "run")
    failed = Regression(job.notebook, Outcome(job, None, "ValueError: <i>", "Traceback"), ())
    assert failed.failed
    assert "ValueError: <i>" in table([failed])
    page = write_report([failed], tmp_path / "report.html", tmp_path).read_text()
    assert "&lt;i&gt;" in page
    update([failed], tmp_path)
    assert not (tmp_path / "07_x").exists()


def test_nothing_to_compare_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no baseline in"):
        regress(baselines=tmp_path / "notebooks" / "baselines")


def test_parameters_of_a_baseline_are_checked_before_the_run(tmp_path):
    import nbformat

    node = nbformat.v4.new_notebook()
    node.cells = [nbformat.v4.new_code_cell("number = 2", metadata={"tags": ["parameters"]})]
    nbformat.write(node, tmp_path / "07_x.ipynb")
    (tmp_path / "baselines" / "07_x").mkdir(parents=True)
    (tmp_path / "baselines" / "07_x" / "baseline.yaml").write_text("parameters: {nunber: 3}\nmetrics: {}\n")
    with pytest.raises(ValueError, match="did you mean 'number'"):
        regress(folder=tmp_path / "runs", baselines=tmp_path / "baselines")
    assert not (tmp_path / "runs").exists()


def test_metrics_json_is_plain(tmp_path):
    assert json.loads(save_metrics(tmp_path, {"x": 1}).read_text()) == {"x": {"value": 1.0}}
