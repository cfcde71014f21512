import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ttest_1samp, ttest_rel

from tests.widgets.samples import HOSTILE, grid, landscape
from widgets.comparison import compare, stat_line
from widgets.pictures import as_png, contact_sheet, image_hash, thumbnails, write_sheet
from widgets.prompt_text import token_budget, word_diff
from widgets.score_table import differing, orders, summaries


class WordTokenizer:
    """One token a word, a begin and an end token: CLIP's shape without its vocabulary."""

    def __call__(self, text, *, truncation, verbose, add_special_tokens=True):
        assert not truncation
        assert not verbose
        ids = [hash(word) % 1000 + 2 for word in text.split()]
        self.words = dict(zip(ids, text.split(), strict=True))
        return {"input_ids": [0, *ids, 1] if add_special_tokens else ids}

    def decode(self, ids):
        return " ".join(self.words[i] for i in ids)


@settings(max_examples=50, deadline=None)
@given(st.text(), st.text())
def test_a_diff_gives_both_prompts_back(before, after):
    pieces = word_diff(before, after)
    assert "".join(text for kind, text in pieces if kind != "removed") == after
    assert "".join(text for kind, text in pieces if kind != "added") == before


def test_long_prompts_are_compared_in_no_time():
    changed = word_diff("word " * 5000, "other word " * 5000)
    assert "".join(text for kind, text in changed if kind != "removed") == "other word " * 5000


def test_the_budget_names_what_the_encoder_does_not_read():
    text = " ".join(f"w{i}" for i in range(80))
    budget = token_budget(WordTokenizer(), text)
    assert (budget.tokens, budget.limit) == (82, 77)
    assert budget.cut == "w75 w76 w77 w78 w79"
    assert token_budget(WordTokenizer(), " ".join(["w"] * 75)).cut == ""


def test_intervals_are_students_and_the_change_is_paired():
    table = np.array([[0.1, 0.2, 0.4, 0.3], [0.3, 0.35, 0.6, 0.55]])
    first, second = summaries(table)
    expected = ttest_1samp(table[1], 0).confidence_interval(0.95)
    assert (second.low, second.high) == pytest.approx((expected.low, expected.high))
    paired = ttest_rel(table[1], table[0]).confidence_interval(0.95)
    assert (second.change_low, second.change_high) == pytest.approx((paired.low, paired.high))
    assert first.change is None


def test_right_and_wrong_answers_get_an_interval_between_zero_and_one():
    all_right, half = summaries(np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 0.0]]))
    assert all_right.low == pytest.approx(0.5101, abs=1e-4)  # Wilson, 4 of 4
    assert 0 < half.low < 0.5 < half.high < 1


def test_missing_scores_are_left_out_and_one_seed_has_no_interval():
    first, second, third = summaries(np.array([[0.5, np.nan], [np.nan, np.nan], [1.0, 2.0]]))
    assert (first.mean, first.low, first.n) == (0.5, None, 1)
    assert second.mean is None
    assert (third.mean, third.change) == (1.5, 0.5)
    assert orders({"r": np.array([[0.5, np.nan], [np.nan, np.nan], [1.0, 2.0]])}, 3, 2)["r"]["rows"] == [2, 0, 1]


