"""The list of mutants cannot rot, and the default tier kills all of them."""

import re

import pytest

from tests.trust.mutants import ROOT, mutants, run

MUTANTS = mutants()


def test_there_are_thirty_different_ones():
    assert len(MUTANTS) == 30
    assert len({mutant.name for mutant in MUTANTS}) == len({(m.file, m.old) for m in MUTANTS}) == 30


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_fits_the_code_and_is_valid_python(mutant):
    compile(mutant.apply(ROOT), mutant.file, "exec")
    assert mutant.tests
    for test in mutant.tests:
        path, _, name = test.partition("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        assert not name or re.search(rf"^def {name}\(", text, re.MULTILINE), f"{path} has no test {name}"
        assert "mark.nightly" not in text
        assert "mark.browser" not in text


@pytest.mark.nightly
def test_the_default_tier_kills_every_mutant():
    results = run(progress=False)
    assert [result.name for result in results if not result.killed] == []
