"""The experiment from draws to files, on a tiny model: exact reuse, resuming, bad input."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lmops_lab import encode_groups, icl_curve, load_task
from lmops_lab.attention.cache import GroupCache
from lmops_lab.icl import experiment, scoring
from lmops_lab.icl.calibration import calibrate
from lmops_lab.icl.curve import ZERO_SHOT, ICLCurve
from lmops_lab.icl.demonstrations import draw_demonstrations, draw_queries
from lmops_lab.icl.draws import Draw
from lmops_lab.icl.prompts import PromptTokens
from lmops_lab.icl.statistics import accuracy
from lmops_lab.icl.tasks import Example, Task

KS = [0, 2, 4, 7, 8]


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    examples = [
        Example({"text": "".join(rng.choice(list("abcdefgh "), 6))}, label)
        for _ in range(40)
        for label in ("no", "yes")
    ]
    return Task("letters", "{text}:", {"no": "no", "yes": "yes indeed"}, examples[:40], examples[40:], "\n")


def run(lm, task, folder, **changes):
    settings = {"k": KS, "seeds": 2, "queries": 10, "group_size": 3, "folder": folder, "progress": False} | changes
    return icl_curve(lm, task, **settings)


@pytest.fixture(scope="module")
def curve(tiny, task, tmp_path_factory):
    return run(tiny, task, tmp_path_factory.mktemp("cells"))


def test_every_point_is_there(curve):
    expected = [(ZERO_SHOT, 0), *[(m, k) for m in ("structured", "sequential") for k in KS[1:]]]
    assert curve.points() == expected
    assert all(curve.correct(m, k).shape == (1 if m == ZERO_SHOT else 2, 10) for m, k in expected)


@pytest.mark.parametrize("k", KS[1:])
@pytest.mark.parametrize("bos", ["none", "group", "shared"])
def test_sequential_points_are_what_one_prompt_each_gives(tiny, task, tmp_path, k, bos):
    curve = run(tiny, task, tmp_path, methods=["sequential"], bos=bos)
    prompts = PromptTokens.of(tiny, task)
    demonstrations = prompts.demonstrations(draw_demonstrations(task.train, k, 2))
    context = encode_groups(tiny, demonstrations, group_size=k, bos=bos, progress=False)
    queries = [prompts.query(task.test[i]) for i in draw_queries(task.test, 10)]
    scores = tiny.score(queries, list(prompts.labels), context=context, own_weight=1)
    cell = next(c for c in curve.cells if (c.k, c.seed) == (k, 2))
    assert np.abs(cell.scores - scores.numpy()).max() < 1e-4


@pytest.mark.parametrize("k", KS[1:])
def test_structured_points_are_what_encoding_each_k_anew_gives(tiny, task, curve, k):
    prompts = PromptTokens.of(tiny, task)
    largest = prompts.demonstrations(draw_demonstrations(task.train, 8, 1))
    end = encode_groups(tiny, largest, group_size=3, progress=False).end if k > 3 else None
    context = encode_groups(tiny, largest[:k], group_size=3, end=end, progress=False)
    assert context.examples == k
    queries = [prompts.query(task.test[i]) for i in draw_queries(task.test, 10)]
    scores = tiny.score(queries, list(prompts.labels), context=context)
    cell = next(c for c in curve.cells if (c.method, c.k, c.seed) == ("structured", k, 1))
    assert np.abs(cell.scores - scores.numpy()).max() < 1e-4
    assert cell.cost.groups == -(-k // 3)


def test_up_to_one_group_both_methods_are_the_same_prompt(curve):
    for left, right in zip(curve._at("structured", 2), curve._at("sequential", 2), strict=True):
        assert np.abs(left.scores - right.scores).max() < 1e-4


def test_a_second_run_scores_nothing(tiny, task, tmp_path, monkeypatch):
    first = run(tiny, task, tmp_path)
    monkeypatch.setattr(scoring, "_score", lambda *_: pytest.fail("scored again"))
    second = run(tiny, task, tmp_path)
    pd.testing.assert_frame_equal(first.to_long_frame(), second.to_long_frame())
    assert first.to_frame().equals(second.to_frame())


def test_ctrl_c_keeps_finished_points_and_the_next_call_continues(tiny, task, tmp_path, monkeypatch):
    undisturbed = run(tiny, task, tmp_path / "a")
    real, calls = scoring._score, []

    def interrupted(*arguments):
        if len(calls) == 7:
            raise KeyboardInterrupt
        calls.append(arguments[1:4])
        return real(*arguments)

    monkeypatch.setattr(scoring, "_score", interrupted)
    with pytest.raises(KeyboardInterrupt) as stopped:
        run(tiny, task, tmp_path / "b")
    assert "7 finished points are kept" in stopped.value.__notes__[0]
    again = []
    monkeypatch.setattr(scoring, "_score", lambda *a: (again.append(a[1:4]), real(*a))[1])
    resumed = run(tiny, task, tmp_path / "b")
    assert not set(calls) & set(again)
    assert len(calls) + len(again) == len(undisturbed.cells)
    left, right = (c.to_long_frame()["log_probability"] for c in (undisturbed, resumed))
    assert np.allclose(left, right, atol=1e-5)


def test_a_damaged_cell_is_scored_again(tiny, task, tmp_path):
    first = run(tiny, task, tmp_path, methods=["structured"])
    damaged = sorted(tmp_path.glob("*.parquet"))
    damaged[0].write_bytes(b"")
    damaged[1].write_bytes(damaged[1].read_bytes()[:100])
    second = run(tiny, task, tmp_path, methods=["structured"])
    assert np.allclose(first.to_long_frame()["log_probability"], second.to_long_frame()["log_probability"], atol=1e-5)


def test_settings_that_change_scores_do_not_share_cells(tiny, task, tmp_path):
    draws = [Draw(balanced=False), Draw(order="sorted"), Draw(corruption=0.5), Draw(flipped=True)]
    draws += [Draw(order="shuffled", order_seed=seed) for seed in (0, 1)]
    others = [{"own_weight": 1}, {"group_size": 2}, {"bos": "shared"}, {"queries": 9}]
    for changes in ({}, *others, *({"draw": draw} for draw in draws)):
        before = len(list(tmp_path.glob("*.parquet")))
        run(tiny, task, tmp_path, methods=["structured"], k=[8], seeds=1, **changes)
        assert len(list(tmp_path.glob("*.parquet"))) == before + 1, changes


@pytest.mark.parametrize("draw", [Draw(order="sorted"), Draw(order="shuffled", order_seed=3), Draw(corruption=0.5)])
def test_a_draw_is_what_its_demonstrations_give(tiny, task, tmp_path, draw):
    """Whether a smaller k is cut from a larger one (wrong labels) or is a draw of its own (another order)."""
    curve = run(tiny, task, tmp_path, methods=["structured"], k=[3, 6], draw=draw)
    prompts = PromptTokens.of(tiny, task)
    queries = [prompts.query(task.test[i]) for i in draw_queries(task.test, 10)]
    for k in (3, 6):
        shown = prompts.demonstrations(draw.demonstrations(task, k, 2))
        context = encode_groups(tiny, shown, group_size=3, bos="none", progress=False)
        scores = tiny.score(queries, list(prompts.labels), context=context)
        cell = next(c for c in curve.cells if (c.k, c.seed) == (k, 2))
        # Six of a nested draw are aligned to the longest of all groups, as here; three alone are one ordinary prompt.
        assert np.abs(cell.scores - scores.numpy()).max() < 1e-4
    assert {name: curve.about[name] for name in draw.settings} == draw.settings


def test_in_domain_texts_are_scored_stored_and_calibrate(curve, tiny, task, tmp_path):
    prompts = PromptTokens.of(tiny, task)
    cell = next(c for c in curve.cells if c.method == ZERO_SHOT)
    assert np.abs(cell.domain - tiny.score(prompts.domain(), list(prompts.labels)).numpy()).max() < 1e-4
    assert curve.calibrations == ("raw", "contextual", "domain", "batch")
    curve.save(tmp_path)
    back = ICLCurve.load(tmp_path)
    for calibration in curve.calibrations:
        assert np.allclose(back.scores("structured", 8, calibration), curve.scores("structured", 8, calibration))
    assert np.allclose(cell.calibrated("domain"), calibrate("contextual", cell.scores, cell.domain))
    without = replace(cell, domain=cell.domain[:0])
    assert without.calibrations == ("raw", "contextual", "batch")
    with pytest.raises(ValueError, match="the inputs that calibration 'domain' needs were not scored"):
        without.calibrated("domain")


def test_cached_groups_are_reused(tiny, task, tmp_path):
    run(tiny, task, tmp_path / "a", cache=GroupCache(tmp_path / "groups"))
    cache = GroupCache(tmp_path / "groups")
    curve = run(tiny, task, tmp_path / "b", cache=cache)
    assert cache.misses == 0
    assert max(cell.cost.group_hits for cell in curve.cells) > 0


def test_sequential_stops_at_the_context_window(tiny, task, tmp_path):
    curve = run(tiny, task, tmp_path, k=[4, 40], seeds=1)
    assert curve.points() == [("structured", 4), ("structured", 40), ("sequential", 4)]
    assert curve.skipped == (("sequential", 40, "the prompt passes the model's 512 positions"),)


def test_nothing_that_fits_is_an_error(tiny, task, tmp_path):
    with pytest.raises(ValueError, match="no point can be run: .*sequential"):
        run(tiny, task, tmp_path, k=[40], seeds=1, methods=["sequential"])


def test_labels_may_have_any_name(tiny, tmp_path):
    examples = [Example({"text": str(i)}, ("query", "gold")[i % 2]) for i in range(12)]
    odd = Task("odd", "{text}", {"query": "query", "gold": "gold"}, examples[:6], examples[6:], "\n")
    curve = run(tiny, odd, tmp_path, k=[0, 2], queries=6, seeds=1)
    curve.save(tmp_path / "out")
    pd.testing.assert_frame_equal(ICLCurve.load(tmp_path / "out").to_frame(), curve.to_frame())


def test_an_upgrade_scores_anew(tiny, task, tmp_path, monkeypatch):
    run(tiny, task, tmp_path, k=[0])
    monkeypatch.setattr(experiment, "_versions", lambda: ["other"])
    run(tiny, task, tmp_path, k=[0])
    assert len(list(tmp_path.glob("*.parquet"))) == 2


def test_saving_and_loading(curve, tmp_path):
    paths = curve.save(tmp_path)
    assert sorted(paths) == ["curve.png", "curve.svg", "manifest.json", "results.parquet", "summary.parquet"]
    assert all(path.stat().st_size > 0 for path in paths.values())
    loaded = ICLCurve.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.to_frame(), curve.to_frame())
    manifest = json.loads(paths["manifest.json"].read_text())
    assert manifest["about"]["model"].endswith("/float32")
    assert {"torch", "transformers", "lmops-lab"} <= set(manifest["versions"])
    with pytest.raises(FileNotFoundError, match="holds no saved curve"):
        ICLCurve.load(tmp_path / "nowhere")


def test_frame_and_differences(curve):
    frame = curve.to_frame()
    assert len(frame) == 4 * len(curve.points())
    assert (frame.low <= frame.accuracy).all()
    assert (frame.accuracy <= frame.high).all()
    row = frame[(frame.method == "structured") & (frame.k == 8) & (frame.calibration == "batch")].iloc[0]
    difference = curve.difference(("structured", 8), (ZERO_SHOT, 0), "batch")
    assert difference.mean == pytest.approx(row.accuracy - curve.accuracy(ZERO_SHOT, 0, "batch").mean)
    for (method, k), together in zip(curve.points(), curve.correct_at(curve.points(), "batch"), strict=True):
        alone = curve.correct(method, k, "batch")
        assert np.array_equal(alone, together)
        row = frame[(frame.method == method) & (frame.k == k) & (frame.calibration == "batch")].iloc[0]
        assert (row.accuracy, row.low, row.high) == pytest.approx(accuracy(alone), abs=1e-12)
    assert 0.4 <= curve.majority <= 1
    with pytest.raises(ValueError, match="has no point 'structured' at k = 99"):
        curve.accuracy("structured", 99)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["magic"]}, r"methods \['magic'\]: .*choose among structured, windows"),
        ({"methods": []}, "none given"),
        ({"k": []}, "give one or more whole numbers"),
        ({"k": [-1]}, r"k is \[-1\]"),
        ({"k": [41]}, r"k = 41 balanced demonstrations, but label 'no' has only 20"),
        ({"seeds": 0}, r"seeds are \[\]"),
        ({"seeds": [1, 1]}, "each once"),
        ({"queries": 0}, "queries = 0, but the task has 40"),
        ({"queries": 99}, "queries = 99"),
        ({"group_size": 0}, "group_size is 0"),
        ({"group_size": 40, "k": [40]}, r"group 0 of seed 1 has \d+ tokens, but the model has 512 positions"),
        ({"own_weight": -1}, "own_weight is -1"),
        ({"bos": "two"}, "bos is 'two'"),
    ],
)
def test_bad_input_is_refused_before_any_work(tiny, task, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(scoring, "_score", lambda *_: pytest.fail("slow work began"))
    monkeypatch.setattr(scoring, "_encode", lambda *_: pytest.fail("slow work began"))
    with pytest.raises(ValueError, match=message):
        run(tiny, task, tmp_path, **changes)


def test_figure_names_every_line_and_keeps_a_place_for_zero(curve):
    figure = curve.plot("batch")
    axes = figure.axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert {"structured", "sequential", "zero-shot", "most frequent label"} <= set(texts)
    ticks = dict(zip([t.get_text() for t in axes.get_xticklabels()], axes.get_xticks(), strict=True))
    assert list(ticks) == ["0", "2", "4", "7", "8"]
    assert ticks["0"] < ticks["2"]
    assert "95 % intervals" in texts[-1]


def test_curve_of_one_embedded_task_with_the_embedded_model(embedded, tmp_path):
    """The real model learns from context: on the shipped questions, 48 demonstrations beat none by far."""
    curve = icl_curve(
        embedded, load_task("questions"), k=[0, 48], methods=["structured"], seeds=1, queries=60, folder=tmp_path,
        progress=False,
    )  # fmt: skip
    assert curve.difference(("structured", 48), (ZERO_SHOT, 0), "batch").mean > 0.1
