"""Fuzzing in two sizes: a few minutes' worth of inputs by night, the first thousands in every run."""

import pytest

from tests.trust.fuzzing import run


def test_broken_files_get_documented_errors():
    found = run(1_300, seed=0)
    assert found.unexpected == []
    assert found.inputs == 1_300
    assert found.lines > 500  # it does get past the first checks
    assert any(name.endswith(": read") for name in found.errors)
    assert any(name.endswith(": ValueError") for name in found.errors)


def test_what_is_not_documented_is_reported(monkeypatch):
    """The fuzzer can fail: with one documented error struck off it says so."""
    from tests.trust import fuzz_targets

    whole = fuzz_targets.targets

    def only_templates(folder):
        return [t for t in whole(folder) if t.name == "template"]

    monkeypatch.setattr("tests.trust.fuzzing.targets", lambda folder: [
        fuzz_targets.Target(t.name, t.file, t.trees, t.pack, t.read, ()) for t in only_templates(folder)
    ])  # fmt: skip
    found = run(60, seed=0)
    assert found.inputs == 60
    assert "ValueError" in found.unexpected[0]


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1, 6))
def test_broken_files_by_the_thousand(seed):
    assert run(20_000, seed=seed).unexpected == []