def test_differing_marks_cells_and_the_first_rows_columns():
    assert differing([["a", "b", None], ["a", "c", None], ["a", "b", "x"]]) == [
        [False, True, True],
        [False, True, False],
        [False, False, True],
    ]
    assert differing([]) == []
    assert differing([["a"]]) == [[False]]


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((["a", "b"], [[None]]), {}, "2 prompts but 1 rows of results"),
        (("just text", None), {}, "not the text 'just text'"),
        ((["a"], [[3]]), {}, "'prompt 1' has a int; give PIL images"),
        ((["a"], [["x", "y"]]), {"seeds": [1]}, "1 seeds but 2 results"),
        ((["a"], [["x", "y"]]), {"seeds": [1, 1]}, "two seeds are called '1'"),
        ((["a"], [["x", "y"]]), {"scores": {"r": [[1.0]]}}, r"'r' has shape \(1, 1\).*\[1 prompts, 2 seeds\]"),
        ((["a"], [["x", "y"]]), {"scores": {"r": [["good", 1]]}}, "'r' is not a table of numbers"),
        (
            (["a"], [["x"]]),
            {"probabilities": [[0.5]], "labels": ["n", "y"]},
            r"expected \[1 prompts, 1 items, 2 labels\]",
        ),
        ((["a"], [["x"]]), {"gold": ["y", "n"]}, "2 right labels for 1 items"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        compare(*arguments, **settings)


def test_what_is_missing_is_said():
    assert "no pictures or texts" in compare(["a"], None).notes[0]
    assert "no prompt" in compare([], None).notes[0]
    ragged = compare({"one": "a", "two": "b"}, [[landscape(0), landscape(1)], [landscape(0)]])
    assert ragged.notes == ("Different numbers of seeds: 'two' has 1 of 2; the rest is shown as missing.",)
    assert ragged.rows[1].cells[1] is None
    holes = compare(["a"], [["x", "y"]], scores={"r": [[1.0, None]]})
    assert holes.notes == ("score 'r' is missing for 1 of 2 pictures; means leave them out.",)
    assert stat_line(holes, 0) == "r 1.000 (one seed)"


def test_an_edited_row_replaces_or_joins():
    shown = compare({"one": "a", "two": "b"}, [["x", "y"], ["x", "z"]], scores={"r": [[1.0, 2.0], [3.0, 4.0]]})
    replaced = shown.with_row("p0", "new", ["n", "m"], {"r": [5.0, 6.0]}, new=False)
    assert [row.text for row in replaced.rows] == ["new", "b"]
    assert replaced.scores["r"].tolist() == [[5.0, 6.0], [3.0, 4.0]]
    joined = shown.with_row("p0", "new", ["n", "m"], {}, new=True)
    assert [row.label for row in joined.rows] == ["one", "one, edited", "two"]
    assert np.isnan(joined.scores["r"][1]).all()
    assert len({row.id for row in joined.with_row("p0", "n", ["n", "m"], {}, new=True).rows}) == 4


def test_equal_pictures_have_equal_hashes_and_thumbnails_fit_their_budget():
    assert image_hash(landscape(1)) == image_hash(landscape(1).copy())
    assert image_hash(landscape(1)) != image_hash(landscape(2))
    big = [landscape(i, 400) for i in range(3)]
    small = thumbnails([big[0], None, *big[1:]], budget=20_000)
    assert sum(map(len, small)) <= 20_000
    assert small[1] == b""
    assert thumbnails([landscape(0, 64)])[0].startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="do not fit into 100 bytes"):
        thumbnails(big, budget=100)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_picture_can_be_shown(mode):
    image = Image.new("I;16", (200, 10)) if mode == "I;16" else landscape(0, 200).convert(mode)
    assert thumbnails([image])[0]
    assert as_png(image).startswith(b"\x89PNG")
    assert image_hash(image)


def test_the_sheet_holds_every_label_in_full_and_its_provenance(tmp_path):
    rows = [[*row[:2], None] for row in grid(2, 2)]
    facts = {"model": "tiny", "hf_token": "hf_abcdefghijklmnop", "steps": 5}
    short = contact_sheet(rows, ["short", "b"], ["0", "1", "2"], ["", ""], provenance=facts, cell=64)
    long = contact_sheet(rows, HOSTILE[2:4], ["0", "1", "2"], ["", ""], provenance=facts, cell=64)
    assert long.height > short.height + 1000  # 5,000 characters, wrapped
    with (tmp_path / "s.png").open("wb") as stream:
        write_sheet(short, stream, facts)
    with Image.open(tmp_path / "s.png") as image:
        assert image.text == {"model": "tiny", "hf_token": "(hidden)", "steps": "5"}


def test_scores_that_are_wider_than_the_pictures_go_on_below():
    rows = [row[:2] for row in grid(2, 2)]
    scores = "reward 2.458 [2.242, 2.674], change +2.458 [+2.019, +2.897]; relevance 0.704 [0.613, 0.795]"
    one = contact_sheet(rows, ["a", "b"], ["0", "1"], ["", ""], provenance={}, cell=64)
    both = contact_sheet(rows, ["a", "b"], ["0", "1"], [scores, scores], provenance={}, cell=64)
    assert both.height >= one.height + 2 * 2 * 17  # 90 letters are several times as wide as two pictures
    assert np.asarray(both)[:, -4:].min() == 255  # nothing is cut at the edge
