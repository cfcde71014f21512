"""Corrections and sample sizes against statsmodels; bands and whole families by simulation."""

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower

from lmops_lab.icl.comparison import (
    Needed,
    Point,
    compare,
    compare_answers,
    comparison_frame,
    curve_bands,
    holm,
    items_needed,
    method_pairs,
    simultaneous_bands,
    simultaneous_level,
)
from lmops_lab.icl.statistics import crossed_difference
from tests.icl.synthetic import synthetic_curve


def logistic(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_statsmodels(seed):
    p = np.random.default_rng(seed).random(9) ** 3
    assert holm(list(p)) == pytest.approx(multipletests(p, method="holm")[1])
    assert holm([]) == []


def test_holm_keeps_the_family_honest():
    """100 families of three methods that do not differ, three seeds: hardly ever is any difference called real."""
    rng = np.random.default_rng(0)
    false = 0
    pairs = [(Point("a", 1), Point("b", 1)), (Point("a", 1), Point("c", 1)), (Point("b", 1), Point("c", 1))]
    for _ in range(100):
        item = rng.normal(0, 1.5, (1, 100))
        tables = {
            Point(name, 1): rng.random((3, 100)) < logistic(0.8 + item + rng.normal(0, 0.6, (3, 1))) for name in "abc"
        }
        false += any(one.real for one in compare_answers(tables, pairs))
    assert false / 100 <= 0.08


@pytest.mark.parametrize("gap", [0.05, 0.1, 0.2])
def test_items_needed_by_one_seed_are_statsmodels(gap):
    rng = np.random.default_rng(1)
    difference = (rng.random((1, 500)) < 0.8).astype(float) - (rng.random((1, 500)) < 0.7)
    spread = np.sqrt(float(crossed_difference(difference).item_variance))
    expected = NormalIndPower(ddof=0).solve_power(gap / spread, alpha=0.05, power=0.8, ratio=0)
    assert items_needed(difference, gap=gap).items == pytest.approx(expected, abs=1.01)


def test_the_items_that_are_said_to_suffice_do():
    """Measure once, ask how many items are needed, run that many: 80 % of such experiments tell the two apart."""
    rng = np.random.default_rng(2)

    def experiment(queries):
        item = rng.normal(0, 1.5, (1, queries))
        left, right = (rng.random((6, queries)) < logistic(x + item) for x in (1.0, 0.7))
        return left.astype(float) - right

    needed = items_needed(experiment(20_000), gap=0.048)
    assert needed.items is not None
    found = [crossed_difference(experiment(needed.items)).p_value() < 0.05 for _ in range(300)]
    assert 0.72 <= np.mean(found) <= 0.9


def test_seeds_that_differ_cannot_be_helped_by_queries():
    difference = np.repeat([[0.9], [-0.7], [0.1]], 200, axis=1)
    needed = items_needed(difference)
    assert needed.items is None
    assert needed.seeds is not None
    assert needed.seeds > 3
    assert "more queries alone do not help" in str(needed)
    assert items_needed(np.zeros((3, 50))) == Needed(None, None)
    assert str(Needed(None, None)) == "more seeds and more queries"
    assert str(Needed(1200, None)) == "about 1,200 queries"


@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.8), (6, 0.5)])
def test_bands_hold_at_all_points_at_once(seeds, spread):
    """120 curves of five points: the 95 % band holds everywhere; intervals of single points would not."""
    rng = np.random.default_rng(3)
    levels, draws = np.linspace(0.3, 1.6, 5), rng.normal(0, np.hypot(1.5, spread), 200_000)
    true = np.array([logistic(level + draws).mean() for level in levels])
    held = alone = 0
    for _ in range(120):
        item = rng.normal(0, 1.5, (1, 150))
        tables = [
            rng.random((seeds, 150)) < logistic(level + item + rng.normal(0, spread, (seeds, 1))) for level in levels
        ]
        bands = simultaneous_bands(tables)
        held += all(b.low <= t <= b.high for b, t in zip(bands, true, strict=True))
        single = [simultaneous_bands([table])[0] for table in tables]
        alone += all(b.low <= t <= b.high for b, t in zip(single, true, strict=True))
    assert held / 120 >= 0.92
    assert alone < held - 8


def test_level_between_one_point_and_bonferroni():
    rng = np.random.default_rng(4)
    same = rng.random((3, 200)) < 0.7
    assert simultaneous_level([same]) == 0.95
    assert simultaneous_level([same] * 5) == pytest.approx(0.95, abs=0.003)
    apart = simultaneous_level([rng.random((3, 2000)) < 0.7 for _ in range(5)])
    assert apart == pytest.approx(0.95 ** (1 / 5), abs=0.002)  # independent points: Sidak


def test_a_curve_is_compared_as_one_family():
    curve = synthetic_curve()
    pairs = method_pairs(curve, "batch")
    assert pairs == [(Point("structured", k, "batch"), Point("sequential", k, "batch")) for k in (8, 64)]
    found = compare(curve, [*pairs, (Point("structured", 512, "batch"), Point("zero-shot", 0, "batch"))])
    assert [one.adjusted for one in found] == pytest.approx(multipletests([o.p_value for o in found], method="holm")[1])
    assert found[-1].real
    frame = comparison_frame(found)
    assert frame.iloc[-1].left == "structured, k = 512, batch"
    assert frame.iloc[-1].needed == ""
    assert (frame[~frame.real].needed != "").all()
    assert frame.iloc[0].difference == pytest.approx(
        curve.accuracy("structured", 8, "batch").mean - curve.accuracy("sequential", 8, "batch").mean
    )
    assert comparison_frame([]).empty


def test_bands_of_a_curve():
    curve = synthetic_curve()
    bands = curve_bands(curve, "structured", "batch")
    assert list(bands.k) == [8, 64, 512]
    for row in bands.itertuples():
        single = curve.accuracy("structured", row.k, "batch")
        assert row.low < single.low
        assert row.high > single.high
    with pytest.raises(
        ValueError, match=r"no method 'magic'; the curve has \['zero-shot', 'structured', 'sequential'\]"
    ):
        curve_bands(curve, "magic")
