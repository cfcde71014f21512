"""What holds for every test and every docstring example: none connects to another machine."""

import pytest

from tests import network


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before any fixture, forbid it."""
    network.attempts.clear()
    network.forbid()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A test that tried fails, even if the code under test caught the error."""
    result = yield
    if network.attempts:
        pytest.fail(f"this test wanted to connect to {', '.join(network.attempts)}; tests stay on this machine")
    return result
