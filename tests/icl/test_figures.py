"""Figures from stored curves: what they show, that names do not overlap, that the table is what is drawn."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from lmops_lab.icl.comparison import simultaneous_bands
from lmops_lab.icl.curve import ICLCurve
from lmops_lab.icl.figures import calibration_effect, confusion_panels, cost_panels, spread_panels
from lmops_lab.icl.panels import curve_panels, spread_out
from lmops_lab.icl.published import read_published
from tests.icl.synthetic import synthetic_curve


@pytest.fixture(scope="module")
def curves():
    return [
        synthetic_curve("one", skill=0.22, number=1),
        synthetic_curve("two", labels=("a", "b", "c"), methods=("structured", "sequential", "ensemble"), number=2),
    ]


@pytest.fixture(scope="module")
def published_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "paper.csv"
    path.write_text(
        "source,method,k,accuracy,task\nPaper 2022,structured,8,0.7,one\nPaper 2022,structured,1000,0.93,one\n"
    )
    return path


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_small_multiples_show_every_method_of_every_task(curves):
    drawn = curve_panels(curves, ["raw", "batch"])
    assert len(drawn.figure.axes) == 4
    assert {"structured", "sequential", "zero-shot", "most frequent label"} <= set(texts(drawn.figure.axes[0]))
    assert "ensemble" in texts(drawn.figure.axes[1])
    row = drawn.table.query("task == 'two' and calibration == 'batch' and method == 'ensemble' and k == 8").iloc[0]
    assert (row.accuracy, row.low, row.high) == pytest.approx(curves[1].accuracy("ensemble", 8, "batch"))
    assert len(drawn.table) == 2 * sum(len(curve.points()) for curve in curves)


def test_zero_has_a_place_on_the_log_axis(curves):
    axes = curve_panels(curves[:1]).figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "8", "64", "512"]
    assert np.diff(axes.get_xticks()).min() > 0


# Text.get_window_extent measures the words alone; an annotation's own would hold the line that leads to them, too.
def test_names_of_lines_do_not_overlap(curves):
    figure = curve_panels(curves, ["raw", "batch"]).figure
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [Text.get_window_extent(text) for text in axes.texts if text.get_fontweight() == "bold"]
        assert len(boxes) >= 2
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_names_of_lines_stay_beside_their_panel(curves):
    figure = curve_panels(curves, ["raw", "batch"]).figure
    figure.draw_without_rendering()
    for axes in figure.axes:
        panel = axes.get_window_extent()
        for text in axes.texts:
            if text.get_fontweight() == "bold":
                box = Text.get_window_extent(text)
                assert box.x0 > panel.x1
                assert panel.y0 - 1 <= box.y0
                assert box.y1 <= panel.y1 + 1


def test_every_column_writes_its_own_ks(curves):
    one, other = curve_panels([curves[0], fewer(curves[0], 64)]).figure.axes
    assert [label.get_text() for label in one.get_xticklabels()] == ["0", "8", "64", "512"]
    assert [label.get_text() for label in other.get_xticklabels()] == ["0", "8", "64"]
    assert one.get_xlim() == other.get_xlim()


def fewer(curve, most):
    return replace(curve, cells=tuple(cell for cell in curve.cells if cell.k <= most))


@pytest.mark.parametrize(
    ("wanted", "places"),
    [
        ([0.2, 0.5], [0.2, 0.5]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.5, 0.52, 0.9], [0.46, 0.56, 0.9]),
        ([0.98, 0.99], [0.85, 0.95]),
        ([-1.0, 0.0], [0.05, 0.15]),
    ],
)
def test_labels_move_as_little_as_they_must(wanted, places):
    assert spread_out(wanted, [0.1] * len(wanted), 0.0, 1.0) == pytest.approx(places)


def test_labels_of_two_lines_take_twice_the_room():
    assert spread_out([0.5, 0.5], [0.1, 0.2], 0.0, 1.0) == pytest.approx([0.425, 0.575])


def test_bands_may_hold_for_the_whole_curve(curves):
    table = curve_panels(curves[:1], simultaneous=True).table
    expected = simultaneous_bands([curves[0].correct("structured", k, "batch") for k in (8, 64, 512)])
    assert table[table.method == "structured"].low.tolist() == pytest.approx([band.low for band in expected])


def test_published_curves_stand_beside_ours(curves, published_file):
    drawn = curve_panels(curves, published=read_published(published_file))
    assert "structured\nPaper 2022" in texts(drawn.figure.axes[0])
    assert "structured\nPaper 2022" not in texts(drawn.figure.axes[1])
    assert drawn.table[drawn.table.method == "structured (Paper 2022)"].accuracy.tolist() == [0.7, 0.93]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("source,method,k\nP,s,8\n", r"columns \['accuracy'\] are missing, \[\] are unknown"),
        ("source,method,k,accuracy,colour\nP,s,8,.5,red\n", r"\['colour'\] are unknown"),
        ("source,method,k,accuracy\nP,s,8,0.5\nP,s,16,70\n", r"line 3: accuracy is .*70.*a share between 0 and 1"),
        (f"source,method,k,accuracy\nP,s,{'9' * 400},0.5\n", "a cell of k holds a number that is too large"),
        ("source,method,k,accuracy\nP,s,many,0.5\n", "line 2: k is 'many'; a number of demonstrations"),
    ],
)
def test_published_tables_that_cannot_be(tmp_path, content, message):
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_published(tmp_path / "bad.csv")
    with pytest.raises(FileNotFoundError, match="no table of published curves"):
        read_published(tmp_path / "none.csv")


def test_calibration_before_and_after(curves):
    drawn = calibration_effect(curves)
    row = drawn.table.query("task == 'one' and method == 'structured' and k == 8").iloc[0]
    assert row["batch"] - row["raw"] == pytest.approx(row["difference"])
    shown = [text for text in drawn.figure.axes[1].texts if text.get_text() == f"{100 * row['difference']:+.1f}"]
    assert shown
    assert (shown[0].get_fontweight() == "bold") == (row["low"] > 0 or row["high"] < 0)


def test_spread_of_seeds_and_items():
    """Demonstrations that matter a lot, or not at all, are told from queries."""
    table = spread_panels(
        [
            synthetic_curve("wild", seed_spread=1.5, seeds=6, queries=300),
            synthetic_curve("calm", seed_spread=0.0, seeds=6, queries=60),
        ]
    ).table.set_index("task")
    assert (table.loc["wild"].from_demonstrations > table.loc["wild"].from_queries).all()
    assert (table.loc["calm"].from_demonstrations < table.loc["calm"].from_queries).all()
    with pytest.raises(ValueError, match="no point has two seeds"):
        spread_panels([synthetic_curve(seeds=1)])


def test_nothing_on_the_front_is_beaten(curves):
    table = cost_panels(curves, batch=100).table
    for task, part in table.groupby("task"):
        for row in part.itertuples():
            beaten = ((part.seconds <= row.seconds) & (part.accuracy > row.accuracy)).any()
            assert row.front == (not beaten), task
    first = table[table.method == "structured"].iloc[0]
    assert first.seconds == pytest.approx(0.02 * 8 / 100 + 0.03 * (1 + 8 / 200))


def test_confusion_matrices(curves):
    drawn = confusion_panels(curves[1], [("structured", 8, "raw"), ("structured", 512, "batch")])
    assert len(drawn.figure.axes) == 2
    first = drawn.table[drawn.table.point == "structured, k = 8, raw"]
    assert first["count"].sum() == 4 * 200
    right = first[first.right == first.given]["count"].sum() / 800
    assert right == pytest.approx(curves[1].accuracy("structured", 8).mean)
    with pytest.raises(ValueError, match="no point to show"):
        confusion_panels(curves[0], [])


@pytest.mark.parametrize("draw", [curve_panels, calibration_effect, spread_panels, cost_panels])
def test_files_are_whole_and_the_same_each_time(curves, draw, tmp_path):
    paths = draw(curves[:1]).save(tmp_path, "figure")
    again = draw(curves[:1]).save(tmp_path / "again", "figure")
    assert paths["png"].read_bytes()[:4] == b"\x89PNG"
    assert paths["svg"].read_bytes() == again["svg"].read_bytes()
    assert b"<script" not in paths["svg"].read_bytes()
    table = pd.read_csv(paths["csv"])
    assert len(table) == len(draw(curves[:1]).table)


def test_from_a_saved_curve(curves, tmp_path):
    curves[0].save(tmp_path)
    assert curve_panels([ICLCurve.load(tmp_path)]).table.equals(curve_panels(curves[:1]).table)


def test_what_cannot_be_drawn(curves):
    with pytest.raises(ValueError, match="there is no curve to draw"):
        curve_panels([])
    with pytest.raises(ValueError, match=r"no curve has the methods \['magic'\]; there are"):
        curve_panels(curves, methods=["magic"])
    with pytest.raises(ValueError, match="calibration 'magic' is unknown"):
        curve_panels(curves, ["magic"])
