"""Jobs that are killed at random moments: nothing finished is lost or done twice, and the result is the same."""

import pytest

from tests.trust.faults import Killer
from tests.trust.victims import VICTIMS

# Kills in the default tier: jobs that take a fraction of a second.
QUICK = {"context saves": 3, "training loop": 3, "votes": 3, "cached rewards": 3, "sweep": 3}


@pytest.fixture(scope="module")
def killer(tmp_path_factory):
    return Killer(tmp_path_factory.mktemp("killed"))


def check(found, kills):
    assert not found.problems
    assert found.survived == found.tried >= kills


@pytest.mark.parametrize("name", QUICK)
def test_killed_jobs_go_on(killer, name):
    check(killer.kill(VICTIMS[name], QUICK[name], seed=1), QUICK[name])


@pytest.mark.nightly
@pytest.mark.parametrize("name", VICTIMS)
def test_killed_jobs_go_on_however_often(killer, name):
    kills = 10 if VICTIMS[name].slow or name == "notebook run" else 40
    check(killer.kill(VICTIMS[name], kills, seed=2), kills)


def test_the_harness_notices_work_that_is_done_twice(killer, monkeypatch):
    """A job that forgets what it finished must not pass."""
    victim = VICTIMS["context saves"]
    pieces = iter(range(10_000))
    forgetful = type(victim)(victim.name, victim.run, lambda _: {"0": str(next(pieces))}, victim.result)
    found = killer.kill(forgetful, 1, seed=3)
    assert found.survived == 0
    assert any("done twice" in problem for problem in found.problems)
