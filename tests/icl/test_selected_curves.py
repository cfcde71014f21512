"""Curves whose queries choose their demonstrations: every shortcut equals scoring each query alone with its own."""

import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lmops_lab import encode_groups, icl_curve
from lmops_lab.icl import retrieval, scoring
from lmops_lab.icl.curve import ZERO_SHOT
from lmops_lab.icl.demonstrations import draw_demonstrations, draw_queries
from lmops_lab.icl.draws import Draw
from lmops_lab.icl.estimate import estimate
from lmops_lab.icl.exploring import inspect_point
from lmops_lab.icl.prompts import PromptTokens
from lmops_lab.icl.query import query
from lmops_lab.icl.selection import (
    bm25_similarity,
    cosine_similarity,
    mean_hidden_states,
    nearest_examples,
    nearest_groups,
    tail_queries,
)
from lmops_lab.icl.selections import Selection
from lmops_lab.icl.sweep import plan_sweep, run_sweep
from lmops_lab.icl.tasks import Example, Task

CANDIDATES, QUERIES = 12, 5


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    words = ["ant", "bee", "cat", "dog", "eel"]
    examples = [Example({"text": " ".join(rng.choice(words, 2))}, label) for _ in range(30) for label in ("no", "yes")]
    return Task("words", "{text}:", {"no": "no", "yes": "yes indeed"}, examples[:40], examples[40:], "\n")


def run(lm, task, folder, selection, **changes):
    settings = {"k": [2, 4], "seeds": [2], "queries": QUERIES, "group_size": 2, "domain": 2} | changes
    return icl_curve(lm, task, **settings, selection=selection, folder=folder, progress=False)


def cell_of(curve, method, k):
    return next(cell for cell in curve.cells if (cell.method, cell.k) == (method, k))


def everything(lm, task, measure):
    """Prompts, candidates, what is asked (queries, then inputs without content and in-domain texts), similarities."""
    prompts = PromptTokens.of(lm, task)
    pool = draw_demonstrations(task.train, CANDIDATES, 2)
    asked = [task.query(task.test[i].fields) for i in draw_queries(task.test, QUERIES)]
    asked += [*prompts.content_free_texts(), *prompts.domain_texts(2)]
    texts = [task.query(example.fields) for example in pool]
    if measure == "bm25":
        return prompts, pool, asked, bm25_similarity(asked, texts)
    left, right = (mean_hidden_states(lm, some, progress=False) for some in (asked, texts))
    return prompts, pool, asked, cosine_similarity(left, right)


@pytest.mark.parametrize("measure", ["bm25", "embedding"])
def test_selected_points_are_what_each_query_alone_with_its_own_demonstrations_gives(tiny, task, tmp_path, measure):
    curve = run(tiny, task, tmp_path, Selection(measure, candidates=CANDIDATES))
    prompts, pool, asked, similarity = everything(tiny, task, measure)
    for method, k, size in (("structured", 4, 2), ("sequential", 4, 4), ("sequential", 2, 2)):
        cell, tokens = cell_of(curve, method, k), []
        found = np.concatenate([cell.scores, cell.content_free, cell.domain])
        assert len(found) == len(asked)
        for row, choice in enumerate(nearest_examples(similarity, k).tolist()):
            shown = prompts.demonstrations([pool[i] for i in choice])
            context = encode_groups(tiny, shown, group_size=size, progress=False)
            alone = tiny.score([tiny.tokens(asked[row])], list(prompts.labels), context=context)
            assert found[row] == pytest.approx(alone[0].numpy(), abs=1e-4)
            tokens.append(context.tokens)
        assert cell.cost.context_tokens == round(np.mean(tokens))
        assert cell.cost.groups == k // size
        assert cell.cost.encode_s > 0
    assert curve.about["selection"] == measure


