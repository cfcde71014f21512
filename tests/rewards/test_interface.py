"""Any function of pictures and prompts is a reward; what it returns is checked, and kept where it says what it is."""

import numpy as np
import pytest
import torch

from lmops_lab.rewards.cache import RewardCache, picture_hash
from lmops_lab.rewards.interface import score_images


class counted:  # noqa: N801
    """A reward that notes the sizes of the batches it was asked for."""

    def __init__(self, reward, seen, fingerprint=None, reads_prompt=None):
        self.reward, self.seen = reward, seen
        self.fingerprint = fingerprint or getattr(reward, "fingerprint", None)
        self.reads_prompt = getattr(reward, "reads_prompt", True) if reads_prompt is None else reads_prompt

    def __call__(self, images, prompts):
        self.seen.append(len(images))
        return self.reward(images, prompts)


def _brightness(images, prompts):
    return [float(np.asarray(image).mean()) + len(prompt) for image, prompt in zip(images, prompts, strict=True)]


def test_a_plain_function_is_a_reward(noise):
    prompts = ["a", "bb", "ccc", "d", "e", "f"]
    seen = []
    scores = score_images(counted(_brightness, seen), noise, prompts, batch_size=4)
    assert scores.tolist() == _brightness(noise, prompts)
    assert seen == [4, 2]
    assert score_images(lambda i, _: torch.arange(len(i)).half(), noise[:3], prompts[:3]).tolist() == [0, 1, 2]


def test_scores_are_kept_by_picture_and_prompt(noise, tmp_path):
    cache, seen = RewardCache(tmp_path / "scores.sqlite"), []
    reward = counted(_brightness, seen, "brightness 1")
    first = score_images(reward, noise, ["a"] * 6, cache=cache)
    again = score_images(reward, [image.copy() for image in noise[::-1]], ["a"] * 6, cache=cache)
    np.testing.assert_array_equal(again[::-1], first)
    assert seen == [6]
    score_images(reward, noise, ["a"] * 5 + ["b"], cache=cache)
    assert seen == [6, 1]
    score_images(counted(_brightness, seen, "brightness 2"), noise, ["a"] * 6, cache=cache)
    assert seen == [6, 1, 6]
    score_images(_brightness, noise, ["a"] * 6, cache=cache)  # no fingerprint: not kept, not found


def test_a_stopped_call_keeps_its_finished_batches(noise, tmp_path):
    cache, seen = RewardCache(tmp_path / "scores.sqlite"), []

    def stops(images, prompts):
        if len(seen) == 2:
            raise KeyboardInterrupt
        return _brightness(images, prompts)

    with pytest.raises(KeyboardInterrupt):
        score_images(counted(stops, seen, "x"), noise, ["a"] * 6, cache=cache, batch_size=2)
    seen.clear()
    score_images(counted(_brightness, seen, "x"), noise, ["a"] * 6, cache=cache, batch_size=2)
    assert sum(seen) == 4


def test_a_cache_file_that_is_no_database_starts_anew(tmp_path):
    path = tmp_path / "scores.sqlite"
    path.write_text("this is no database, but long enough to be taken for one " * 50)
    cache = RewardCache(path)
    assert cache.read(["a"]) == [None]
    cache.write({"a": 1.5})
    assert RewardCache(path).read(["b", "a"]) == [None, 1.5]


def test_the_hash_follows_what_a_picture_shows(noise, tmp_path):
    noise[0].save(tmp_path / "a.png")
    from PIL import Image

    with Image.open(tmp_path / "a.png") as opened:
        assert picture_hash(opened) == picture_hash(noise[0])
    assert len({picture_hash(image) for image in noise}) == 6
    assert picture_hash(noise[0].resize((32, 128))) != picture_hash(noise[0])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda i, _: [1.0] * (len(i) - 1), r"shape \(2,\) for 3 pictures"),
        (lambda i, _: np.ones((len(i), 2)), r"shape \(3, 2\) for 3 pictures"),
        (lambda *_: [1.0, float("nan"), 2.0], "returned nan for picture 1; scores must be finite"),
        (lambda *_: ["good"] * 3, "must return one number a picture"),
        (lambda *_: 3.0, "must return one number a picture"),
        (lambda *_: None, "must return one number a picture"),
    ],
)
def test_what_is_no_score_is_refused(noise, answer, message):
    with pytest.raises(ValueError, match=message):
        score_images(answer, noise[:3], ["a", "b", "c"])


def test_pictures_and_prompts_belong_together(noise):
    with pytest.raises(ValueError, match="there are 6 pictures but 2 prompts"):
        score_images(_brightness, noise, ["a", "b"])
    with pytest.raises(ValueError, match="prompts is one text, 'sixsix'"):
        score_images(_brightness, noise, "sixsix")
    with pytest.raises(ValueError, match="no pictures to score"):
        score_images(_brightness, [], [])
    with pytest.raises(ValueError, match="batch_size is 0"):
        score_images(_brightness, noise, ["a"] * 6, batch_size=0)
