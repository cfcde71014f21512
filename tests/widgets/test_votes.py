import json
from collections import Counter

import numpy as np
import pytest

from widgets.vote_file import OtherVoteError, VoteFile
from widgets.votes import Vote, draw_pairs, results, schedule_hash, votes_to_decide, wilson, winner


def test_every_pair_comes_once_on_balanced_sides_and_repeats_follow_their_first_showing():
    pairs = draw_pairs(["a", "b", "c"], 20, seed=3, repeats=0.2)
    first = [p for p in pairs if not p.repeat]
    assert Counter(frozenset((p.left, p.right)) for p in first) == Counter(
        {frozenset(x): 20 for x in (("a", "b"), ("a", "c"), ("b", "c"))}
    )
    assert Counter(p.left for p in first if {p.left, p.right} == {"a", "b"}) == {"a": 10, "b": 10}
    assert sum(p.repeat for p in pairs) == 12
    for i, pair in enumerate(pairs):
        if pair.repeat:
            earlier = [p for p in pairs[:i] if p.item == pair.item and {p.left, p.right} == {pair.left, pair.right}]
            assert [(p.left, p.right) for p in earlier] == [(pair.right, pair.left)]


def test_order_depends_on_the_seed_alone():
    assert draw_pairs(["a", "b"], 9, seed=1) == draw_pairs(["a", "b"], 9, seed=1)
    assert draw_pairs(["a", "b"], 9, seed=1) != draw_pairs(["a", "b"], 9, seed=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], 3), "two or more systems with different names, not \\['a'\\]"),
        ((["a", "a"], 3), "different names"),
        ((["a", "b"], 0), "at least one item"),
    ],
)
def test_votes_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_pairs(*arguments)


def test_wilson_is_the_textbook_value():
    share = wilson(7, 10)
    z, p, n = 1.959964, 0.7, 10
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert share.low == pytest.approx(centre - half, abs=1e-6)
    assert share.high == pytest.approx(centre + half, abs=1e-6)
    assert wilson(0, 0).value is None


@pytest.mark.parametrize(("wins", "losses"), [(6, 4), (60, 40), (3, 1), (501, 499)])
def test_that_many_more_votes_do_decide(wins, losses):
    more = votes_to_decide(wins, losses)
    n = wins + losses + more
    share = wilson(round(n * wins / (wins + losses)), n)
    assert share.low > 0.5 - 0.5 / n  # rounding moves a rate by up to half a vote
    if more > 1:
        assert wilson(wins, wins + losses).low <= 0.5


def test_scores_recover_the_strengths_that_made_the_votes():
    rng = np.random.default_rng(1)
    truth = {"a": 0.8, "b": 0.0, "c": -0.8}
    pairs = draw_pairs(list(truth), 300, seed=0, repeats=0)
    votes = [
        Vote(i, "left" if rng.random() < 1 / (1 + np.exp(truth[p.right] - truth[p.left])) else "right")
        for i, p in enumerate(pairs)
    ]
    found = results(pairs, votes, resamples=100)
    for name, value in truth.items():
        assert found.strength[name] == pytest.approx(value, abs=0.2)
        assert found.strength_low[name] < value < found.strength_high[name]
    assert found.left_chosen.low < 0.5 < found.left_chosen.high


def test_a_voter_who_always_clicks_left_is_found_out():
    pairs = draw_pairs(["a", "b"], 40, seed=0, repeats=0.25)
    found = results(pairs, [Vote(i, "left") for i in range(len(pairs))])
    assert found.left_chosen.value == 1.0
    assert found.left_chosen.low > 0.5
    assert found.consistency == wilson(0, 10)  # sides are swapped, so the same side is another answer
    assert found.rates[0].share.value == 0.5


def test_a_steady_voter_is_consistent_and_ties_do_not_count_as_wins():
    pairs = draw_pairs(["a", "b"], 40, seed=0, repeats=0.25)
    answers = [
        "tie" if p.item % 4 == 0 else "bad" if p.item % 4 == 1 else ("left" if p.left == "a" else "right")
        for p in pairs
    ]
    found = results(pairs, [Vote(i, answer) for i, answer in enumerate(answers)])
    rate = found.rates[0]
    assert (rate.left, rate.right, rate.wins, rate.losses, rate.ties, rate.bad) == ("a", "b", 20, 0, 10, 10)
    assert found.consistency.value == 1.0
    assert found.strength["a"] > found.strength["b"]
    assert winner(pairs[0], "tie") is None


