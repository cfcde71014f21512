import re

import numpy as np
import pytest

from tests.widgets.samples import HOSTILE
from widgets import GroupAttention
from widgets.attention_mass import group_mass


def shares(layers=3, heads=2, groups=4, seed=0):
    mass = np.random.default_rng(seed).gamma(1, size=(layers, heads, groups + 1))
    return mass / mass.sum(-1, keepdims=True)


def test_the_mean_head_comes_last_and_shares_among_groups_sum_to_one():
    mass = shares()
    found = group_mass(mass)
    assert np.allclose(found.with_mean_head()[:, -1], mass.mean(1))
    among = found.among_groups()
    assert np.allclose(among.sum(-1), 1)
    assert np.allclose(among[0, 1], mass[0, 1, :-1] / mass[0, 1, :-1].sum())
    name, share, layer, peak = found.summary()[-1]
    assert name == "own part"
    assert share == pytest.approx(mass[..., -1].mean())
    assert peak == pytest.approx(mass[layer - 1, :, -1].mean())
    assert peak == pytest.approx(mass.mean(1)[:, -1].max())


def test_groups_that_get_nothing_are_zero_not_nan():
    mass = np.zeros((1, 1, 3))
    mass[..., -1] = 1
    assert group_mass(mass).among_groups().tolist() == [[[0, 0], [0, 0]]]


def test_a_selected_cell_tells_its_group_and_demonstrations():
    parts = [np.full((3, 2, 2), 0.01 * (g + 1)) for g in range(4)]
    parts[1][2, :, 1] = 0.5
    demonstrations = [[f"demo {g}{i}" for i in range(2)] for g in range(4)]
    mass = shares()
    widget = GroupAttention(mass, demonstrations=demonstrations, demonstration_mass=parts)
    assert widget.message == ""
    widget.set_state({"selected": [2, 1]})
    assert widget.detail["title"].startswith(f"layer 3, group 2: mean share {mass[2, :, 1].mean():.4f}")
    first, second = widget.detail["rows"]
    assert (first["text"], first["share"]) == ("demo 10", 0.02)
    assert second["layer"] == 3
    assert second["share"] == pytest.approx(parts[1][..., 1].mean())
    widget.selected = [0, 4]
    assert widget.detail["title"].startswith("layer 1, own part")
    assert widget.detail["rows"] == []
    widget.selected = [0, 9]
    assert "no cell (0, 9) in 3 layers and 5 columns" in widget.detail["title"]


def test_state_is_what_the_browser_draws():
    mass = shares()
    widget = GroupAttention(mass, ["a", "b", "c", "d"])
    values = np.frombuffer(widget.values, "<f4").reshape(widget.shape)
    assert np.allclose(values[:, :-1], mass, atol=1e-6)
    assert widget.head == 2
    assert widget.columns == ["group 1", "group 2", "group 3", "group 4", "own part"]
    assert "not measured" in widget.message


def test_a_large_model_stays_light():
    widget = GroupAttention(shares(80, 64, 128), [f"g{i}" for i in range(128)])
    assert len(widget.values) + len(widget.among) < 10_000_000
    assert len(widget.fallback()) < 2_000_000
    assert "89 more groups" in widget.fallback()


@pytest.mark.parametrize(
    ("mass", "settings", "message"),
    [
        (np.ones((2, 3)), {}, r"shape \(2, 3\); expected \[layers, heads, groups \+ 1\]"),
        (np.full((1, 1, 2), np.nan), {}, "holds 2 values that are no shares"),
        (np.array([[[1.5, -0.5]]]), {}, "holds 1 values"),
        (shares(), {"texts": ["a"]}, "1 texts for 4 groups"),
        (
            shares(),
            {"demonstrations": [["a"]] * 4, "demonstration_mass": [np.ones((3, 2, 2))] * 4},
            r"expected \(3, 2, 1\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(mass, settings, message):
    with pytest.raises(ValueError, match=message):
        GroupAttention(mass, **settings)


def test_odd_shares_and_no_group_give_messages():
    assert "sum to 2.000 to 2.000" in GroupAttention(np.ones((1, 1, 2))).message
    assert "no group" in GroupAttention(np.ones((2, 2, 1))).message


def test_hostile_text_stays_text_and_the_page_is_the_same_twice(tmp_path):
    make = lambda: GroupAttention(shares(groups=len(HOSTILE)), HOSTILE)  # noqa: E731
    widget = make()
    text = widget.fallback()
    assert text == make().fallback()
    assert "<script" not in text
    assert "<img" not in text
    assert not re.search(r'"\s+onmouseover', text)
    widget.selected = [0, 0]
    assert widget.detail["rows"][0]["text"] == "<script>alert(1)</script>"
    assert repr(widget) == f"GroupAttention(3 layers, 2 heads, {len(HOSTILE)} groups)"
    assert "<script" not in widget.to_html(tmp_path / "a.html").read_text()
