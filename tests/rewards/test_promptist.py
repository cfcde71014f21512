"""Promptist's reward against its formula written out, and its constants."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmops_lab.rewards.aesthetic import Aesthetic, AestheticHead
from lmops_lab.rewards.interface import score_images
from lmops_lab.rewards.promptist import PromptistReward, promptist_reward, relevance_term
from lmops_lab.rewards.relevance import Relevance

_scores = st.lists(st.tuples(st.floats(-1, 1), st.floats(1, 10)), min_size=1, max_size=8)


@given(_scores, st.lists(st.floats(1, 10), min_size=1, max_size=8))
def test_the_formula(rewritten, plain):
    total = 0.0
    for cosine, rating in rewritten:
        total += (rating - sum(plain) / len(plain)) + min(0.0, 20 * (max(0.0, cosine) - 0.28))
    cosines, ratings = np.array(rewritten).T
    assert float(promptist_reward(cosines, ratings, np.array(np.mean(plain)))) == pytest.approx(
        total / len(rewritten), abs=1e-9
    )


def test_relevant_pictures_cost_nothing_and_irrelevant_ones_at_most_5_6():
    np.testing.assert_allclose(relevance_term(np.array([0.28, 0.5, 1.0])), 0, atol=1e-12)
    np.testing.assert_allclose(relevance_term(np.array([0.0, -0.7])), -5.6)
    np.testing.assert_allclose(relevance_term(np.array([0.18])), -2.0)


@pytest.fixture(scope="module")
def reward(encoder):
    torch.manual_seed(3)
    return PromptistReward(Relevance(encoder), Aesthetic(encoder, AestheticHead().eval().requires_grad_(False)))


def test_compare_reads_the_original_text_and_all_pictures(reward, noise):
    plain, rewritten = noise[:3], noise[3:]
    scores = reward.compare("a cat", plain, rewritten)
    cosines = reward.relevance.cosines(rewritten, ["a cat"] * 3)
    ratings, plain_ratings = reward.aesthetic(rewritten), reward.aesthetic(plain)
    expected = np.mean(ratings - plain_ratings.mean() + np.minimum(0, 20 * (np.maximum(0, cosines) - 0.28)))
    assert scores.reward == pytest.approx(expected)
    np.testing.assert_allclose(scores.aesthetics, ratings)
    np.testing.assert_allclose(scores.plain_aesthetics, plain_ratings)
    np.testing.assert_allclose(scores.cosines, np.maximum(0, cosines))
    assert reward.compare("a cat", plain, plain).reward == pytest.approx(relevance_term(scores.plain_cosines).mean())


def test_as_a_plain_reward(reward, noise):
    scores = score_images(reward, noise, ["a cat"] * 6)
    expected = reward.aesthetic(noise) + relevance_term(reward.relevance(noise, ["a cat"] * 6))
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert "0.28 20.0" in reward.fingerprint


def test_a_clip_may_say_its_own_threshold(encoder, monkeypatch):
    relevance = Relevance(encoder)
    assert relevance.threshold == 0.28
    monkeypatch.setattr(encoder.model.config, "relevant_cosine", 0.6, raising=False)
    assert relevance.threshold == 0.6
    monkeypatch.setattr(encoder.model.config, "relevant_cosine", "much")
    with pytest.raises(ValueError, match="relevant_cosine of CLIP .* is 'much'"):
        _ = relevance.threshold


def test_unequal_numbers_of_pictures_are_refused(reward, noise):
    with pytest.raises(ValueError, match="there are 1 plain and 2 rewritten pictures"):
        reward.compare("a cat", noise[:1], noise[:2])
    with pytest.raises(ValueError, match="there are 0 plain"):
        reward.compare("a cat", [], [])
    with pytest.raises(ValueError, match="one cosine and one rating a picture"):
        promptist_reward(np.ones(2), np.ones(3), np.ones(()))
    with pytest.raises(ValueError, match="at least one picture"):
        promptist_reward(np.ones(0), np.ones(0), np.ones(()))
