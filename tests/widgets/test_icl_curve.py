"""The curve explorer without a browser: state, events, hostile text, the static page, and what cannot be shown."""

import json
import re
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from lmops_lab.icl.curve import ZERO_SHOT, ICLCurve
from lmops_lab.icl.demonstrations import draw_demonstrations
from lmops_lab.icl.exploring import Series, find_task, inspect_point, series_difference, series_points
from lmops_lab.icl.tasks import Example, Task
from tests.icl.synthetic import synthetic_curve
from widgets import ICLCurveExplorer

HOSTILE = "</style><script>alert(1)</script>"


@pytest.fixture(scope="module")
def task():
    examples = [
        Example(
            {"text": f"{HOSTILE} שלום {i}" + "x" * 5000 * (i > 200 and i % 10 == 7)}, ("negative", "positive")[i % 2]
        )
        for i in range(260)
    ]
    return Task("toy", "{text}:", {"negative": "no", "positive": "yes"}, examples[:200], examples[200:], "\n")


@pytest.fixture(scope="module")
def curve(task):
    made = synthetic_curve(HOSTILE, ks=(8, 64), queries=60, seeds=3)
    return ICLCurve(made.cells, made.labels, {**made.about, "task": task.fingerprint})


@pytest.fixture(scope="module")
def other():
    return synthetic_curve("other", labels=("a", "b", "c"), ks=(8, 64), queries=50, seeds=2, number=3)


def number(widget, *name):
    return next(i for i, one in enumerate(widget.series) if one["name"] == list(name))


def test_lines_hold_what_the_curve_says(curve, other):
    widget = ICLCurveExplorer([curve, other], "raw")
    assert {tuple(one["name"]) for one in widget.series} == {
        (task, method, "raw") for task in (HOSTILE, "other") for method in (ZERO_SHOT, "structured", "sequential")
    }
    line = widget.series[number(widget, "other", "structured", "raw")]["points"]
    estimate = other.accuracy("structured", 64, "raw")
    assert [point["k"] for point in line] == [8, 64]
    assert (line[1]["mean"], line[1]["low"], line[1]["high"]) == pytest.approx(estimate, abs=1e-5)
    assert [seed for seed, _ in line[1]["seeds"]] == [1, 2]


def test_a_calibration_is_computed_when_it_is_switched_on(curve):
    widget = ICLCurveExplorer(curve, "raw")
    assert len(widget.series) == 3
    widget.calibrations = ["raw", "batch"]
    assert len(widget.series) == 6
    widget.calibrations = ["batch"]
    assert len(widget.series) == 6


def test_paired_differences_of_two_lines(curve):
    widget = ICLCurveExplorer(curve, ["raw", "batch"])
    widget.left, widget.right = (
        number(widget, HOSTILE, "structured", "batch"),
        number(widget, HOSTILE, "structured", "raw"),
    )
    rows = widget.difference["rows"]
    assert [row["k"] for row in rows] == [8, 64]
    expected = curve.difference(("structured", 64), ("structured", 64), ("batch", "raw"))
    assert (rows[1]["mean"], rows[1]["low"], rows[1]["high"]) == pytest.approx(expected)
    widget.right = number(widget, HOSTILE, ZERO_SHOT, "batch")
    assert [row["k"] for row in widget.difference["rows"]] == [8, 64]
    widget.right = widget.left
    assert widget.difference["rows"] == []


def test_lines_that_cannot_be_paired_say_why(curve, other):
    widget = ICLCurveExplorer([curve, other])
    widget.left, widget.right = 1, number(widget, "other", "structured", "batch")
    assert "share no queries" in widget.difference["why"]
    widget.left = 99
    assert widget.difference["why"]


def test_a_point_from_inside(curve, task):
    widget = ICLCurveExplorer(curve, "batch", tasks=[task])
    widget.selected = [number(widget, HOSTILE, "structured", "batch"), 8]
    detail = widget.detail
    assert np.sum(detail["confusion"]) == 3 * 60
    right = curve.correct("structured", 8, "batch")
    assert detail["wrong_in_all"] == (~right).any(0).sum()
    first = detail["wrong"][0]
    assert sum(answer["wrong"] for answer in first["answers"]) == (~right).sum(0).max()
    assert first["text"] == task.query(task.test[first["query"]].fields)
    shown = detail["demonstrations"][1]
    drawn = draw_demonstrations(task.train, 8, 2)
    assert shown["seed"] == 2
    assert shown["texts"] == [[i + 1, task.demonstration(example).strip()] for i, example in enumerate(drawn)]
    widget.selected = [number(widget, HOSTILE, "structured", "batch"), 64]
    assert widget.detail["demonstrations"][0]["of"] == 64
    assert len(widget.detail["demonstrations"][0]["texts"]) == 24
    widget.selected = []
    assert widget.detail == {}
    for bad in ([0, 12345], [99, 8], [1]):
        widget.selected = bad
        assert "cannot be shown" in widget.detail["why"]


def test_demonstrations_of_a_shared_pool_are_those_of_its_groups(curve, task):
    pooled = ICLCurve(curve.cells, curve.labels, {**curve.about, "pool_groups": 16, "group_size": 4})
    shown = inspect_point(pooled, "structured", 8, "raw", task)["demonstrations"]
    pool = draw_demonstrations(task.train, 64, 0)
    for seed, one in enumerate(shown):
        groups = np.random.default_rng([seed + 1, 2]).permutation(16)[:2]
        expected = [task.demonstration(pool[4 * group + i]).strip() for group in groups for i in range(4)]
        assert one["seed"] == seed + 1
        assert [text for _, text in one["texts"]] == expected
    assert shown[0]["texts"] != shown[1]["texts"]


