"""Curves and sweeps of multiple-choice tasks store what `score_choices` gives; open questions say where to go."""

import numpy as np
import pandas as pd
import pytest

from lmops_lab import encode_groups, icl_curve
from lmops_lab.icl import scoring
from lmops_lab.icl.choices import score_choices
from lmops_lab.icl.curve import ZERO_SHOT, ICLCurve
from lmops_lab.icl.demonstrations import draw_queries
from lmops_lab.icl.draws import Draw
from lmops_lab.icl.estimate import estimate
from lmops_lab.icl.grid import Grid
from lmops_lab.icl.prompts import PromptTokens
from lmops_lab.icl.query import query
from lmops_lab.icl.reading import reading
from lmops_lab.icl.selections import Selection
from lmops_lab.icl.sweep import plan_sweep, run_sweep
from lmops_lab.icl.tasks import GENERATION, MULTIPLE_CHOICE, Example, Task

QUERIES = 5


def questions(count):
    rng = np.random.default_rng(0)
    words = ["ant", "bee", "a cat", "dogs", "eel"]
    for number in range(count):
        choices = tuple(rng.permutation(words)[: 2 + number % 2])
        yield Example({"text": f"item {number}"}, str(rng.integers(len(choices))), choices=choices)


@pytest.fixture(scope="module")
def task():
    examples = list(questions(30))
    return Task("animals", "{text}:", {}, examples[:20], examples[20:], "\n", kind=MULTIPLE_CHOICE)


@pytest.fixture(scope="module")
def own_prompts():
    """As WinoGrande: each choice has a prompt of its own, and the same text follows."""
    examples = list(questions(30))
    how = {"kind": MULTIPLE_CHOICE, "continuation": "of {text}"}
    return Task("gaps", "see {choice}", {}, examples[:20], examples[20:], "\n", **how)


def run(lm, task, folder, **changes):
    settings = {"k": [0, 2, 4], "seeds": [2], "queries": QUERIES, "group_size": 2} | changes
    return icl_curve(lm, task, **settings, folder=folder, progress=False)


@pytest.fixture(scope="module")
def curve(tiny, task, tmp_path_factory):
    return run(tiny, task, tmp_path_factory.mktemp("cells"))


@pytest.mark.parametrize("kind", ["task", "own_prompts"])
def test_points_are_what_scoring_the_choices_gives(tiny, kind, request, tmp_path):
    task = request.getfixturevalue(kind)
    curve = run(tiny, task, tmp_path)
    asked = [task.test[i] for i in draw_queries(task.test, QUERIES)]
    prompts = PromptTokens.of(tiny, task, MULTIPLE_CHOICE)
    shown = prompts.demonstrations(Draw().demonstrations(task, 4, 2))
    context = encode_groups(tiny, shown, group_size=2, progress=False)
    expected = score_choices(tiny, task, asked, context=context, progress=False)
    assert np.isnan(expected.scores).any()  # questions have different numbers of choices
    for calibration, length in (("raw", "sum"), ("mean", "mean"), ("characters", "characters"), ("pmi", "pmi")):
        found = curve.scores("structured", 4, calibration)[0]
        assert found == pytest.approx(expected.read(length), abs=1e-4)
        assert np.array_equal(curve.correct("structured", 4, calibration)[0], expected.correct(length))
    alone = score_choices(tiny, task, asked, progress=False)
    assert curve.scores(ZERO_SHOT, 0)[0] == pytest.approx(alone.read("sum"), abs=1e-4)
    assert curve.calibrations == ("raw", "mean", "characters", "pmi")
    assert curve.labels == ("0", "1", "2")
    assert np.array_equal(curve.gold, expected.gold)


def test_it_is_saved_drawn_read_and_continued(curve, tiny, task, tmp_path):
    paths = curve.save(tmp_path)
    back = ICLCurve.load(tmp_path)
    for calibration in curve.calibrations:
        assert np.array_equal(back.scores("structured", 4, calibration), curve.scores("structured", 4, calibration))
    pd.testing.assert_frame_equal(back.to_frame(), curve.to_frame())
    assert paths["curve.png"].stat().st_size > 0
    assert "Without demonstrations" in reading(curve)
    again = run(tiny, task, tmp_path / "cells")
    for first, second in zip(again.cells, run(tiny, task, tmp_path / "cells").cells, strict=True):
        for part in ("scores", "unconditional", "tokens", "characters"):
            assert np.array_equal(getattr(first, part), getattr(second, part), equal_nan=True)
    with pytest.raises(ValueError, match="calibration 'batch' needs fixed labels; multiple choice has raw, mean"):
        curve.accuracy("structured", 4, "batch")


