"""Points that exist for some seeds only: differences are paired by seed, never by place."""

import re
from dataclasses import replace

import numpy as np
import pytest

from lmops_lab import icl_curve
from lmops_lab.icl.comparison import Point, compare, method_pairs
from lmops_lab.icl.curve import ZERO_SHOT
from lmops_lab.icl.draws import Draw
from lmops_lab.icl.experiment import settings
from lmops_lab.icl.exploring import Series, series_difference
from lmops_lab.icl.plan import make_plan
from lmops_lab.icl.reading import reading
from lmops_lab.icl.statistics import paired_difference, paired_rows
from lmops_lab.icl.tasks import Example, Task
from tests.icl.synthetic import synthetic_curve

LEFT, RIGHT = ("structured", 64), ("sequential", 64)


def only(curve, point, seeds):
    """The curve with these seeds alone at one point."""
    kept = [c for c in curve.cells if (c.method, c.k) != point or c.seed in seeds]
    return replace(curve, cells=tuple(kept))


@pytest.fixture(scope="module")
def curve():
    return synthetic_curve(seeds=3, seed_spread=1.5)


@pytest.mark.parametrize("seeds", [(1, 3), (3,)])
def test_a_difference_rests_on_the_seeds_that_both_points_have(curve, seeds):
    uneven = only(curve, RIGHT, seeds)
    rows = [seed - 1 for seed in seeds]
    expected = paired_difference(curve.correct(*LEFT)[rows], curve.correct(*RIGHT)[rows])
    assert uneven.difference(LEFT, RIGHT) == expected
    assert uneven.difference(RIGHT, LEFT).mean == -expected.mean
    (one,) = compare(uneven, [(Point(*LEFT), Point(*RIGHT))])
    assert one.difference == expected
    assert one.seeds == len(seeds)
    shown = series_difference({"toy": uneven}, Series("toy", LEFT[0], "raw"), Series("toy", RIGHT[0], "raw"))
    assert {row["k"]: row["mean"] for row in shown}[64] == expected.mean


def test_as_many_other_seeds_are_not_paired_by_place(curve):
    uneven = only(only(curve, LEFT, (1, 2)), RIGHT, (2, 3))
    expected = paired_difference(curve.correct(*LEFT)[[1]], curve.correct(*RIGHT)[[1]])
    assert uneven.difference(LEFT, RIGHT) == expected


def test_zero_shot_goes_with_every_seed(curve):
    table = curve.correct(*LEFT)
    assert curve.difference(LEFT, (ZERO_SHOT, 0)) == paired_difference(table, curve.correct(ZERO_SHOT, 0))
    assert curve.paired_rows((ZERO_SHOT, 0), LEFT) == ([0, 0, 0], [0, 1, 2])
    assert paired_rows(None, None) == ([0], [0])


def test_no_seed_in_common_is_an_error_that_says_so(curve):
    apart = only(only(curve, LEFT, (1,)), RIGHT, (2, 3))
    with pytest.raises(ValueError, match=re.escape("cannot pair seeds [1] with seeds [2, 3]: none is in both")):
        apart.difference(LEFT, RIGHT)
    assert [left.k for left, _ in method_pairs(apart)] == [8]
    lines = series_difference({"toy": apart}, Series("toy", LEFT[0], "raw"), Series("toy", RIGHT[0], "raw"))
    assert [line["k"] for line in lines] == [8]
    long = [replace(c, cost=replace(c.cost, groups=1)) if c.method == RIGHT[0] else c for c in apart.cells]
    assert "have no point and seed in common" in reading(replace(apart, cells=tuple(long)))  # at 8 both are one prompt
    nowhere = only(only(apart, ("structured", 8), (1,)), ("sequential", 8), (2,))
    with pytest.raises(ValueError, match="have no number of demonstrations in common for which a seed is in both"):
        series_difference({"toy": nowhere}, Series("toy", LEFT[0], "raw"), Series("toy", RIGHT[0], "raw"))
    few = only(only(curve, LEFT, (1,)), ("structured", 512), (2, 3))
    assert "From 8 to 512 demonstrations *structured* changes by" in reading(few)


def test_where_a_long_prompt_fits_is_said_for_each_seed(tiny, tmp_path):
    """From plan to words: at some k the prompts of some seeds fit into the window, those of others do not."""
    rng = np.random.default_rng(1)
    examples = [
        Example({"text": "".join(rng.choice(list("abcdefgh"), rng.integers(2, 40)))}, ("no", "yes")[i % 2])
        for i in range(120)
    ]
    task = Task("uneven", "{text}:", {"no": "no", "yes": "yes"}, examples[:80], examples[80:], "\n")
    ks = range(8, 40, 2)
    asked = settings(ks, ["structured", "sequential"], 3, 8, 4, "none", ["groups"], Draw())
    skipped = make_plan(tiny, task, asked).skipped
    k, why = next((k, why) for (_, k), why in skipped.items() if "of seed" in why)
    found = icl_curve(tiny, task, k=[0, 4, k], seeds=3, queries=8, group_size=4, folder=tmp_path, progress=False)
    seeds = found.seeds("sequential", k)
    assert 0 < len(seeds) < 3
    without = ", ".join(str(seed) for seed in (1, 2, 3) if seed not in seeds)
    assert re.fullmatch(rf"the prompt of seeds? {without} passes the model's 512 positions", why)
    assert found.skipped == (("sequential", k, why),)
    rows = [seed - 1 for seed in seeds]
    expected = paired_difference(found.correct("structured", k)[rows], found.correct("sequential", k))
    assert found.difference(("structured", k), ("sequential", k)) == expected
    assert all(one.seeds == (len(seeds) if one.left.k == k else 3) for one in compare(found, method_pairs(found)))
    said = reading(found)
    assert re.search(
        rf"\*sequential\* has {k} demonstrations only for seeds? {', '.join(map(str, seeds))}: {why}", said
    )
    assert skipped["sequential", ks[-1]] == "the prompt passes the model's 512 positions"  # of every seed
