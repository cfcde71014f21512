"""The passages that notebook 07 asks about: as many as the data card says, plain, and each question has one home."""

import re
from collections import Counter

from lmops_lab.icl.answers import exact_match
from lmops_lab.icl.passages import load_passages

PASSAGES = load_passages()
ASKED = [p for p in PASSAGES if p.question]


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower())


def test_counts_and_lengths_are_those_of_the_data_card():
    assert (len(PASSAGES), len(ASKED)) == (120, 60)
    assert set(Counter(p.kind for p in ASKED).values()) == {12}
    assert all(13 <= len(p.text.split()) <= 35 for p in PASSAGES)
    assert all(p.text.isascii() for p in PASSAGES)


def test_no_two_passages_share_five_words_and_few_share_an_opening():
    seen = Counter(
        five for p in PASSAGES for five in {tuple(words(p.text)[i:][:5]) for i in range(len(words(p.text)) - 4)}
    )
    assert [five for five, count in seen.items() if count > 1] == []
    openings = Counter(tuple(words(p.text)[:2]) for p in PASSAGES)
    assert openings.most_common(1)[0][1] <= 3


def test_an_answer_stands_in_its_own_passage_and_in_no_other():
    for p in ASKED:
        best = p.answers[0]
        found = [q for q in PASSAGES if re.search(rf"\b{re.escape(best)}\b", q.text)]
        assert p in found
        # Other passages may hold the number or the name in passing, but none may answer the question.
        for q in found:
            if q is not p:
                shared = {w for w in words(p.question) if len(w) > 4} & set(words(q.text))
                assert len(shared) <= 1, (p.question, q.text)


def test_accepted_answers_are_distinct_and_the_question_does_not_give_them_away():
    for p in ASKED:
        assert len(set(p.answers)) == len(p.answers)
        assert p.answers[0].lower() not in p.question.lower()
        same_kind = [q for q in ASKED if q.kind == p.kind and q is not p]
        assert not any(exact_match(q.answers[0], p.answers) for q in same_kind)
