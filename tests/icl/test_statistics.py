import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from lmops_lab.icl.statistics import accuracy, paired_difference


@pytest.mark.parametrize(("right", "of"), [(0, 20), (13, 20), (180, 200), (200, 200)])
def test_one_seed_gets_wilsons_interval(right, of):
    correct = (np.arange(of) < right)[None]
    assert accuracy(correct)[1:] == pytest.approx(proportion_confint(right, of, method="wilson"), abs=1e-9)


def test_many_seeds_on_the_same_items_do_not_shrink_the_items_error():
    items = np.random.default_rng(0).random(200) < 0.7
    once, ten = accuracy(items[None]), accuracy(np.tile(items, (10, 1)))
    assert (ten.high - ten.low) == pytest.approx(once.high - once.low, rel=0.1)


def test_intervals_cover_as_often_as_they_say():
    """300 synthetic experiments with seed and item effects: the 95 % interval covers the true accuracy."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        logit = 0.8 + rng.normal(0, 0.25, (8, 1)) + rng.normal(0, 1.0, (1, 150))
        interval = accuracy(rng.random((8, 150)) < 1 / (1 + np.exp(-logit)))
        covered += interval.low <= TRUE <= interval.high
    assert 0.92 <= covered / 300 <= 0.99


def test_few_seeds_are_not_taken_for_their_whole_variance():
    """With two seeds a plain resample would show half of the seeds' variance; the interval shows all of it."""
    correct = np.zeros((2, 4000), bool)
    correct[0, :3000] = correct[1, :2000] = True
    interval = accuracy(correct)
    assert interval.high - interval.low >= 2 * 1.96 * np.std([0.75, 0.5], ddof=1) / np.sqrt(2) * 0.7


def test_all_right_is_not_certainty():
    interval = accuracy(np.ones((3, 40), bool))
    assert interval.low < 0.95


_DRAWS = np.random.default_rng(2).normal(0, np.hypot(0.25, 1.0), 2_000_000)
TRUE = float((1 / (1 + np.exp(-0.8 - _DRAWS))).mean())


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