@pytest.mark.parametrize("systems", [2, 3, 6])
def test_few_and_one_sided_votes_have_finite_scores(systems):
    pairs = draw_pairs([f"s{i}" for i in range(systems)], 6, seed=1, repeats=0.3)
    rng = np.random.default_rng(systems)
    for n in (1, 3, 8):
        votes = [Vote(i, str(rng.choice(["left", "right", "tie", "bad"]))) for i in range(min(n, len(pairs)))]
        assert np.isfinite(list(results(pairs, votes, resamples=50).strength.values())).all()
    lead = [Vote(i, "left" if p.left < p.right else "right") for i, p in enumerate(pairs)]
    found = results(pairs, lead, resamples=50)
    assert list(found.strength.values()) == sorted(found.strength.values(), reverse=True)
    assert np.isfinite(list(found.strength_high.values())).all()


def test_two_systems_scores_are_the_log_odds_of_their_wins():
    pairs = draw_pairs(["a", "b"], 40, seed=0, repeats=0)
    votes = [Vote(i, "left" if (p.left == "a") == (p.item < 30) else "right") for i, p in enumerate(pairs)]
    found = results(pairs, votes, resamples=10).strength
    assert found["a"] - found["b"] == pytest.approx(np.log(30.1 / 10.1))


def test_no_vote_gives_no_numbers():
    found = results(draw_pairs(["a", "b"], 4), [])
    assert found.rates[0].share.value is None
    assert found.rates[0].more is None
    assert found.strength == {"a": 0.0, "b": 0.0}
    assert found.strength_high["a"] == float("inf")


# --- the file ---


def test_votes_are_on_disk_after_each_and_come_back(tmp_path):
    file = VoteFile(tmp_path / "new" / "votes.jsonl", "abc")
    assert file.read(9) == ([], False, "")
    file.add(Vote(0, "left", 1.5))
    file.add(Vote(1, "tie"))
    file.undo()
    file.add(Vote(1, "bad"))
    assert len(file.path.read_text().splitlines()) == 5
    assert file.read(9) == ([Vote(0, "left", 1.5), Vote(1, "bad")], False, "")
    file.end()
    assert file.read(9).ended


@pytest.mark.parametrize(
    "damage",
    [
        b'{"pair": 1, "cho',
        b"\xff\xfe\x00garbage\n",
        b'{"pair": 7, "choice": "left", "seconds": 0}\n',
        b'{"pair": 1, "choice": "best", "seconds": 0}\n',
        b"[1]\n",
        b"null\n",
        b"[" * 100_000 + b"\n",
        b'{"undo": true}\n{"undo": true}\n',
    ],
)
def test_a_damaged_file_is_kept_aside_and_a_new_one_started(tmp_path, damage):
    file = VoteFile(tmp_path / "votes.jsonl", "abc")
    file.add(Vote(0, "left"))
    before = file.path.read_bytes() + damage
    file.path.write_bytes(before)
    kept = file.read(9)
    assert "kept as votes.jsonl.damaged-1" in kept.warning
    assert (tmp_path / "votes.jsonl.damaged-1").read_bytes() == before
    assert file.read(9) == (kept.votes, False, "")
    if b"undo" not in damage:
        assert kept.votes == [Vote(0, "left")]
    file.path.write_text("not json\n")
    assert file.read(9).votes == []
    assert (tmp_path / "votes.jsonl.damaged-2").exists()
    file.add(Vote(0, "right"))
    assert file.read(9).votes == [Vote(0, "right")]


def test_an_empty_file_is_a_new_one(tmp_path):
    file = VoteFile(tmp_path / "votes.jsonl", "abc")
    file.path.touch()
    file.add(Vote(0, "left"))
    assert file.read(9) == ([Vote(0, "left")], False, "")


def test_votes_on_other_pairs_are_refused_and_left_alone(tmp_path):
    VoteFile(tmp_path / "votes.jsonl", "abc").add(Vote(0, "left"))
    with pytest.raises(OtherVoteError, match="abc, not def.*give another path"):
        VoteFile(tmp_path / "votes.jsonl", "def").read(9)
    assert len((tmp_path / "votes.jsonl").read_text().splitlines()) == 2


def test_the_schedule_hash_tells_contents_apart():
    pairs = draw_pairs(["a", "b"], 4)
    assert schedule_hash(pairs, "x") != schedule_hash(pairs, "y")
    assert json.dumps(schedule_hash(pairs)) == json.dumps(schedule_hash(draw_pairs(["a", "b"], 4)))
