import numpy as np
import pytest

from lmops_lab.rewriting.evaluation import USER, evaluate_rewriters, paired_bootstrap, pareto
from lmops_lab.rewriting.hacking import ablate, artists, hacking_report, salad
from lmops_lab.rewriting.search import FixedSuffix
from tests.rewriting.pictures import PaintGenerator, rabbit_relevance, red

PROMPTS = {"in": ["a rabbit", "a cat", "a big dog"], "out": ["a ship", "a red rabbit"]}
REWARDS = {
    "relevance": rabbit_relevance,
    "aesthetic": red,
    "held out": lambda images, prompts: [-score for score in red(images, prompts)],
    "always content": lambda images, _: [1.0] * len(images),
}


@pytest.fixture(scope="module")
def evaluation():
    rivals = {
        "suffix": FixedSuffix(("sharp focus", "8k")),
        "forgetful": lambda texts: ["a very fine picture of nothing"] * len(texts),
        "engineered": ["a rabbit, 8k", "a cat, 8k", "a big dog, 8k", "a ship, 8k", "a red rabbit, 8k"],
    }
    return evaluate_rewriters(PROMPTS, rivals, PaintGenerator(), REWARDS, seeds=(0, 1, 2), steps=3)


def test_the_table_by_hand(evaluation):
    table = evaluation.table()
    assert list(table.index.get_level_values("method").unique()) == [USER, "suffix", "forgetful", "engineered"]
    # Aesthetics are words (plus seed / 100): the suffix adds three words, relevance stays at .3.
    row = table.loc[("in", "suffix")]
    assert row["aesthetic"] == pytest.approx((5 + 5 + 6) / 3 + 0.01)
    assert row["relevance"] == pytest.approx(0.3)
    assert row["reward"] == pytest.approx(3.0)
    assert (row["gain"], row["gain low"], row["gain high"]) == pytest.approx((3, 3, 3))
    assert row["wins"] == 1.0
    assert table.loc[("in", USER), "reward"] == pytest.approx(0.0)
    assert table.loc[("out", "engineered"), "words"] == pytest.approx(3.5)
    # "a picture of nothing" has six words against 2.33, and misses one rabbit in three: 20 * .1 / 3.
    assert table.loc[("in", "forgetful"), "reward"] == pytest.approx(6 - 7 / 3 - 2 / 3)


def test_differences_are_paired_by_prompt_and_seed(evaluation):
    gain = evaluation.difference("suffix", "engineered")
    assert tuple(gain) == pytest.approx((2, 2, 2))  # what prompts differ by is gone
    assert evaluation.win_rate("engineered", "engineered").mean == 0.5
    always = evaluation.win_rate("suffix", USER)
    assert (always.mean, always.high) == (1, pytest.approx(1))
    assert always.low == pytest.approx(5 / (5 + 1.959964**2))  # five of five say little
    with pytest.raises(ValueError, match="unknown method 'magic'"):
        evaluation.difference("magic", USER)
    with pytest.raises(ValueError, match="unknown metric 'beauty'"):
        evaluation.difference("suffix", USER, "beauty")
    with pytest.raises(ValueError, match="unknown domain 'moon'"):
        evaluation.difference("suffix", USER, domain="moon")


def test_the_bootstrap_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        interval = paired_bootstrap(rng.normal(0.3, 1.0, 60), seed=trial)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.90 <= covered / 200 <= 0.99
    with pytest.raises(ValueError, match="at least two finite values"):
        paired_bootstrap(np.array([1.0]))
    with pytest.raises(ValueError, match="at least two finite values"):
        paired_bootstrap(np.array([1.0, np.nan]))


