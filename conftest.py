"""What holds for every test and every docstring example: none connects to another machine."""

from collections.abc import Generator

import pytest

from tests import network


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture, forbid it."""
    del item
    network.attempts.clear()
    network.forbid()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """A test that tried fails, even if the code under test caught the error."""
    del item
    yield
    if network.attempts:
        pytest.fail(f"this test wanted to connect to {', '.join(network.attempts)}; tests stay on this machine")
