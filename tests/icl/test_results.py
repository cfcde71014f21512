"""A sweep's cells as a curve: what it says of itself, and which settings it is asked for."""

import numpy as np
import pandas as pd
import pytest

from lmops_lab import icl_curve
from lmops_lab.digests import read_record
from lmops_lab.icl.cells import CellStore
from lmops_lab.icl.curve import ICLCurve
from lmops_lab.icl.draws import Draw
from lmops_lab.icl.exploring import find_task, inspect_point
from lmops_lab.icl.results import CELLS
from lmops_lab.icl.sweep import run_sweep
from lmops_lab.icl.tasks import Example, Task


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    examples = [
        Example({"text": "".join(rng.choice(list("abcd "), 6))}, label) for _ in range(40) for label in ("no", "yes")
    ]
    return Task("letters", "{text}:", {"no": "no", "yes": "yes"}, examples[:40], examples[40:], "\n")


@pytest.fixture(scope="module")
def sweep(tiny, task, tmp_path_factory):
    grid = {"model": tiny.name, "task": "letters", "k": [0, 2, 4], "seed": [2, 5], "group_size": 2, "queries": 8}
    grid |= {"own_weight": [1, "groups"], "corruption": 0.5, "dtype": "float32"}
    return run_sweep(grid, tmp_path_factory.mktemp("sweep"), tasks={"letters": task}, progress=False)


def test_its_curve_is_drawn_saved_and_seen_from_inside(sweep, tiny, task, tmp_path):
    curve = sweep.curve(own_weight="groups")
    assert "8 queries, 2 seeds" in curve.plot().axes[0].texts[-1].get_text()
    curve.save(tmp_path / "saved")
    back = ICLCurve.load(tmp_path / "saved")
    pd.testing.assert_frame_equal(back.to_frame(), curve.to_frame())
    assert back.about == curve.about
    assert find_task(back, [task]) is task
    shown = inspect_point(back, "structured", 4, "raw", task)["demonstrations"]
    assert [one["seed"] for one in shown] == [2, 5]
    drawn = Draw(corruption=0.5).demonstrations(task, 4, 5)  # the sweep's own draw, wrong labels and all
    assert [text for _, text in shown[1]["texts"]] == [task.demonstration(example).strip() for example in drawn]
    asked = {"k": [0, 2, 4], "seeds": [2, 5], "queries": 8, "group_size": 2, "draw": Draw(corruption=0.5)}
    direct = icl_curve(tiny, task, **asked, folder=tmp_path / "cells", progress=False)
    for name in ("model", "task", "task_name", "k", "methods", "seeds", "queries", "group_size", "bos", "own_weight"):
        assert curve.about[name] == direct.about[name], name


def test_cells_that_do_not_say_their_task_make_a_curve_all_the_same(sweep, task, monkeypatch):
    real = CellStore.stored

    def without(self, name):
        stored = real(self, name)
        return stored._replace(about={**stored.about, "config": {}})

    monkeypatch.setattr(CellStore, "stored", without)
    curve = sweep.curve(own_weight="groups")
    assert curve.about["task"] == curve.about["task_name"] == "letters"
    assert curve.plot()
    assert find_task(curve, [task]) is None


@pytest.mark.parametrize("weight", [1, 1.0, "1"])
def test_a_setting_is_chosen_by_value_or_by_text(sweep, weight):
    curve = sweep.curve(own_weight=weight)
    assert {cell.method for cell in curve.cells} == {"zero-shot", "structured", "sequential"}
    structured = [cell for cell in curve.cells if cell.method == "structured"]
    store = CellStore(sweep.folder / CELLS)
    manifest = read_record(sweep.folder / "sweep.json")["cells"]
    named = [name for name, at in manifest.items() if at["method"] == "structured" and at["own_weight"] == "1"]
    expected = {(cell.k, cell.seed): cell.scores for cell in map(store.read, named)}
    assert len(structured) == len(expected) == 4
    assert all(np.array_equal(cell.scores, expected[cell.k, cell.seed]) for cell in structured)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"own_weight": 2}, "no finished cell has own_weight 2; the values in this sweep are '1', 'groups'"),
        ({"seed": 1}, "no finished cell has seed 1; the values in this sweep are 2, 5"),
        ({"similarity": "bm25"}, "no finished cell has similarity 'bm25'; the values in this sweep are none"),
        ({"weight": 1}, "there is no setting 'weight'"),
    ],
)
def test_values_that_the_sweep_does_not_have_are_named(sweep, chosen, message):
    with pytest.raises(ValueError, match=message):
        sweep.curve(**chosen)
