from collections import Counter

import pytest

from lmops_lab.icl.demonstrations import draw_demonstrations
from lmops_lab.icl.draws import Draw
from lmops_lab.icl.tasks import Example, Task

EXAMPLES = [Example({"text": str(i)}, "cab"[i % 3]) for i in range(60)]
TASK = Task("t", "{text}:", {"c": "one", "a": "two", "b": "three"}, EXAMPLES, EXAMPLES)
TRUE = {e.fields["text"]: e.label for e in EXAMPLES}


def test_the_default_is_the_plain_draw():
    assert Draw().demonstrations(TASK, 20, 3) == draw_demonstrations(EXAMPLES, 20, 3)


@pytest.mark.parametrize("draw", [Draw(), Draw(corruption=0.25), Draw(flipped=True), Draw(balanced=False)])
def test_nested_rules_are_nested(draw):
    assert draw.nested
    assert draw.demonstrations(TASK, 40, 2)[:12] == draw.demonstrations(TASK, 12, 2)


def test_the_same_labels_are_wrong_in_every_order():
    def labels(order):
        return {e.fields["text"]: e.label for e in Draw(order=order, corruption=0.5).demonstrations(TASK, 24, 1)}

    spoilt = labels("drawn")
    assert spoilt == labels("shuffled") == labels("sorted") == labels("reversed")
    assert sum(TRUE[text] != label for text, label in spoilt.items()) == 12
    assert not Draw(order="sorted").nested


def test_sorted_follows_the_task_s_labels():
    drawn = Draw(order="sorted").demonstrations(TASK, 9, 1)
    assert [e.label for e in drawn] == [*"cccaaabbb"]


def test_shuffles_are_orders_of_one_set():
    orders = [Draw(order="shuffled", order_seed=s).demonstrations(TASK, 12, 1) for s in range(5)]
    assert len({tuple(e.fields["text"] for e in order) for order in orders}) == 5
    assert len({frozenset(Counter(e.fields["text"] for e in order).items()) for order in orders}) == 1


def test_bad_input():
    with pytest.raises(ValueError, match="order is 'sort'; .* did you mean 'sorted'"):
        Draw(order="sort")
    with pytest.raises(ValueError, match=r"corruption is 25; .*0.25 is 25 %"):
        Draw(corruption=25)
    asked = tuple(Example({"text": str(i)}, f"{i}", answers=(f"{i}",)) for i in range(5))
    opened = Task("o", "{text}:", {}, asked, asked, kind="generation")
    assert len(Draw().demonstrations(opened, 4, 1)) == 4
    with pytest.raises(ValueError, match="no labels to spoil"):
        Draw(corruption=0.5).demonstrations(opened, 4, 1)
