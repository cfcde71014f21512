"""What is called real: single differences by their interval, the claims of a reading after Holm's correction."""

import re
from dataclasses import replace

import pytest

from lmops_lab.icl.comparison import Point, compare
from lmops_lab.icl.curve import ZERO_SHOT
from lmops_lab.icl.reading import reading, verdict
from lmops_lab.icl.statistics import Interval
from tests.icl.synthetic import synthetic_curve


def long_prompts(**changes):
    """A synthetic curve whose sequential points are one prompt each, as they are."""
    curve = synthetic_curve(**changes)
    one = [replace(c, cost=replace(c.cost, groups=1)) if c.method == "sequential" else c for c in curve.cells]
    return replace(curve, cells=tuple(one))


def claims(curve, calibration):
    """Every pair of points that the reading of a synthetic curve speaks of."""
    structured, sequential = ((m, [k for name, k in curve.points() if name == m]) for m in ("structured", "sequential"))
    pairs = []
    for method, ks in (structured, sequential):
        pairs += [((method, ks[-1]), (ZERO_SHOT, 0)), ((method, ks[-1]), (method, ks[-2]))]
    pairs.append((("structured", 64), ("sequential", 64)))
    known = [tuple(Point(*point, calibration) for point in pair) for pair in pairs]
    return [*known, (Point("structured", 512, calibration), Point("structured", 512, "raw"))]


def test_the_claims_of_a_reading_are_one_family():
    curve = long_prompts(seeds=4, queries=100, skill=0.1, bias=0.4, number=25)
    family = compare(curve, claims(curve, "batch"))
    alone = [one.difference.low > 0 or one.difference.high < 0 for one in family]
    assert sum(alone) > sum(one.real for one in family) > 0  # correction matters here
    said = re.findall(r"[-+]\d+\.\d points .*?(?=\.\n|\.$|\. )", reading(curve))
    assert said == [verdict(one.difference, real=one.real) for one in family]
    assert reading(curve).count("a real difference") == sum(one.real for one in family)


def test_verdicts():
    clear, open_ = Interval(0.12, 0.081, 0.16), Interval(0.12, -0.01, 0.25)
    assert verdict(clear) == "+12.0 points (95 % interval +8.1 to +16.0), a real difference"
    assert verdict(clear, real=True) == verdict(clear)
    assert verdict(clear, real=False).endswith("+16.0), which does not stand once all the comparisons made are counted")
    for real in (None, False):
        assert verdict(open_, real=real).endswith("which these queries and seeds cannot tell from none")


@pytest.mark.parametrize("calibration", ["raw", "batch"])
def test_labels_may_hold_braces(calibration):
    curve = synthetic_curve(labels=("{}", "{0}"), queries=40)
    said = re.findall("gives “(.+?)”", reading(curve, calibration))
    assert set(said) <= {"{}", "{0}"}
    assert len(said) == (calibration == "batch")
