from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmops_lab.attention.grouping import group_by_count, group_by_tokens

DEMONSTRATIONS = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=12), min_size=1, max_size=40)


@given(DEMONSTRATIONS, st.integers(1, 50))
def test_by_count_keeps_exactly_all_demonstrations_in_order(demonstrations, size):
    groups = group_by_count(demonstrations, size)
    assert [d for group in groups for d in group] == demonstrations
    assert all(len(group) == size for group in groups[:-1])
    assert 1 <= len(groups[-1]) <= size


@given(DEMONSTRATIONS, st.integers(12, 60))
def test_by_tokens_keeps_whole_demonstrations_within_the_budget(demonstrations, budget):
    groups = group_by_tokens(demonstrations, budget)
    assert [d for group in groups for d in group] == demonstrations
    assert all(sum(map(len, group)) <= budget for group in groups)
    for left, right in pairwise(groups):  # no group ends while the next one would still fit
        assert sum(map(len, left)) + len(right[0]) > budget


def test_a_demonstration_longer_than_the_budget_is_named():
    with pytest.raises(ValueError, match="demonstration 1 has 9 tokens but a group holds 8"):
        group_by_tokens([[1], [2] * 9], 8)


@pytest.mark.parametrize(
    ("demonstrations", "size", "message"),
    [
        ([], 4, "there are no demonstrations"),
        ([[1], []], 4, "demonstration 1 has no tokens"),
        ([[1]], 0, "group_size is 0"),
    ],
)
def test_bad_input(demonstrations, size, message):
    with pytest.raises(ValueError, match=message):
        group_by_count(demonstrations, size)
