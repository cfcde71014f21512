import json
import re

import pytest
from PIL import Image

from tests.widgets.samples import HOSTILE, grid
from widgets import BlindVote

SYSTEMS = {"secretive-one": ["first text", "second text", "third"], "hidden-two": ["uno", "dos", "tres"]}


def send(widget, **content):
    widget._handle_custom_msg(content, [])


def plain(state):
    return json.dumps(state, default=lambda data: bytes(data).hex())


def test_identities_stay_hidden_until_the_end_and_every_click_is_saved(tmp_path):
    widget = BlindVote(SYSTEMS, tmp_path / "v.jsonl", prompts=["a", "b", "c"], repeats=0.3)
    assert widget.total == 4
    while not widget.finished:
        state = (
            plain(widget.get_state())
            + widget.fallback()
            + repr(widget)
            + (widget._file.path.read_text() if widget._file.path.exists() else "")
        )
        assert "secretive-one" not in state
        assert "hidden-two" not in state
        assert {widget.current["left"], widget.current["right"]} <= {*SYSTEMS["secretive-one"], *SYSTEMS["hidden-two"]}
        number = widget.done
        send(widget, kind="vote", number=number, choice="left", seconds=1.25)
        send(widget, kind="vote", number=number, choice="right", seconds=1.25)  # a double click changes nothing
        assert widget.done == number + 1
        assert len(widget._file.path.read_text().splitlines()) == number + 2
    assert widget.current == {}
    assert widget.outcome["rates"][0]["pair"] == "hidden-two against secretive-one"
    assert "secretive-one" in widget.fallback()
    with pytest.raises(ValueError, match="the vote is over"):
        widget.vote("left")
    with pytest.raises(ValueError, match="would not be blind"):
        widget.undo()


def test_an_observer_of_the_count_finds_the_results(tmp_path):
    widget = BlindVote(SYSTEMS, tmp_path / "v.jsonl", repeats=0)
    widget.observe(lambda _: widget.finished and widget.to_html(tmp_path / "v.html"), names="done")
    for number in range(3):
        send(widget, kind="vote", number=number, choice="left")
    assert widget.message == ""
    assert "Bradley-Terry" in (tmp_path / "v.html").read_text()


def test_a_restarted_kernel_continues_with_the_same_question(tmp_path):
    first = BlindVote(SYSTEMS, tmp_path / "v.jsonl")
    first.vote("tie")
    first.vote("left")
    first.undo()
    again = BlindVote(SYSTEMS, tmp_path / "v.jsonl")
    assert again.votes == first.votes
    assert again.current == first.current
    assert again.done == 1


def test_an_early_end_is_remembered(tmp_path):
    widget = BlindVote(SYSTEMS, tmp_path / "v.jsonl")
    widget.vote("left")
    send(widget, kind="reveal")
    assert widget.outcome["votes"] == 1
    assert BlindVote(SYSTEMS, tmp_path / "v.jsonl").finished


def test_other_contents_do_not_take_over_these_votes(tmp_path):
    BlindVote(SYSTEMS, tmp_path / "v.jsonl").vote("left")
    changed = {**SYSTEMS, "hidden-two": ["uno", "dos", "cuatro"]}
    with pytest.raises(ValueError, match="holds votes on other pairs"):
        BlindVote(changed, tmp_path / "v.jsonl")


def test_a_damaged_file_gives_a_message_inside_the_widget(tmp_path):
    (tmp_path / "v.jsonl").write_text("nonsense\n")
    widget = BlindVote(SYSTEMS, tmp_path / "v.jsonl")
    assert "It is kept as v.jsonl.damaged-1; a new file was started with the 0 votes" in widget.message
    assert "v.jsonl.damaged-1" in widget.fallback()
    widget.vote("left")
    assert BlindVote(SYSTEMS, tmp_path / "v.jsonl").done == 1


