"""Intervals against statsmodels and SciPy, and by how often they cover in simulated experiments."""

import numpy as np
import pytest
from scipy.stats import ttest_rel
from statsmodels.stats.proportion import proportion_confint

from lmops_lab.icl.statistics import (
    accuracy,
    crossed,
    crossed_difference,
    difference_table,
    paired_difference,
    share_bounds,
    two_factor_bootstrap,
)

EXPERIMENTS = 2000


def logistic(x):
    return 1 / (1 + np.exp(-x))


def experiments(level, seeds, queries, seed_spread, *, item_spread=1.5, number=0, count=EXPERIMENTS):
    """Answers [experiments, seeds, queries] and the true accuracy; logit-normal seeds crossed with such items."""
    rng = np.random.default_rng([number, seeds, queries])
    true = logistic(level + rng.normal(0, np.hypot(seed_spread, item_spread), 1_000_000)).mean()
    logit = level + rng.normal(0, seed_spread, (count, seeds, 1)) + rng.normal(0, item_spread, (count, 1, queries))
    return rng.random((count, seeds, queries), dtype=np.float32) < logistic(logit).astype(np.float32), true


@pytest.mark.parametrize(("right", "of"), [(0, 20), (13, 20), (180, 200), (200, 200), (1, 1)])
def test_one_seed_gets_wilsons_interval(right, of):
    correct = (np.arange(of) < right)[None]
    assert accuracy(correct)[1:] == pytest.approx(proportion_confint(right, of, method="wilson"), abs=1e-9)


def test_many_seeds_on_the_same_items_do_not_shrink_the_items_error():
    items = np.random.default_rng(0).random(200) < 0.7
    once, ten = accuracy(items[None]), accuracy(np.tile(items, (10, 1)))
    assert (ten.high - ten.low) == pytest.approx(once.high - once.low, rel=0.1)


@pytest.mark.parametrize(
    ("level", "seeds", "queries", "seed_spread"),
    [
        (0.8, 3, 250, 1.2),  # three seeds whose effects differ a lot
        (0.8, 3, 1000, 0.7),
        (2.0, 3, 250, 0.35),
        (2.0, 3, 250, 0.7),
        (0.8, 4, 60, 0.35),
        (0.8, 6, 250, 0.0),
        (2.0, 6, 250, 0.7),
        (0.8, 6, 1000, 0.35),
        (0.8, 10, 250, 0.35),
    ],
)
def test_intervals_cover_as_often_as_they_say(level, seeds, queries, seed_spread):
    """2,000 synthetic experiments a setting: nominal 95 % is 93 to 97 %."""
    answers, true = experiments(level, seeds, queries, seed_spread)
    _, low, high = share_bounds(answers)
    assert 0.93 <= ((low <= true) & (true <= high)).mean() <= 0.97


@pytest.mark.parametrize("seed_spread", [0.0, 0.35, 1.2])
def test_two_seeds_are_covered_at_least_as_often_as_said(seed_spread):
    answers, true = experiments(0.8, 2, 250, seed_spread)
    _, low, high = share_bounds(answers)
    assert ((low <= true) & (true <= high)).mean() >= 0.94


def test_the_percentile_bootstrap_is_why_there_is_another_interval():
    """Three seeds that differ a lot: the bootstrap covers far too seldom."""
    answers, true = experiments(0.8, 3, 60, 1.2, count=150)
    found = [two_factor_bootstrap(table) for table in answers]
    assert np.mean([low <= true <= high for _, low, high in found]) < 0.9


def test_with_many_seeds_both_ways_agree():
    answers, _ = experiments(0.8, 24, 300, 0.5, count=1)
    formula, drawn = accuracy(answers[0]), two_factor_bootstrap(answers[0])
    assert formula == pytest.approx(drawn, abs=0.012)


def paired_experiments(seeds, queries, shared, own, *, count=EXPERIMENTS):
    """Left, right and the true difference on the same queries and seeds; `own`: how a seed's difference spreads."""
    rng = np.random.default_rng([7, seeds, queries])
    item, seed = rng.normal(0, 1.5, (count, 1, queries)), rng.normal(0, shared, (count, seeds, 1))
    mine = rng.normal(0, own, (count, seeds, 1))
    left, right = (rng.random((count, seeds, queries)) < logistic(x + item + seed) for x in (1.0 + mine, 0.7))
    draws = rng.normal(0, np.hypot(1.5, shared), 1_000_000)
    true = logistic(1.0 + draws + rng.normal(0, own, draws.shape)).mean() - logistic(0.7 + draws).mean()
    return left, right, true


