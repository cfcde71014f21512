import numpy as np
import pytest

from lmops_lab.rewards.promptist import promptist_reward
from lmops_lab.rewriting.reward import GuardedReward, PictureReward, score_rewrites
from tests.rewriting.pictures import PaintGenerator, rabbit_relevance, red


def test_promptists_reward_by_hand():
    relevance = np.array([[0.30, 0.27], [-0.2, 0.28]])
    aesthetic = np.array([[6.0, 5.0], [5.0, 5.0]])
    # First: ((6 - 5) + 0 + (5 - 5) - .2) / 2; second: negative cosines count as 0, which costs 20 * .28 = 5.6.
    np.testing.assert_allclose(promptist_reward(relevance, aesthetic, np.array([5.0, 4.0])), [0.4, 1 - 2.8])


def make(**options):
    return PictureReward(PaintGenerator(), rabbit_relevance, red, **options)


def test_pictures_of_text_and_rewrite_share_their_seeds():
    reward = make(seeds=(3, 8))
    scores = reward.details(["a rabbit", "a rabbit"], ["a rabbit, 8k", "a cat, very nice"])
    np.testing.assert_allclose(scores.aesthetic, [[3.03, 3.08], [4.03, 4.08]])
    np.testing.assert_allclose(scores.plain_aesthetic, [2.055, 2.055])
    np.testing.assert_allclose(scores.relevance, [[0.3, 0.3], [0.18, 0.18]])
    np.testing.assert_allclose(scores.reward, [1.0, 2.0 - 20 * 0.1], atol=1e-9)
    # What the seeds add to both is gone from the difference: common random numbers.
    np.testing.assert_allclose(make(seeds=(40, 90))(["a rabbit"], ["a rabbit, 8k"]), [1.0])


def test_another_clip_has_another_threshold():
    users, rewrites = ["a rabbit", "a rabbit"], ["a rabbit, 8k", "a cat, very nice"]
    scores = make(threshold=0.2).details(users, rewrites)
    np.testing.assert_allclose(scores.reward, [1.0, 2.0 - 20 * 0.02], atol=1e-9)
    np.testing.assert_allclose(scores.by_picture.mean(1), scores.reward, atol=1e-9)


def test_the_threshold_is_the_one_of_the_relevance_reward_unless_one_is_given():
    class Strict:
        threshold = 0.4

        def __call__(self, images, prompts):
            return [0.3 for _ in zip(images, prompts, strict=True)]

    pictures = PictureReward(PaintGenerator(), Strict(), red)
    scores = pictures.details(["a rabbit"], ["a rabbit, 8k"])
    assert scores.threshold == 0.4
    np.testing.assert_allclose(scores.reward, [1.0 - 20 * 0.1], atol=1e-9)
    given = PictureReward(PaintGenerator(), Strict(), red, threshold=0.2).details(["a rabbit"], ["a rabbit, 8k"])
    np.testing.assert_allclose(given.reward, [1.0], atol=1e-9)


def test_relevance_is_asked_about_the_users_own_text():
    asked = []

    def relevance(images, prompts):
        asked.extend(prompts)
        return [0.3] * len(images)

    PictureReward(PaintGenerator(), relevance, red)(["a rabbit"], ["a rabbit, 8k"])
    assert asked == ["a rabbit", "a rabbit"]


def test_equal_prompts_are_never_drawn_twice():
    reward = make()
    first = reward(["a rabbit", "a rabbit"], ["a rabbit, 8k", "a rabbit, 8k"])
    assert sorted(reward.generator.drawn) == ["a rabbit", "a rabbit, 8k"]
    assert reward(["a rabbit"], ["a rabbit, 8k"]) == first[:1]
    reward(["a cat"], ["a rabbit, 8k"])  # the same pictures against another text
    reward(["a rabbit"], ["a rabbit"])
    assert sorted(reward.generator.drawn) == ["a cat", "a rabbit", "a rabbit, 8k"]


def test_memory_is_bounded_and_scores_stay():
    reward = make(memory=4 * 4 * 3 * 2 * 2)  # two prompts with two pictures
    texts = [f"a rabbit {i}" for i in range(5)]
    before = [reward([text], [text + ", 8k"])[0] for text in texts]
    assert len(reward._pictures) <= 2
    drawn = len(reward.generator.drawn)
    assert reward(texts, [text + ", 8k" for text in texts]) == before
    assert len(reward.generator.drawn) == drawn


def test_plain_scores_that_are_known_are_used():
    """The original crashed on precomputed scores of the user's texts."""
    reward = make(plain={"a rabbit": 1.5})
    assert reward(["a rabbit", "a cat"], ["a rabbit, 8k", "a cat, 8k"]) == pytest.approx([1.505, 1.0])
    assert "a rabbit" not in reward.generator.drawn


@pytest.mark.parametrize("answer", [[1.0], [float("nan")] * 2, [1.0, float("inf")]])
def test_image_rewards_that_are_none(answer):
    reward = PictureReward(PaintGenerator(), rabbit_relevance, lambda *_: answer)
    with pytest.raises(ValueError, match=r"the image reward .* one finite number each"):
        reward(["a rabbit"], ["a rabbit"])


def test_rewards_that_are_none():
    with pytest.raises(ValueError, match=r"shape \(1,\) for 2 rewrites"):
        score_rewrites(lambda *_: [1.0], ["a", "b"], ["c", "d"])
    with pytest.raises(ValueError, match="returned nan for 'd'"):
        score_rewrites(lambda *_: [1.0, float("nan")], ["a", "b"], ["c", "d"])
    with pytest.raises(ValueError, match="2 user texts but 1 rewrites"):
        score_rewrites(lambda *_: [1.0], ["a", "b"], ["c"])


def test_a_repeated_marker_wins_nothing():
    """The original scored a completion up to a second marker: what followed was free."""
    scored = []

    def length(users, rewrites):
        scored.extend(rewrites)
        return [float(len(rewrite)) for rewrite in rewrites]

    reward = GuardedReward(length)
    assert reward(["u"] * 4, ["good", "good Rephrase: junk", "", "Rephrase: x"]) == [4.0, -5.0, -5.0, -5.0]
    assert scored == ["good"]
    # A trick is never the better choice, however bad the honest rewrites of the batch are.
    bad = GuardedReward(lambda users, _: [-12.0] * len(users))
    assert bad(["u", "u"], ["honest", ""]) == [-12.0, -13.0]


def test_the_whole_rewrite_is_scored_and_equal_pairs_once():
    calls = []

    def remember(users, rewrites):
        calls.append(list(zip(users, rewrites, strict=True)))
        return [float(len(rewrite)) for rewrite in rewrites]

    reward = GuardedReward(remember)
    assert reward(["u", "u", "v"], ["a, b", "a, b", "a, b"]) == [4.0] * 3
    assert reward(["u"], ["a, b"]) == [4.0]
    assert calls == [[("u", "a, b"), ("v", "a, b")]]