@pytest.mark.parametrize(
    ("candidates", "more", "message"),
    [
        ({"a": ["x"]}, {}, "two or more systems, not \\['a'\\]"),
        ({"a": [], "b": []}, {}, "every system has 0"),
        ({"a": ["x"], "b": ["x", "y"]}, {}, "same number of results, not {'a': 1, 'b': 2}"),
        (SYSTEMS, {"prompts": ["x"]}, "1 prompts for 3 items"),
        (SYSTEMS, {"texts": {"secretive-one": ["x"]}}, "one text for every result"),
        (SYSTEMS, {"repeats": 2}, "between 0 and 1, not 2"),
    ],
)
def test_bad_input_is_named(tmp_path, candidates, more, message):
    with pytest.raises(ValueError, match=message):
        BlindVote(candidates, tmp_path / "v.jsonl", **more)


def test_unknown_messages_from_the_browser_are_shown_not_swallowed(tmp_path):
    widget = BlindVote(SYSTEMS, tmp_path / "v.jsonl")
    send(widget, kind="vote", number=0, choice="best")
    assert "no choice 'best'; choose one of left, right, tie, bad" in widget.message
    assert widget.done == 0


def test_text_preferences_have_the_form_that_trainers_read(tmp_path):
    widget = BlindVote(SYSTEMS, tmp_path / "v.jsonl", prompts=["p0", "p1", "p2"], repeats=1.0)
    while not widget.finished:
        pair = widget._pairs[widget.done]
        widget.vote("tie" if pair.item == 0 else "left" if pair.left == "hidden-two" else "right")
    rows = [json.loads(line) for line in widget.export(tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert sorted(row["prompt"] for row in rows) == ["p1", "p2"]
    assert {row["chosen_system"] for row in rows} == {"hidden-two"}
    assert {(row["prompt"], row["chosen"], row["rejected"]) for row in rows} == {
        ("p1", "dos", "second text"),
        ("p2", "tres", "third"),
    }
    assert widget.results().consistency.value == 1.0


def test_picture_preferences_are_files_or_the_prompts_behind_them(tmp_path):
    one, two = grid(2, 3)
    widget = BlindVote({"a": one, "b": two}, tmp_path / "v.jsonl", repeats=0)
    assert bytes(widget.left_picture).startswith(b"\x89PNG")
    for _ in range(3):
        widget.vote("left")
    with pytest.raises(ValueError, match="give texts="):
        widget.preferences()
    rows = [json.loads(line) for line in widget.export(tmp_path / "pairs.jsonl").read_text().splitlines()]
    for row in rows:
        with Image.open(tmp_path / row["chosen"]) as image:
            assert image.size == (96, 96)
    texts = {"a": ["a0", "a1", "a2"], "b": ["b0", "b1", "b2"]}
    named = BlindVote({"a": one, "b": two}, tmp_path / "v.jsonl", repeats=0, texts=texts)
    assert {row["chosen"][1] + row["rejected"][1] for row in named.preferences()} == {"00", "11", "22"}


def test_about_n_more_votes_is_said_without_naming_anyone(tmp_path):
    widget = BlindVote(
        {"aa-x": [str(i) for i in range(20)], "bb-y": [f"{i}." for i in range(20)]}, tmp_path / "v.jsonl"
    )
    for i in range(12):
        pair = widget._pairs[i]
        widget.vote("left" if (pair.left == "aa-x") == (i % 3 > 0) else "right")
    assert re.fullmatch(r"about \d+ more votes to decide", widget.more)


def test_hostile_text_stays_text(tmp_path):
    widget = BlindVote({"<b>a": list(HOSTILE), "b": list(HOSTILE[::-1])}, tmp_path / "v.jsonl", prompts=list(HOSTILE))
    json.dumps(widget.get_state("current"), ensure_ascii=False).encode()  # what the kernel sends
    page = widget.fallback()
    widget.reveal()
    page += widget.to_html(tmp_path / "v.html").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "<b>a" not in page
    assert not re.search(r'"\s+onmouseover', page)