@pytest.mark.parametrize(
    ("seeds", "queries", "shared", "own"),
    [(3, 250, 0.5, 0.5), (3, 250, 1.0, 1.0), (6, 250, 0.5, 0.3), (6, 200, 0, 0.2)],
)
def test_paired_differences_cover_as_often_as_they_say(seeds, queries, shared, own):
    left, right, true = paired_experiments(seeds, queries, shared, own)
    found = crossed_difference(left.astype(float) - right)
    covered = np.abs(found.mean - true) <= found.half_width()
    assert 0.93 <= covered.mean() <= 0.97


def test_one_seed_paired_is_the_paired_t_test():
    rng = np.random.default_rng(5)
    left, right = rng.random((1, 300)) < 0.8, rng.random((1, 300)) < 0.7
    expected = ttest_rel(left[0].astype(float), right[0].astype(float))
    found = crossed(difference_table(left, right))
    bounds = expected.confidence_interval()
    assert found.p_value() == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.mean - found.half_width(), found.mean + found.half_width()) == pytest.approx(
        (bounds.low, bounds.high), abs=1e-12
    )


@pytest.mark.parametrize("seeds", [1, 2, 3, 6])
@pytest.mark.parametrize("gap", [0.0, 0.05, 0.15, 0.5])
def test_p_values_and_intervals_say_the_same(seeds, gap):
    rng = np.random.default_rng(6)
    found = crossed_difference(difference_table(rng.random((seeds, 150)) < 0.5 + gap, rng.random((seeds, 150)) < 0.5))
    p = found.p_value()
    assert 0 < p <= 1
    for level in (0.5, 0.9, 0.95, 0.999):
        assert (p < 1 - level) == (abs(float(found.mean)) > float(found.half_width(level)))


def test_variances_are_those_the_data_were_made_with():
    rng = np.random.default_rng(8)
    table = rng.normal(0, 2, (300, 40, 1)) + rng.normal(0, 1, (300, 1, 50)) + rng.normal(0, 3, (300, 40, 50))
    found = crossed(table)
    assert found.seed_variance.mean() == pytest.approx(4, rel=0.05)
    assert found.item_variance.mean() == pytest.approx(1, rel=0.05)
    assert found.rest_variance.mean() == pytest.approx(9, rel=0.01)


def test_few_seeds_are_not_taken_for_their_whole_variance():
    """With two seeds a plain resample would show half of the seeds' variance; the interval shows all of it."""
    correct = np.zeros((2, 4000), bool)
    correct[0, :3000] = correct[1, :2000] = True
    interval = accuracy(correct)
    assert interval.high - interval.low >= 2 * 1.96 * np.std([0.75, 0.5], ddof=1) / np.sqrt(2) * 0.7


def test_all_right_is_not_certainty():
    interval = accuracy(np.ones((3, 40), bool))
    assert interval.low < 0.95
    assert interval.high == 1.0


def test_answers_that_cancel_are_not_certainty():
    half = np.tile([[True, False], [False, True]], (1, 30))
    interval = accuracy(half)
    assert interval.high - interval.low > 0.1
    same = paired_difference(half, half)
    assert same.low < 0 < same.high
    assert same.mean == 0


def test_pairing_is_sharper_than_two_separate_intervals():
    rng = np.random.default_rng(3)
    hard = rng.random((1, 200))
    left, right = (rng.random((4, 200)) * 0.3 + hard < cut for cut in (0.95, 0.85))
    paired = paired_difference(left, right)
    alone = accuracy(left), accuracy(right)
    assert paired.mean == pytest.approx(left.mean() - right.mean())
    assert paired.high - paired.low < 0.7 * np.hypot(*(i.high - i.low for i in alone))


def test_zero_shot_is_paired_with_every_seed():
    rng = np.random.default_rng(4)
    assert paired_difference(rng.random((3, 50)) < 0.8, rng.random((1, 50)) < 0.5).mean > 0


def test_shapes_that_cannot_be_paired():
    with pytest.raises(ValueError, match=r"cannot pair accuracies of shapes \(2, 5\) and \(2, 4\)"):
        paired_difference(np.ones((2, 5), bool), np.ones((2, 4), bool))
    with pytest.raises(ValueError, match=r"expected answers of shape \[seeds, queries\]"):
        accuracy(np.ones(5, bool))
