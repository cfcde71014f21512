"""The rules of the world's words: which exist, what they are worth, what they never do."""

import numpy as np
import pytest

from lmops_lab.emojiworld.captions import (
    DAMNATION,
    DRAGGING,
    KINDS,
    MIDDLING,
    PRAISE,
    USELESS,
    draw_content,
    quality_of_words,
    write_caption,
)
from lmops_lab.emojiworld.settings import SETTINGS
from lmops_lab.emojiworld.subjects import SUBJECTS, SYNONYMS, with_article


@pytest.fixture(scope="module")
def contents():
    return [draw_content(np.random.default_rng([5, i]), wordings=3) for i in range(1_000)]


def test_the_world_is_as_large_as_promised():
    assert len(SUBJECTS) >= 60
    assert len(set(SUBJECTS.values())) == len(SUBJECTS)
    assert len(SETTINGS) >= 8
    assert set(DRAGGING.values()) <= set(SUBJECTS) | set(SETTINGS)
    assert set(SYNONYMS) <= set(SUBJECTS)


def test_no_word_has_two_meanings():
    groups = [set(PRAISE), set(DAMNATION), set(USELESS), set(DRAGGING)]
    assert len(set.union(*groups)) == sum(map(len, groups))
    phrases = [phrase for setting in SETTINGS.values() for phrase in setting.phrases]
    assert len(set(phrases)) == len(phrases)
    names = [*SUBJECTS, *(word for words in SYNONYMS.values() for word in words)]
    assert len(set(names)) == len(names)


def test_all_kinds_of_captions_come_in_their_shares(contents):
    for kind, share in KINDS.items():
        assert np.mean([content.kind == kind for content in contents]) == pytest.approx(share, abs=0.05)
    assert {content.subject for content in contents} == set(SUBJECTS)
    assert {content.setting for content in contents} == set(SETTINGS)


def test_words_cause_the_quality(contents):
    qualities = {kind: np.array([c.quality for c in contents if c.kind == kind]) for kind in KINDS}
    assert qualities["plain"].mean() == pytest.approx(MIDDLING, abs=0.02)
    assert qualities["useless"].mean() == pytest.approx(MIDDLING, abs=0.02)
    assert qualities["praised"].mean() > 0.75
    assert qualities["damned"].mean() < 0.25
    assert all(0 <= content.quality <= 1 for content in contents)


def test_more_praise_is_better_but_ever_less_so():
    one, two, three = (quality_of_words(tuple(PRAISE)[:n]) for n in (1, 2, 3))
    assert MIDDLING < one < two < three < 0.97
    assert three - two < two - one < one - MIDDLING
    assert all(quality_of_words((word,)) > MIDDLING for word in PRAISE)
    assert all(quality_of_words((word,)) < MIDDLING for word in DAMNATION)
    assert all(quality_of_words((word,)) == MIDDLING for word in (*USELESS, *DRAGGING))


def test_captions_name_what_is_seen_unless_a_word_drags_it_away(contents):
    dragged = 0
    for content in contents:
        named_subject, named_setting = content.named
        if content.kind != "dragged":
            assert content.subject == named_subject
            assert named_setting in ("", content.setting)
        else:
            dragged += content.subject != named_subject or named_setting not in ("", content.setting)
        for caption in content.captions:
            names = (named_subject, *SYNONYMS.get(named_subject, ()))
            assert any(with_article(name) in caption for name in names)
            assert any(phrase in caption for phrase in SETTINGS[named_setting].phrases) if named_setting else True
    of_kind = sum(content.kind == "dragged" for content in contents)
    assert 0.6 < dragged / of_kind < 0.95


def test_wordings_of_one_scene_say_the_same(contents):
    for content in contents[:300]:
        additions = {frozenset(caption.split(", ")[1:]) for caption in content.captions}
        assert len(additions) == 1
    assert any(len(set(content.captions)) == 3 for content in contents)


def test_captions_are_lower_case_and_fit_the_77_places(contents):
    assert all(caption == caption.lower() for content in contents for caption in content.captions)
    assert max(len(caption.split()) for content in contents for caption in content.captions) < 40
    assert "  " not in write_caption("ice cream", "", (), np.random.default_rng(0))