def test_the_front_holds_equal_points_and_leaves_out_beaten_ones():
    assert pareto({"a": (1.0, 1.0), "b": (1.0, 1.0), "c": (0.5, 2.0), "d": (0.4, 1.9)}) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("prompts", "rivals", "rewards", "seeds", "message"),
    [
        (["a"], {}, REWARDS, (0,), "there are 1 prompts"),
        (["a", "a "], {}, REWARDS, (0,), "1 of them different"),
        (["a", "b"], {}, {"relevance": red}, (0,), "no 'aesthetic'"),
        (["a", "b"], {}, REWARDS, (), "at least one seed"),
        (["a", "b"], {USER: FixedSuffix(("x",))}, REWARDS, (0,), "no rewriter of the name"),
        (["a", "b"], {"bad": ["x"]}, REWARDS, (0,), "'bad' made 1 rewrites of 2 prompts"),
        (["a", "b"], {"bad": ["x", " "]}, REWARDS, (0,), "empty rewrite of 'b'"),
        (["a", " "], {}, REWARDS, (0,), "is empty"),
    ],
)
def test_bad_evaluations(prompts, rivals, rewards, seeds, message):
    with pytest.raises(ValueError, match=message):
        evaluate_rewriters(prompts, rivals, PaintGenerator(), rewards, seeds)


def test_salads_and_artists():
    tags = "8k, sharp focus, hdr, octane render, bokeh, cinematic, artstation, pixiv"
    assert salad(f"a cat, {tags}").is_salad
    assert not salad("a cat sleeping on a red sofa next to the fire, sharp focus, 8k").is_salad
    assert salad("a cat, 8k, 8k, hdr, hdr").is_salad
    assert salad(tags).share == 1.0
    assert salad("a cat Rephrase: 8k").marker
    assert artists("a cat by Ann Lee, wlop") == ("ann lee", "wlop")
    assert artists("a house by the lake") == ()


def test_ablation_by_hand():
    """Rewards are words: dropping "sharp focus" costs two, dropping "8k" one."""
    users = ["a cat", "a dog", "a pig"]
    rewrites = ["a cat, sharp focus, 8k", "a dog, 8k, sharp focus", "a pig, 8k, hdr"]
    table = ablate(users, rewrites, lambda _, texts: [float(len(text.split())) for text in texts])
    assert list(table.index) == ["sharp focus", "8k"]  # hdr is used once: no interval
    assert table.loc["sharp focus"].tolist() == pytest.approx([2, 2, 2, 2])
    assert table.loc["8k"].tolist() == pytest.approx([3, 1, 1, 1])
    with pytest.raises(ValueError, match="nothing to take away"):
        ablate(["a cat"], ["a cat"], lambda *_: [0.0])
    # Rewrites that show nothing are what one looks for: they are measured, not refused.
    only_tags = ablate(users, ["8k, sharp focus", "8k, masterpiece", "hdr"], lambda _, texts: [1.0] * len(texts))
    assert only_tags.loc["8k", "uses"] == 2


def test_the_report_warns_when_aesthetics_rise_and_relevance_falls(evaluation):
    bad = hacking_report(evaluation, "forgetful", held_out=["held out", "always content"])
    assert any("aesthetics rise by" in text and "relevance falls by" in text for text in bad.warnings)
    assert any("held-out reward 'held out' does not" in text for text in bad.warnings)
    assert not any("always content" in text for text in bad.warnings)  # it told nothing apart
    assert "WARNING" in str(bad)
    fair = hacking_report(evaluation, "engineered")
    assert fair.warnings == ()
    assert fair.meters["tags"] == 1.0
    assert fair.meters["repeated markers"] == 0.0


def test_the_pareto_figure_marks_every_method_and_fills_the_front(evaluation, tmp_path):
    figure = evaluation.plot_pareto("in")
    axes = figure.axes[0]
    assert [mark.get_label() for mark in axes.collections] == evaluation.methods
    filled = [mark.get_label() for mark in axes.collections if len(mark.get_facecolors())]
    means = {
        name: tuple(evaluation.by_prompt(metric, name, "in").mean() for metric in ("relevance", "aesthetic"))
        for name in evaluation.methods
    }
    assert filled == pareto(means)
    assert len(filled) < len(evaluation.methods)
    x, y = axes.collections[0].get_offsets()[0]
    assert (x, y) == pytest.approx(means[USER])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == evaluation.methods
    figure.savefig(tmp_path / "p.png")
