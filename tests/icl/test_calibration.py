import math

import numpy as np
import pytest

from lmops_lab.icl.calibration import calibrate

SCORES = np.log([[0.4, 0.2], [0.3, 0.3], [0.1, 0.3]])
FREE = np.log([[0.6, 0.2], [0.2, 0.2]])


def test_raw_is_the_softmax_over_labels():
    assert np.exp(calibrate("raw", SCORES, FREE)[0]) == pytest.approx([2 / 3, 1 / 3])


def test_contextual_divides_by_the_mean_content_free_probability():
    prior = (np.array([0.75, 0.25]) + np.array([0.5, 0.5])) / 2
    expected = np.log(np.array([2 / 3, 1 / 3]) / prior)
    assert calibrate("contextual", SCORES, FREE)[0] == pytest.approx(expected)


def test_batch_divides_by_the_mean_over_queries():
    prior = np.array([2 / 3 + 1 / 2 + 1 / 4, 1 / 3 + 1 / 2 + 3 / 4]) / 3
    assert calibrate("batch", SCORES, FREE)[2] == pytest.approx(np.log(np.array([1 / 4, 3 / 4]) / prior))


@pytest.mark.parametrize("name", ["contextual", "batch"])
def test_a_constant_bias_is_removed(name):
    rng = np.random.default_rng(0)
    scores, free = rng.normal(size=(200, 3)), rng.normal(size=(3, 3))
    bias = np.array([5.0, 0.0, -5.0])
    plain, biased = (calibrate(name, s, f).argmax(1) for s, f in ((scores, free), (scores + bias, free + bias)))
    if name == "contextual":
        assert (plain == biased).mean() > 0.5
    assert len(set(biased)) == 3
    assert set(calibrate("raw", scores + bias, free).argmax(1)) == {0}


def test_bad_input():
    with pytest.raises(ValueError, match="calibration 'magic' is unknown; choose among raw, contextual, domain, batch"):
        calibrate("magic", SCORES, FREE)
    broken = SCORES.copy()
    broken[1, 0] = math.nan
    with pytest.raises(ValueError, match="scores hold nan at row 1, label 0"):
        calibrate("raw", broken, FREE)
