"""What a reward is: any function of pictures and prompts that returns one number a picture, checked and cached."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from lmops_lab.rewards.cache import RewardCache, picture_hash

Reward = Callable[[list[Image.Image], list[str]], Iterable[float]]
"""`f(images, prompts) -> scores`: higher is better, one finite number a picture. A plain function will do."""


class NamedReward(Protocol):
    """A reward whose scores can be kept: it says what they depend on.

    Attributes:
        fingerprint: name, weights and settings; scores of equal fingerprints are interchangeable.
        reads_prompt: whether the score of a picture changes with its prompt.
    """

    fingerprint: str
    reads_prompt: bool

    def __call__(self, images: list[Image.Image], prompts: list[str], /) -> NDArray[np.float64]:
        """One number a picture."""
        ...


def score_images(
    reward: Reward,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    *,
    cache: RewardCache | None = None,
    batch_size: int = 16,
    progress: bool = False,
) -> NDArray[np.float64]:
    """One checked score a picture.

    Args:
        reward: a reward of this package, or your own `f(images, prompts) -> scores`.
        cache: where scores are kept by the picture's pixels (and its prompt); for rewards with a `fingerprint`. Every
            finished batch is kept, so a stopped call continues.
        batch_size: pictures a call of the reward.

    Raises:
        ValueError: no pictures, unequal numbers of pictures and prompts, or a reward that returns something else than
            one finite number a picture.
    """
    if not images:
        raise ValueError("there are no pictures to score")
    if len(images) != len(prompts):
        raise ValueError(f"there are {len(images)} pictures but {len(prompts)} prompts; give one prompt a picture")
    if isinstance(prompts, str):
        raise ValueError(f"prompts is one text, {prompts[:40]!r}; give a list of texts")  # noqa: TRY004
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; a batch holds at least 1 picture")
    keys = _keys(reward, images, prompts) if cache else None
    known = cache.read(keys) if cache and keys else [None] * len(images)
    scores = np.array([math.nan if value is None else value for value in known])
    missing = np.flatnonzero(np.isnan(scores))
    with tqdm(total=len(images), initial=len(images) - len(missing), unit="picture", disable=not progress) as bar:
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            scores[batch] = check_scores(reward([images[i] for i in batch], [prompts[i] for i in batch]), len(batch))
            if cache and keys:
                cache.write({keys[i]: float(scores[i]) for i in batch})
            bar.update(len(batch))
    return scores


def check_scores(scores: Any, pictures: int) -> NDArray[np.float64]:
    """What a reward returned, as numbers.

    Raises:
        ValueError: not one finite number a picture.
    """
    if hasattr(scores, "detach"):  # a tensor, wherever it is
        scores = scores.detach().float().cpu()
    try:
        values = np.asarray(list(scores), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the reward returned {scores!r}; it must return one number a picture") from error
    if values.shape != (pictures,):
        raise ValueError(f"the reward returned scores of shape {values.shape} for {pictures} pictures; one a picture")
    if not np.isfinite(values).all():
        at = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"the reward returned {values[at]} for picture {at}; scores must be finite numbers")
    return values


def _keys(reward: Any, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[str] | None:
    fingerprint = getattr(reward, "fingerprint", None)
    if fingerprint is None:
        return None
    reads = getattr(reward, "reads_prompt", True)
    return [
        f"{fingerprint} {picture_hash(image)} {prompt if reads else ''}"
        for image, prompt in zip(images, prompts, strict=True)
    ]
