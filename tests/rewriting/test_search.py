import itertools

import pytest

from lmops_lab.rewriting.decoding import Decoding
from lmops_lab.rewriting.rewriter import Rewriter
from lmops_lab.rewriting.search import (
    BestOfN,
    EvolutionarySearch,
    FixedSuffix,
    GreedySearch,
    InContext,
    RandomModifiers,
    best_suffix,
    demonstration_context,
    user_input,
    with_modifiers,
)
from tests.rewriting.tiny_rewriters import byte_gpt2_folder

WORTH = {"good": 1.0, "fine": 0.5, "useless": 0.0, "harmful": -1.0}
WORDS = tuple(WORTH)
USERS = ["a cat", " a dog "]


def worth(users, rewrites):
    """Modifiers add up, and "good" and "fine" together earn .3 more."""
    scores = []
    for rewrite in rewrites:
        words = rewrite.split(", ")[1:]
        scores.append(sum(WORTH[word] for word in words) + 0.3 * ({"good", "fine"} <= set(words)))
    return scores


def test_simple_methods():
    assert user_input(USERS) == ["a cat", "a dog"]
    assert FixedSuffix(("8k", "art"))(USERS) == ["a cat, 8k, art", "a dog, 8k, art"]
    draw = RandomModifiers(WORDS, 2, seed=1)
    assert draw(USERS) == [draw([text])[0] for text in USERS]
    assert draw([f"a {i}" for i in range(40)]) != RandomModifiers(WORDS, 2, seed=2)([f"a {i}" for i in range(40)])
    assert all(len(set(text.split(", ")[1:])) == 2 for text in draw(USERS))
    with pytest.raises(ValueError, match="count is 9, there are 4"):
        RandomModifiers(WORDS, 9)
    with pytest.raises(ValueError, match="is empty"):
        user_input([" "])


def test_greedy_search_stops_where_nothing_helps():
    assert GreedySearch(WORDS, worth)(USERS) == ["a cat, good, fine", "a dog, good, fine"]
    assert GreedySearch(WORDS, worth, most=1)(USERS) == ["a cat, good", "a dog, good"]
    assert GreedySearch(("harmful",), worth)(USERS) == ["a cat", "a dog"]


def test_evolution_finds_the_best_set():
    """The optimum by trying all sets of at most three."""
    found = EvolutionarySearch(WORDS, worth, population=10, generations=8, most=3)(USERS)
    sets = [s for n in range(4) for s in itertools.combinations(WORDS, n)]
    best = max(worth([""], [with_modifiers("a cat", s)])[0] for s in sets)
    assert worth(USERS, found) == [best, best]
    assert found == EvolutionarySearch(WORDS, worth, population=10, generations=8, most=3)(USERS)


def test_the_best_fixed_suffix():
    suffix, mean = best_suffix(USERS, WORDS, worth)
    assert suffix.modifiers == ("good", "fine")
    assert mean == pytest.approx(1.8)


def test_best_of_n_takes_the_candidate_with_the_best_reward(tmp_path):
    rewriter = Rewriter.load(
        str(byte_gpt2_folder(tmp_path / "m", spread=0.1)), decoding=Decoding("sampling", max_new_tokens=8)
    )

    def length(users, rewrites):
        return [float(len(rewrite)) for rewrite in rewrites]

    found = BestOfN(rewriter, length, 6)(USERS)
    for text, best in zip(USERS, found, strict=True):
        assert len(best) == max(len(c.text) for c in rewriter.rewrite(text, 6).candidates)


def test_in_context_rewriting_with_and_without_groups(tiny):
    shown = [(f"a {w}", f"a {w}, sharp focus, 8k") for w in ("cat", "dog", "fox", "pig")] + [("a cow", "a cow, blurry")]
    allowed = {"a hen, sharp focus, 8k", "a hen, blurry"}
    assert InContext(tiny, shown)(["a hen"])[0] in allowed
    context = demonstration_context(tiny, shown, group_size=2, progress=False)
    grouped = InContext(tiny, shown, context)
    assert grouped(["a hen"])[0] in allowed
    # The choice is the one that structured prompting scores best, by hand.
    options = [" a hen, sharp focus, 8k", " a hen, blurry"]
    scores = tiny.score(["a hen Rephrase:"], options, context=context, length="mean")[0]
    assert grouped(["a hen"]) == [options[int(scores.argmax())].strip()]
    with pytest.raises(ValueError, match="no demonstration has modifiers"):
        InContext(tiny, [("a", "b")])(["a hen"])
