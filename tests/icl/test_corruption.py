from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmops_lab.icl.corruption import corrupt_labels, flip_labels, symbol_task
from lmops_lab.icl.tasks import Example, Task

LABELS = ("a", "b", "c")
EXAMPLES = [Example({"text": str(i)}, LABELS[i % 3]) for i in range(60)]
TASK = Task("t", "{text}:", {"a": "good", "b": "bad", "c": "fair"}, EXAMPLES, EXAMPLES)


def wrong(changed):
    return [new.label != old.label for new, old in zip(changed, EXAMPLES, strict=False)]


@given(st.integers(0, 100), st.integers(0, 500))
def test_every_beginning_holds_its_share_of_wrong_labels(percent, seed):
    changed = corrupt_labels(EXAMPLES, LABELS, percent / 100, seed)
    for k in range(61):
        assert abs(sum(wrong(changed[:k])) - k * percent / 100) < 1
    assert [e.fields for e in changed] == [e.fields for e in EXAMPLES]
    assert {e.label for e in changed} <= set(LABELS)


@given(st.integers(0, 60), st.integers(0, 20), st.floats(0, 1))
def test_corruption_is_nested_over_k(k, seed, share):
    assert corrupt_labels(EXAMPLES[:k], LABELS, share, seed) == corrupt_labels(EXAMPLES, LABELS, share, seed)[:k]


def test_none_and_all():
    assert corrupt_labels(EXAMPLES, LABELS, 0, 1) == EXAMPLES
    assert all(wrong(corrupt_labels(EXAMPLES, LABELS, 1.0, 1)))


def test_places_and_wrong_labels_are_random():
    """Every place is wrong in its share of the seeds, and both wrong labels are drawn equally often."""
    draws = [corrupt_labels(EXAMPLES[:8], LABELS, 0.3, seed) for seed in range(1000)]
    for place in range(8):
        share = sum(wrong(draw)[place] for draw in draws) / 1000
        assert 0.25 < share < 0.35
    instead = Counter(draw[0].label for draw in draws if draw[0].label != "a")
    assert abs(instead["b"] - instead["c"]) < 0.25 * sum(instead.values())


def test_flipped_labels():
    assert [e.label for e in flip_labels(EXAMPLES[:4], LABELS)] == ["b", "c", "a", "b"]
    two = [Example({}, "x"), Example({}, "y")]
    assert flip_labels(flip_labels(two, ("x", "y")), ("x", "y")) == two
    assert flip_labels(two, ("x", "y")) == corrupt_labels(two, ("x", "y"), 1, 0)


def test_symbol_labels():
    task = symbol_task(TASK)
    assert dict(task.verbalizer) == {"a": "A", "b": "B", "c": "C"}
    assert task.demonstration(EXAMPLES[1]) == "1: B\n\n"
    assert task.fingerprint != TASK.fingerprint
    assert len({tuple(symbol_task(TASK, seed=seed).verbalizer.values()) for seed in range(30)}) == 6
    assert list(symbol_task(TASK, ["foo", "bar", "baz"]).verbalizer.values()) == ["foo", "bar", "baz"]
    many = {str(i): f"w{i}" for i in range(77)}
    examples = [Example({"text": ""}, "0")]
    assert symbol_task(Task("m", "{text}:", many, examples, examples)).verbalizer["76"] == "77"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: corrupt_labels(EXAMPLES, LABELS, 25, 0), r"share of wrong labels is 25; .*\(0.25 is 25 %\)"),
        (lambda: corrupt_labels(EXAMPLES, ("a",), 0.5, 0), "needs at least 2"),
        (lambda: corrupt_labels(EXAMPLES, ("a", "b"), 0.5, 0), "demonstration 2 has label 'c', not one of"),
        (lambda: flip_labels(EXAMPLES, ("a", "b")), "demonstration 2 has label 'c'"),
        (lambda: symbol_task(TASK, ["foo"]), "1 symbols .* for the 3 labels"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