@pytest.mark.parametrize("measure", ["bm25", "embedding"])
def test_group_retrieval_is_a_subset_of_the_cached_groups(tiny, task, tmp_path, measure, monkeypatch):
    real, encoded = scoring._encode, []
    monkeypatch.setattr(scoring, "_encode", lambda *a: (encoded.append(len(a[2])), real(*a))[1])
    way = Selection("groups", candidates=CANDIDATES, similarity=measure)
    curve = run(tiny, task, tmp_path, way, methods=["structured", "windows"])
    assert encoded == [6]  # once, for both methods, both k and all queries
    prompts, pool, asked, similarity = everything(tiny, task, measure)
    context = encode_groups(tiny, prompts.demonstrations(pool), group_size=2, progress=False)
    chosen = nearest_groups(similarity, [[2 * i, 2 * i + 1] for i in range(6)], 2)
    assert len(set(map(tuple, chosen.tolist()))) > 1
    for method in ("structured", "windows"):
        cell = cell_of(curve, method, 4)
        found = np.concatenate([cell.scores, cell.content_free, cell.domain])
        for row, groups in enumerate(chosen.tolist()):
            rows = [tiny.tokens(asked[row])]
            alone = tiny.score(rows, list(prompts.labels), context=context.subset(groups), method=method)
            assert found[row] == pytest.approx(alone[0].numpy(), abs=1e-4)


def test_similar_ones_next_to_the_query_and_cached_ones_before_them(tiny, task, tmp_path):
    way = Selection("mixed", candidates=CANDIDATES, tail=2)
    curve = run(tiny, task, tmp_path, way, k=[0, 4, 6])
    prompts, pool, _, similarity = everything(tiny, task, "bm25")
    examples = [task.test[i] for i in draw_queries(task.test, QUERIES)]
    for method, k, size in (("structured", 4, 2), ("structured", 6, 2), ("sequential", 6, 4)):
        cached = prompts.demonstrations(pool[: k - 2])
        end = encode_groups(tiny, prompts.demonstrations(pool[:4]), group_size=2, progress=False).end
        context = encode_groups(
            tiny, cached, group_size=size, end=end if method == "structured" and k > 4 else None, progress=False
        )
        chosen = nearest_examples(similarity, 2, exclude=range(k - 2))
        rows = tail_queries(prompts, examples, pool, chosen[:QUERIES])
        scores = tiny.score(rows, list(prompts.labels), context=context, own_weight=1 if size > 2 else "groups")
        cell = cell_of(curve, method, k)
        assert np.abs(cell.scores - scores.numpy()).max() < 1e-4
        assert cell.cost.context_tokens > context.tokens  # what travels with the query is seen, too
    shown = inspect_point(curve, "structured", 6, "raw", task)["demonstrations"][0]
    assert (shown["of"], len(shown["texts"])) == (4, 4)
    assert inspect_point(run(tiny, task, tmp_path, Selection("bm25", 12)), "structured", 4, "raw", task)[
        "demonstrations"
    ] == []  # fmt: skip