def test_choices_of_each_query_s_own_demonstrations(tiny, task, tmp_path):
    curve = run(tiny, task, tmp_path, k=[2], methods=["sequential"], selection=Selection("bm25", candidates=10))
    prompts = PromptTokens.of(tiny, task, MULTIPLE_CHOICE)
    from lmops_lab.icl.selection import bm25_similarity, nearest_examples

    pool = Draw().demonstrations(task, 10, 2)
    asked = [task.test[i] for i in draw_queries(task.test, QUERIES)]
    texts = [[task.query(example.fields) for example in some] for some in (asked, pool)]
    for row, choice in enumerate(nearest_examples(bm25_similarity(*texts), 2).tolist()):
        context = encode_groups(tiny, prompts.demonstrations([pool[i] for i in choice]), group_size=2, progress=False)
        expected = score_choices(tiny, task, [asked[row]], context=context, progress=False).read()[0]
        count = len(expected)
        assert curve.scores("sequential", 2)[0, row, :count] == pytest.approx(expected, abs=1e-4)


def test_a_sweep_of_choices(curve, tiny, task, tmp_path):
    grid = {"model": tiny.name, "task": "animals", "k": [0, 2, 4], "seed": [2], "group_size": 2, "queries": QUERIES}
    grid |= {"dtype": "float32"}
    tasks = {"animals": task}
    sweep = run_sweep(grid, tmp_path, tasks=tasks, progress=False)
    table = sweep.table()
    assert set(table.calibration) == {"raw", "mean", "characters", "pmi"}
    assert len(table) == 4 * 5
    assert estimate(plan_sweep(sweep.grid, tasks), tmp_path / "new").rows == 4 * 5
    pmi = sweep.curve().accuracy("structured", 4, "pmi")
    assert pmi == curve.accuracy("structured", 4, "pmi")
    found = query("select count(*) as n from scores where query >= 0 and gold = label", [tmp_path / "cells"])
    assert found.n[0] == 5 * QUERIES
    assert query("select min(query) as least from scores", [tmp_path / "cells"]).least[0] == -3
    sql = "select avg(correct::int) as right from answers where calibration = 'mean' and method = 'zero-shot'"
    assert query(sql, [tmp_path / "cells"]).right[0] == curve.accuracy(ZERO_SHOT, 0, "mean").mean
    with pytest.raises(ValueError, match="'animals' is of kind 'multiple-choice'; it has calibration raw, mean"):
        run_sweep({**grid, "calibration": ["batch"]}, tmp_path / "other", tasks=tasks)


@pytest.mark.parametrize("kind", ["task", "own_prompts"])
def test_votes_over_fixed_labels_are_refused_before_any_work(tiny, kind, request, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "_encode", lambda *_: pytest.fail("slow work began"))
    task = request.getfixturevalue(kind)
    refused = rf"task '{task.name}' is of kind 'multiple-choice', but 'ensemble' lets groups vote .* \(nbce, ensemble\)"
    with pytest.raises(ValueError, match=refused):
        run(tiny, task, tmp_path, methods=["nbce", "ensemble"])
    grid = {"model": tiny.name, "task": "it", "k": [2], "seed": [2], "group_size": 2, "queries": QUERIES}
    with pytest.raises(ValueError, match="'ensemble' lets groups vote"):
        plan_sweep(Grid.of({**grid, "method": ["ensemble"], "dtype": "float32"}), {"it": task})


@pytest.mark.parametrize("kind", ["task", "own_prompts"])
def test_nbce_scores_a_choice_whatever_stands_beside_it(tiny, kind, request, tmp_path):
    """Its log-probabilities are normalised over the vocabulary, so they can be read per token and per character."""
    task = request.getfixturevalue(kind)
    curve = run(tiny, task, tmp_path, k=[4], methods=["nbce"])
    prompts = PromptTokens.of(tiny, task, MULTIPLE_CHOICE)
    shown = prompts.demonstrations(Draw().demonstrations(task, 4, 2))
    context = encode_groups(tiny, shown, group_size=2, progress=False)
    other = tiny.tokens(" zebra")
    for row, place in enumerate(draw_queries(task.test, QUERIES)):
        question = task.test[place]
        for choice in range(len(question.choices)):
            answer = list(prompts.answer(question, choice))
            asked = prompts.query(question, choice)
            score = tiny.score([asked], [answer, other], context=context, method="nbce")[0, 0]
            assert curve.cells[0].scores[row, choice] == pytest.approx(float(score), abs=1e-4)


def test_open_questions_say_what_to_use_instead(tiny, tmp_path):
    examples = [Example({"text": f"who {i}"}, "ann", answers=("ann",)) for i in range(20)]
    task = Task("open", "{text}?", {}, examples[:10], examples[10:], "\n", kind=GENERATION)
    with pytest.raises(ValueError, match=r"task 'open' is of kind 'generation': .* open_curve\(lm, task\) of"):
        run(tiny, task, tmp_path)
