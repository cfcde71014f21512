"""Open questions over numbers of demonstrations, on a tiny model: shared encodings say what separate ones say."""

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from lmops_lab import encode_groups
from lmops_lab.icl import open_curve as module
from lmops_lab.icl.answers import first_line
from lmops_lab.icl.curve import ZERO_SHOT
from lmops_lab.icl.demonstrations import draw_demonstrations, draw_queries
from lmops_lab.icl.open_curve import METRICS, OpenCurve, open_curve
from lmops_lab.icl.prompts import PromptTokens
from lmops_lab.icl.statistics import crossed_difference, paired_difference
from lmops_lab.icl.tasks import GENERATION, Example, Task


@pytest.fixture(scope="module")
def task():
    names = ["ann", "bob", "cid"]
    examples = [Example({"text": f"who {i}"}, names[i % 3], answers=(names[i % 3], "x y")) for i in range(20)]
    return Task("open", "{text}?", {}, examples[:12], examples[12:], "\n", kind=GENERATION)


def run(lm, task, folder, **changes):
    settings = {"k": [0, 2, 4], "seeds": [1, 2], "queries": 4, "group_size": 2, "max_new_tokens": 5} | changes
    return open_curve(lm, task, **settings, folder=folder, progress=False)


def test_answers_are_those_behind_each_k_s_own_context(tiny, task, tmp_path, monkeypatch):
    curve = run(tiny, task, tmp_path)
    assert curve.points() == [(ZERO_SHOT, 0), *[(m, k) for m in ("structured", "sequential") for k in (2, 4)]]
    prompts = PromptTokens.of(tiny, task, GENERATION)
    texts = [task.query(task.test[i].fields) for i in draw_queries(task.test, 4)]
    shown = prompts.demonstrations(draw_demonstrations(task.train, 4, 2, balanced=False))
    for method, size, weight in (("structured", 2, "groups"), ("sequential", 4, 1)):
        context = encode_groups(tiny, shown, group_size=size, progress=False)
        alone = [tiny.generate(text, context=context, own_weight=weight, max_new_tokens=5) for text in texts]
        assert curve.predictions[method, 4, 2] == tuple(map(first_line, alone))
    monkeypatch.setattr(module, "_generate", lambda *_: pytest.fail("asked again"))
    assert run(tiny, task, tmp_path).predictions == curve.predictions
    next(iter(tmp_path.glob("*.json"))).write_text("{")
    monkeypatch.undo()
    assert run(tiny, task, tmp_path).predictions == curve.predictions
    with pytest.raises(ValueError, match="task 'labels' is of kind 'classification': icl_curve and sweeps take"):
        run(tiny, _labelled(), tmp_path)


def _labelled():
    examples = [Example({"text": str(i)}, "ab"[i % 2]) for i in range(20)]
    return Task("labels", "{text}:", {"a": "a", "b": "b"}, examples[:10], examples[10:], "\n")


def test_what_is_read_from_the_answers():
    said = {("structured", 4, 1): ("Ann", "b c"), ("structured", 4, 2): ("ann!", "no"), (ZERO_SHOT, 0, 0): ("", "c b")}
    curve = OpenCurve(said, (("ann",), ("b c d", "zz")), {})
    assert curve.scores("structured", 4).tolist() == [[1, 0], [1, 0]]
    assert curve.scores("structured", 4, "f1") == pytest.approx(np.array([[1, 0.8], [1, 0]]))
    frame = curve.to_frame().set_index(["method", "k", "metric"])
    assert frame.loc[("structured", 4, "exact"), "mean"] == 0.5
    assert frame.loc[("structured", 4, "f1"), "mean"] == pytest.approx(0.7)
    assert (frame.low <= frame["mean"]).all()
    gap = curve.difference(("structured", 4), (ZERO_SHOT, 0), "f1")
    assert gap.mean == pytest.approx(0.7 - 0.4)
    with pytest.raises(ValueError, match=r"there is no 'bleu' at 'structured', k = 4"):
        curve.scores("structured", 4, "bleu")


def answered(words, seeds=(1, 2, 3), questions=20, point=("structured", 4)):
    """An open curve's predictions: the same words of a seed for every question."""
    return {(*point, seed): (word,) * questions for seed, word in zip(seeds, words, strict=True)}


def test_answers_that_are_all_alike_are_not_certainty():
    wrong = OpenCurve(answered(["no"] * 3) | answered(["no"], [0], point=(ZERO_SHOT, 0)), (("ann bob",),) * 20, {})
    for metric in METRICS:
        gap = wrong.difference(("structured", 4), (ZERO_SHOT, 0), metric)
        assert gap.mean == 0
        assert gap.low < -0.05
        assert gap.high > 0.05
    frame = wrong.to_frame()
    assert (frame["mean"] == 0).all()
    assert frame.high.to_numpy() == pytest.approx(proportion_confint(0, 20, method="wilson")[1])
    half = OpenCurve(answered(["ann"] * 3), (("ann bob cid",),) * 20, {}).to_frame().set_index("metric").loc["f1"]
    assert (half["mean"], half.low < 0.4, half.high > 0.6) == (pytest.approx(0.5), True, True)


def test_differences_are_those_of_curves_and_paired_by_seed():
    rng = np.random.default_rng(0)
    said = {("structured", 4, seed): tuple(rng.choice(["ann", "ann x", "no"], 20)) for seed in (1, 2, 3)}
    said |= {("sequential", 4, seed): tuple(rng.choice(["ann", "ann x", "no"], 20)) for seed in (1, 3)}
    curve = OpenCurve(said | answered(["no"], [0], point=(ZERO_SHOT, 0)), (("ann",),) * 20, {})
    left, right = (curve.scores(method, 4) > 0 for method in ("structured", "sequential"))
    assert curve.difference(("structured", 4), ("sequential", 4)) == paired_difference(left[[0, 2]], right)
    found = curve.difference(("structured", 4), ("sequential", 4), "f1")
    gap = curve.scores("structured", 4, "f1")[[0, 2]] - curve.scores("sequential", 4, "f1")
    assert found.mean == pytest.approx(gap.mean())
    chance = crossed_difference(gap)
    bounds = chance.mean + np.array([-1, 1]) * chance.half_width()
    assert (found.low, found.high) == pytest.approx(np.clip(bounds, -1, 1))
    every = curve.difference(("structured", 4), (ZERO_SHOT, 0))
    assert every == paired_difference(left, curve.scores(ZERO_SHOT, 0) > 0)
    alone = OpenCurve({at: words for at, words in said.items() if at != ("sequential", 4, 1)}, curve.aliases, {})
    assert alone.difference(("structured", 4), ("sequential", 4)) == paired_difference(left[[2]], right[[1]])
    apart = OpenCurve(answered(["no"], [1]) | answered(["no"], [2], point=("sequential", 4)), curve.aliases, {})
    with pytest.raises(ValueError, match=r"cannot pair seeds \[1\] with seeds \[2\]"):
        apart.difference(("structured", 4), ("sequential", 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["windows"]}, "answers are generated by 'structured' and 'sequential' alone"),
        ({"k": [13]}, "k = 13 demonstrations"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; an answer has 1 or more"),
        ({"max_new_tokens": 600}, "alone passes the model's 512 positions"),
    ],
)
def test_bad_input_is_refused_before_any_work(tiny, task, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(module, "_generate", lambda *_: pytest.fail("slow work began"))
    with pytest.raises(ValueError, match=message):
        run(tiny, task, tmp_path, **changes)