@pytest.mark.parametrize(
    ("selection", "changes", "message"),
    [
        (Selection("bm25"), {"k": [0]}, r"k is \[0\], so selection 'bm25' has nothing to choose"),
        (Selection("bm25", 3), {}, "k is 4 of 3 candidates"),
        (Selection("bm25", 99), {}, "candidates is 99: k = 99 balanced demonstrations"),
        (Selection("bm25", 8), {"draw": Draw(order="sorted")}, "order 'sorted' cannot, too"),
        (Selection("bm25", 8), {"pool_groups": 4, "methods": ["structured"]}, "pool_groups 4 cannot, too"),
        (Selection("groups", 8), {}, "'sequential' has none"),
        (Selection("groups", 7), {"methods": ["structured"]}, r"whole groups of 2, but k or candidates is \[7\]"),
        (Selection("groups", 8), {"methods": ["structured"], "k": [3]}, r"whole groups of 2, but .* \[3\]"),
        (Selection("mixed", 8), {}, r"k is \[2, 4\], of which selection 'mixed' puts 4 next to the query"),
        (Selection("bm25", 40), {"k": [40], "methods": ["sequential"]}, "no point can be run: .*sequential"),
        (Selection("bm25", 40), {"k": [40], "group_size": 40}, r"group 0 of seed 2 has \d+ tokens"),
        (Selection("mixed", 40, tail=38), {"k": [40]}, r"group 0 of seed 2 has \d+ tokens"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(tiny, task, tmp_path, monkeypatch, selection, changes, message):
    for module, name in ((scoring, "_score"), (scoring, "_encode"), (retrieval, "mean_hidden_states")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("slow work began"))
    with pytest.raises(ValueError, match=message):
        run(tiny, task, tmp_path, selection, **changes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"way": "bm52"}, "selection is 'bm52'; choose among none, bm25"),
        ({"way": "groups", "similarity": "cosine"}, "similarity is 'cosine'"),
        ({"way": "bm25", "candidates": 0}, "candidates is 0"),
        ({"way": "mixed", "tail": 0}, "tail is 0"),
    ],
)
def test_impossible_selections(settings, message):
    with pytest.raises(ValueError, match=message):
        Selection(**settings)


def test_settings_that_have_no_bearing_do_not_part_equal_work():
    assert Selection("bm25", tail=7) != Selection("bm25")
    assert Selection("bm25", tail=7, similarity="embedding").settings == Selection("bm25").settings
    assert Selection(candidates=7).settings == {"selection": "none"}
    assert len({str(Selection(way).settings) for way in ("none", "bm25", "embedding", "groups", "mixed")}) == 5


