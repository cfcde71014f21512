import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmops_lab.attention.trie import LabelTrie


def test_single_token_labels_need_no_nodes():
    trie = LabelTrie.build([[5], [9]])
    assert (trie.nodes, trie.paths) == (0, (((-1, 5),), ((-1, 9),)))


def test_shared_beginnings_are_computed_once():
    trie = LabelTrie.build([[1, 2, 3], [1, 2, 4], [1, 5], [6]])
    assert trie.tokens == (1, 2)
    assert (trie.parents, trie.depths) == ((-1, 0), (1, 2))
    assert trie.paths[1] == ((-1, 1), (0, 2), (1, 4))
    assert trie.lengths == (3, 3, 2, 1)


@given(st.sets(st.lists(st.integers(0, 4), min_size=1, max_size=5).map(tuple), min_size=2, max_size=12))
def test_paths_spell_the_labels_and_nodes_see_their_ancestors_only(labels):
    labels = sorted(labels)
    trie = LabelTrie.build(labels)
    assert [tuple(token for _, token in path) for path in trie.paths] == labels
    visible = trie.visible()
    for node in range(trie.nodes):
        ancestors, parent = {node}, trie.parents[node]
        while parent >= 0:
            ancestors.add(parent)
            parent = trie.parents[parent]
        assert {i for i in range(trie.nodes) if visible[node, i]} == ancestors
        assert trie.depths[node] == len(ancestors)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[1]], "at least 2 labels"),
        ([[1], []], "label 1 has no tokens"),
        ([[1], [2], [1]], "labels 0 and 2 have the same"),
    ],
)
def test_bad_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        LabelTrie.build(labels)