def test_without_the_data_queries_have_numbers(other, task):
    widget = ICLCurveExplorer(other, tasks=[task])
    widget.selected = [1, 8]
    assert widget.detail["texts"] is False
    assert widget.detail["demonstrations"] == []
    with pytest.raises(ValueError, match="run on task 'other-0', not on"):
        inspect_point(other, "structured", 8, "raw", task)
    assert find_task(other, [task]) is None


def test_no_line_in_common(curve):
    short = ICLCurve(tuple(c for c in curve.cells if (c.method, c.k) != ("sequential", 8)), curve.labels, curve.about)
    some = ICLCurve(tuple(c for c in short.cells if (c.method, c.k) != ("structured", 64)), curve.labels, curve.about)
    with pytest.raises(ValueError, match="have no number of demonstrations in common"):
        series_difference({"t": some}, Series("t", "structured", "raw"), Series("t", "sequential", "raw"))


def test_the_static_page_is_escaped_scriptless_and_complete(curve, task, tmp_path):
    widget = ICLCurveExplorer(curve, ["raw", "batch"], tasks=[task])
    widget.selected = [1, 8]
    data, _ = widget._repr_mimebundle_()
    page = data["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in data
    assert not re.search(r"0x[0-9a-f]{6}", data["text/plain"])
    assert "<script" not in page
    assert page.count("</style>") == page.count("<style")
    assert "<svg" in page
    assert "שלום" in page
    assert "x" * 5000 in page
    assert f"{curve.accuracy('structured', 64, 'batch').mean:.3f}" in page
    assert "missed by a seed or more" in page
    assert "demonstrations of seed 3 (8 of 8)" in page
    written = widget.to_html(tmp_path / "curve.html").read_text(encoding="utf-8")
    assert page in written
    assert "http://" not in re.sub(r"http://www\.w3\.org|http://purl\.org|http://creativecommons\.org", "", written)


CODE = """
from tests.icl.synthetic import synthetic_curve
from widgets import ICLCurveExplorer
import hashlib
w = ICLCurveExplorer([synthetic_curve("a", ks=(8, 64)), synthetic_curve("b", number=2)])
w.selected = [1, 8]
print(hashlib.sha256((w.fallback() + repr(w)).encode()).hexdigest())
"""


def test_two_processes_give_the_same_page():
    runs = [
        subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout for _ in "ab"
    ]
    assert runs[0] == runs[1]


def test_what_is_not_there_is_said(curve):
    asked = ICLCurveExplorer(curve, ["batch", "magic"], methods=["structured", "telepathy"])
    assert "no method telepathy; they have zero-shot, structured, sequential" in asked.message
    assert "no calibration magic" in asked.message
    assert asked.methods == ["structured"]
    assert "telepathy" in asked.fallback()
    empty = ICLCurveExplorer([])
    assert "no results to show" in empty.message
    assert "no results to show" in empty.fallback()
    nothing = ICLCurveExplorer(curve)
    nothing.calibrations = []
    assert "Nothing is switched on" in nothing.fallback()
    nothing.calibrations = ["magic"]
    assert "calibration 'magic' is unknown" in nothing.message


def test_two_curves_of_one_task_keep_apart(other):
    bigger = ICLCurve(other.cells, other.labels, {**other.about, "model": "bigger@1"})
    widget = ICLCurveExplorer([other, bigger, bigger])
    assert widget.tasks == ["other", "other (bigger)", "other (2)"]


def test_ten_thousand_rows():
    """100 methods at 50 k and 2 seeds: a dozen lines at first, all when they are asked for, in messages far below
    10 MB; the static page says what it leaves out."""
    one = synthetic_curve("many", ks=(8,), seeds=2, queries=20, methods=("structured",))
    model = [cell for cell in one.cells if cell.method == "structured"]
    cells = [replace(cell, method=f"m{m}", k=k) for m in range(100) for k in range(1, 51) for cell in model]
    start = time.process_time()  # the machine may be shared
    widget = ICLCurveExplorer(ICLCurve(tuple(cells), one.labels, one.about))
    page = widget.fallback()
    assert time.process_time() - start < 20
    assert "12 of 100 methods are switched on; switch on others as you like." in page
    assert "300 more rows are left out." in page
    assert [line["name"][1] for line in widget.series] == [f"m{m}" for m in range(12)]
    assert sum(len(line["points"]) for line in widget.series) == 600
    widget.methods = ["m99", "m3"]
    assert [line["name"][1] for line in widget.series[12:]] == ["m99"]  # the numbers of the others stay theirs
    widget.methods = widget.available["methods"]
    page = widget.fallback()
    assert "The picture shows 12 of 100 methods; choose others." in page
    assert "4,700 more rows are left out." in page
    assert sum(len(line["points"]) for line in widget.series) == 5000
    assert len(json.dumps(widget.get_state(["series"]))) < 2e6
    asked = ICLCurveExplorer(ICLCurve(tuple(cells), one.labels, one.about), methods=["m7"])
    assert "switched on" not in asked.message
    assert [line["name"][1] for line in asked.series] == ["m7"]


def test_points_need_no_model(curve, monkeypatch):
    import torch

    monkeypatch.setattr(torch.nn.Module, "__call__", lambda *_: pytest.fail("a model was asked"))
    widget = ICLCurveExplorer(curve)
    widget.selected = [1, 8]
    widget.calibrations = ["raw", "contextual"]
    assert series_points(curve, Series("t", "structured", "raw"))
