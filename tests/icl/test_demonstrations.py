from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmops_lab.icl.demonstrations import ORDERS, draw_demonstrations, draw_queries, order_demonstrations
from lmops_lab.icl.tasks import Example

EXAMPLES = [Example({"text": str(i)}, "abc"[i % 3]) for i in range(60)]


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 1000), st.booleans())
def test_draws_are_nested_distinct_and_balanced(k, other, seed, balanced):
    k, other = sorted((k, other))
    small, large = (draw_demonstrations(EXAMPLES, n, seed, balanced=balanced) for n in (k, other))
    assert large[:k] == small
    assert len({e.fields["text"] for e in large}) == other
    counts = Counter(e.label for e in large)
    if balanced and other:
        assert max(counts.values()) - min(counts[label] for label in "abc") <= 1


def test_seeds_differ_and_repeat():
    first, again, other = (draw_demonstrations(EXAMPLES, 20, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_label_order_is_random():
    """The last demonstration's label, which a model favours, must not be the same in every draw."""
    assert len({draw_demonstrations(EXAMPLES, 6, seed)[-1].label for seed in range(20)}) == 3


def test_more_than_the_data_holds():
    with pytest.raises(ValueError, match="k = 61 demonstrations, but there are 60"):
        draw_demonstrations(EXAMPLES, 61, 0, balanced=False)
    with pytest.raises(ValueError, match=r"label 'c' has only 1 of the 41 training examples, enough for k = 3"):
        draw_demonstrations([e for e in EXAMPLES if e.label != "c"] + [EXAMPLES[2]], 4, 0)
    with pytest.raises(ValueError, match="queries = 99"):
        draw_queries(EXAMPLES, 99)


def test_queries_are_distinct_and_nested():
    assert draw_queries(EXAMPLES, 20)[:10] == draw_queries(EXAMPLES, 10)
    assert len(set(draw_queries(EXAMPLES, 60))) == 60


@given(st.integers(0, 60), st.integers(0, 9), st.sampled_from(ORDERS))
def test_orders_keep_the_demonstrations(k, seed, order):
    drawn = draw_demonstrations(EXAMPLES, k, seed)
    ordered = order_demonstrations(drawn, order, seed)
    assert Counter(e.fields["text"] for e in ordered) == Counter(e.fields["text"] for e in drawn)
    assert ordered == order_demonstrations(drawn, order, seed)


def test_orders():
    drawn = draw_demonstrations(EXAMPLES, 12, 1)
    assert [e.label for e in order_demonstrations(drawn, "sorted")] == [*"aaaabbbbcccc"]
    assert [e.label for e in order_demonstrations(drawn, "sorted", labels="cab")] == [*"ccccaaaabbbb"]
    assert order_demonstrations(drawn, "reversed") == drawn[::-1]
    assert len({tuple(e.fields["text"] for e in order_demonstrations(drawn, "shuffled", s)) for s in range(9)}) == 9


def test_bad_orders():
    with pytest.raises(ValueError, match="order is 'sort'; choose among .* did you mean 'sorted'"):
        order_demonstrations(EXAMPLES, "sort")
    with pytest.raises(ValueError, match=r"labels \['c'\], which are not among \['a', 'b'\]"):
        order_demonstrations(EXAMPLES, "sorted", labels=["a", "b"])
