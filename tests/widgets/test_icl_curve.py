import re

import numpy as np
import pytest

from lmops_lab.icl.cells import Cell, Cost
from lmops_lab.icl.curve import ZERO_SHOT, ICLCurve
from widgets import ICLCurveExplorer


@pytest.fixture(scope="module")
def curve():
    rng = np.random.default_rng(0)
    gold = np.arange(30) % 2

    def cell(method, k, seed, skill):
        scores = rng.normal(size=(30, 2)).astype(np.float32)
        scores[np.arange(30), gold] += skill
        cost = Cost(1.0, 2.0, 10 * k, 100 * k, k // 4)
        return Cell(method, k, seed, scores, rng.normal(size=(3, 2)).astype(np.float32), gold, np.arange(30), cost)

    cells = [cell(ZERO_SHOT, 0, 0, 0.2), *(cell("structured", k, s, k / 20) for k in (4, 32) for s in (1, 2))]
    about = {"task_name": "<b>toy</b>", "model": "m@1/float32", "seeds": [1, 2], "queries": 30}
    return ICLCurve(tuple(cells), ("no", "yes"), about)


def test_controls_change_what_is_shown(curve):
    widget = ICLCurveExplorer(curve, "raw")
    first_figure, first_sentence = widget.figure.value, widget.difference.value
    assert "<svg" in first_figure
    assert "no calibration" in first_figure
    widget.calibration.value = "batch"
    assert "batch calibration" in widget.figure.value
    assert widget.difference.value != first_sentence
    widget.right.value = ("structured", 4)
    assert "<b>structured, k = 32</b> minus <b>structured, k = 4</b>" in widget.difference.value


def test_the_fallback_is_static_escaped_and_deterministic(curve):
    widget = ICLCurveExplorer(curve)
    bundle = widget._repr_mimebundle_()
    page = bundle["text/html"]
    assert page == ICLCurveExplorer(curve).fallback()
    assert page.count("<svg") == 3
    assert "<script" not in page
    assert "<b>toy</b>" not in page
    assert not re.search(r"0x[0-9a-f]{6}", bundle["text/plain"])
    assert "application/vnd.jupyter.widget-view+json" in bundle