def test_a_stopped_run_goes_on_to_the_same_numbers(tiny, task, tmp_path, monkeypatch):
    way = Selection("mixed", candidates=CANDIDATES, tail=1)
    whole = run(tiny, task, tmp_path / "a", way)
    real, calls = scoring._score, []

    def interrupted(*arguments):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(arguments[1:4])
        return real(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(scoring, "_score", interrupted)
        run(tiny, task, tmp_path / "b", way)
    resumed = run(tiny, task, tmp_path / "b", way)
    pd.testing.assert_frame_equal(resumed.to_long_frame(), whole.to_long_frame())
    monkeypatch.setattr(scoring, "_score", lambda *_: pytest.fail("scored again"))
    run(tiny, task, tmp_path / "b", way)
    count = len(list((tmp_path / "b").glob("*.parquet")))
    for other in (Selection("mixed", 11, tail=1), Selection("mixed", CANDIDATES, "embedding", tail=1)):
        monkeypatch.undo()
        run(tiny, task, tmp_path / "b", other, k=[2], methods=["sequential"])
        count += 1
        assert len(list((tmp_path / "b").glob("*.parquet"))) == count


def test_a_sweep_over_selections(tiny, task, tmp_path):
    ways = {"selection": ["none", "bm25", "mixed"], "candidates": [CANDIDATES], "tail": [1]}
    grid = {"model": tiny.name, "task": "words", "k": [0, 2, 4], "seed": [2], "group_size": 2, "queries": QUERIES}
    grid |= {"dtype": "float32", "domain": 0, **ways}
    tasks = {"words": task}
    plan = plan_sweep(_grid(grid), tasks)
    assert pickle.loads(pickle.dumps(plan.works)) == plan.works  # as a worker gets and compares them
    said = estimate(plan, tmp_path)
    assert said.cells == said.missing == 1 + 3 * 2 * 2
    assert said.rows == said.cells * 3  # no in-domain texts, no domain-context calibration
    sweep = run_sweep(grid, tmp_path, tasks=tasks, progress=False)
    table = sweep.table()
    assert sorted(table.calibration.unique()) == ["batch", "contextual", "raw"]
    assert table.groupby("selection").cell.nunique().to_dict() == {"bm25": 4, "mixed": 4, "none": 4}
    kept = sweep.curve(selection="mixed")
    assert kept.points()[0] == (ZERO_SHOT, 0)
    way = Selection("mixed", candidates=CANDIDATES, tail=1)
    curve = run(tiny, task, tmp_path / "c", way, k=[0, 2, 4], domain=0)
    left, right = (c.to_long_frame() for c in (kept, curve))
    assert np.allclose(left.log_probability, right.log_probability, atol=1e-5)
    sql = "select selection, similarity, candidates, tail, count(*) as n from cells group by all order by all"
    found = query(sql, [tmp_path / "cells"])
    rows = [[None if pd.isna(value) else value for value in row] for row in found.to_numpy().tolist()]
    assert ["bm25", "bm25", CANDIDATES, None, 4] in rows
    assert ["mixed", "bm25", CANDIDATES, 1, 4] in rows
    assert ["none", None, None, None, 4] in rows
    scores = query("select * from scores where selection = 'bm25' and query = -2", [tmp_path / "cells"])
    assert scores.empty


def _grid(values):
    from lmops_lab.icl.grid import Grid

    return Grid.of(values)


def test_the_number_of_in_domain_texts(tiny, task, tmp_path):
    usual = run(tiny, task, tmp_path, Selection(), domain=20)
    none = run(tiny, task, tmp_path, Selection(), domain=0)
    assert {len(cell.domain) for cell in usual.cells} == {20}
    assert {len(cell.domain) for cell in none.cells} == {0}
    assert "domain" in usual.calibrations
    assert none.calibrations == ("raw", "contextual", "batch")
    assert len(list(tmp_path.glob("*.parquet"))) == 8  # cells of both kinds do not stand for each other
    with pytest.raises(ValueError, match="the inputs that calibration 'domain' needs were not scored"):
        none.accuracy("structured", 4, "domain")
    with pytest.raises(ValueError, match="domain is -1"):
        run(tiny, task, tmp_path, Selection(), domain=-1)
    for name in ("scores", "content_free"):
        left, right = (getattr(cell_of(c, "structured", 4), name) for c in (usual, none))
        assert np.allclose(left, right, atol=1e-4)


def test_the_cost_that_a_nested_curve_saves(tiny, task, tmp_path):
    curve = run(tiny, task, tmp_path, Selection(), k=[0, 1, 2, 4, 7], seeds=[1, 2], group_size=2)
    prompts = PromptTokens.of(tiny, task)
    long = {seed: [len(r) for r in prompts.demonstrations(draw_demonstrations(task.train, 7, seed))] for seed in (1, 2)}
    anew = sum(sum(rows[:k]) for rows in long.values() for k in (1, 2, 4, 7))
    prompt = sum(map(sum, long.values()))
    groups = prompt + sum(sum(rows[:2]) for rows in long.values())  # up to one group: a prompt of its own
    assert curve.about["tokens"] == {
        "groups": {"points": 8, "encoded": groups, "anew": anew},
        "prompt": {"points": 8, "encoded": prompt, "anew": anew},
    }
    words = curve.cost_saved()
    assert f"8 points, each encoded anew: {anew:>12,} tokens" in words
    assert f"together {groups + prompt:,} instead of {2 * anew:,} tokens" in words
    assert f"{2 * anew / (groups + prompt):.1f} times fewer" in words
    # What the counts call encoded is what went through the model.
    spent = sum(c.cost.context_tokens for c in curve.cells if (c.method, c.k) == ("sequential", 7))
    assert spent == prompt
    selected = run(tiny, task, tmp_path, Selection("bm25", CANDIDATES))
    assert "nothing saved" in selected.cost_saved()
    assert "together" not in selected.cost_saved()
    with pytest.raises(ValueError, match=r"this curve does not know what was encoded for it"):
        replace(curve, about={}).cost_saved()
    assert run(tiny, task, tmp_path, Selection(), k=[0]).cost_saved() == "Without demonstrations nothing is encoded."
