"""Large amounts take as much longer as they are larger, no more."""

import pytest

from tests.trust.load import LOADS, Grown, grow, watch_together
from tests.trust.load import _job as job


@pytest.mark.nightly
@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_nothing_grows_faster_than_its_size(load):
    found = grow(load)
    assert found.linear, f"{found.quarter_s:.2f} s became {found.full_s:.2f} s: slope {found.slope:.2f}"
    # Memory of the largest: a context is there twice, once saved and once loaded, and hashed without a further copy.
    most = 2.2 * found.size if load.unit == "MB" else 2000
    assert found.full_mb <= most


def test_quadratic_growth_is_noticed():
    linear, quadratic = (Grown("x", "y", 100, 2.0, full, 0, 0) for full in (8.5, 32.0))
    assert linear.linear
    assert not quadratic.linear
    assert quadratic.slope == pytest.approx(2.2, abs=0.1)


def test_readers_of_a_job_that_is_being_written_see_whole_statuses(tmp_path):
    watch_together(job(tmp_path, 8))
