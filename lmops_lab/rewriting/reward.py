"""The reward of a rewrite: any function of user texts and rewrites, checked, guarded, and one that draws pictures."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from lmops_lab.rewards.promptist import Floats, picture_rewards, promptist_reward
from lmops_lab.rewards.relevance import RELEVANT, threshold_of
from lmops_lab.rewriting.loading import MARKER
from lmops_lab.rewriting.rewriter import repeats_marker

PromptReward = Callable[[Sequence[str], Sequence[str]], Iterable[float]]
"""`f(user_texts, rewrites) -> scores`: higher is better, one finite number a rewrite."""

ImageReward = Callable[[list[Image.Image], list[str]], Iterable[float]]

# Promptist draws the pictures of its reward in 20 steps at Stable Diffusion's usual guidance.
PROMPTIST_STEPS, PROMPTIST_GUIDANCE = 20, 7.5


@runtime_checkable
class Grid(Protocol):
    """What a generator returns: pictures, the seed running fastest."""

    @property
    def images(self) -> list[Image.Image]:
        """All pictures."""
        ...


@runtime_checkable
class Generator(Protocol):
    """What is needed of an image generator (`lmops_lab.generation.images.ImageGenerator` is one)."""

    @property
    def generate(self) -> Callable[..., Grid]:
        """`generate(prompts, seeds, *, progress, **settings)` draws every prompt with every seed."""
        ...


def score_rewrites(reward: PromptReward, users: Sequence[str], rewrites: Sequence[str]) -> Floats:
    """One checked score a rewrite.

    Raises:
        ValueError: unequal numbers of texts, or a reward that returns something else than one finite number each.
    """
    if len(users) != len(rewrites):
        raise ValueError(f"there are {len(users)} user texts but {len(rewrites)} rewrites; give one rewrite each")
    values = np.asarray(list(reward(list(users), list(rewrites))), dtype=np.float64)
    if values.shape != (len(users),):
        raise ValueError(f"the reward returned scores of shape {values.shape} for {len(users)} rewrites; one each")
    if not np.isfinite(values).all():
        at = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"the reward returned {values[at]} for {rewrites[at]!r}; scores must be finite numbers")
    return values


@dataclass(frozen=True, eq=False)
class GuardedReward:
    """A reward that no formatting trick can win, and that scores an equal pair once.

    A rewrite that is empty or repeats the marker is never drawn, and gets `floor`, or one less than the worst honest
    rewrite of the same call where that is lower: honest failure must not be worse than the trick. Everything else is
    scored whole: the text that is scored is the text that a user would get.

    Attributes:
        reward: the reward proper.
        floor: the most that a rewrite gets of which no picture can be drawn, or which holds the marker.
        known: scores by (user text, rewrite).
    """

    reward: PromptReward
    floor: float = -5.0
    marker: str = MARKER
    known: dict[tuple[str, str], float] = field(default_factory=dict, repr=False)

    def __call__(self, users: Sequence[str], rewrites: Sequence[str]) -> list[float]:
        """One score a rewrite."""
        pairs = list(zip(users, rewrites, strict=True))
        honest = [pair for pair in dict.fromkeys(pairs) if not self._tricks(pair[1])]
        missing = [pair for pair in honest if pair not in self.known]
        if missing:
            scores = score_rewrites(self.reward, [user for user, _ in missing], [text for _, text in missing])
            self.known.update(zip(missing, scores.tolist(), strict=True))
        lowest = min([self.floor, *(self.known[pair] - 1 for pair in honest)])
        return [lowest if self._tricks(pair[1]) else self.known[pair] for pair in pairs]

    def _tricks(self, rewrite: str) -> bool:
        return not rewrite.strip() or repeats_marker(rewrite, self.marker)


class PictureScores(NamedTuple):
    """What pictures of rewrites scored: relevance and aesthetic are [rewrites, seeds], the others [rewrites]."""

    relevance: Floats
    aesthetic: Floats
    plain_aesthetic: Floats
    reward: Floats
    threshold: float = RELEVANT

    @property
    def by_picture(self) -> Floats:
        """The share of every picture in the reward: [rewrites, seeds]."""
        return picture_rewards(self.relevance, self.aesthetic, self.plain_aesthetic, self.threshold)


@dataclass(frozen=True, eq=False)
class PictureReward:
    """Promptist's reward on pictures that are drawn with the same seeds for the user's text and every rewrite.

    Equal prompts are drawn once: pictures stay in memory up to `memory` bytes (beyond that, the generator's own store
    finds them), scores stay.

    Attributes:
        generator: draws pictures.
        relevance, aesthetic: image rewards `f(images, prompts) -> scores`; relevance is given the USER's text.
        seeds: common random numbers.
        settings: further arguments of `generator.generate`, such as steps and guidance.
        plain: aesthetic scores of user texts that are known already (the mean over their pictures).
        threshold: relevance from which nothing is taken off; default what `relevance` says of its CLIP, or .28.
    """

    generator: Generator
    relevance: ImageReward
    aesthetic: ImageReward
    seeds: tuple[int, ...] = (0, 1)
    settings: Mapping[str, Any] = field(default_factory=dict)
    plain: Mapping[str, float] = field(default_factory=dict)
    memory: int = 2**30
    threshold: float | None = None
    _pictures: "OrderedDict[str, list[Image.Image]]" = field(default_factory=OrderedDict, repr=False)
    _aesthetics: dict[str, Floats] = field(default_factory=dict, repr=False)
    _relevances: dict[tuple[str, str], Floats] = field(default_factory=dict, repr=False)

    def __call__(self, users: Sequence[str], rewrites: Sequence[str]) -> list[float]:
        """One reward a rewrite."""
        return [float(value) for value in self.details(users, rewrites).reward]

    def details(self, users: Sequence[str], rewrites: Sequence[str]) -> PictureScores:
        """Every part of the reward.

        Raises:
            ValueError: an image reward that returns something else than one finite number a picture.
        """
        unrated = [
            text for text in [*rewrites, *(u for u in users if u not in self.plain)] if text not in self._aesthetics
        ]
        unmatched = [pair for pair in zip(rewrites, users, strict=True) if pair not in self._relevances]
        self._draw([*unrated, *(rewrite for rewrite, _ in unmatched)])
        self._rate(list(dict.fromkeys(unrated)))
        self._match(list(dict.fromkeys(unmatched)))
        relevance = np.array([self._relevances[pair] for pair in zip(rewrites, users, strict=True)])
        aesthetic = np.array([self._aesthetics[rewrite] for rewrite in rewrites])
        plain = np.array([self.plain[u] if u in self.plain else self._aesthetics[u].mean() for u in users])
        threshold = threshold_of(self.relevance, self.threshold)
        reward = promptist_reward(relevance, aesthetic, plain, threshold)
        return PictureScores(relevance, aesthetic, plain, reward, threshold)

    def pictures(self, prompts: Sequence[str]) -> list[list[Image.Image]]:
        """The pictures of prompts: [prompts][seeds]."""
        self._draw(prompts)
        return [self._pictures[prompt] for prompt in prompts]

    def score_with(self, reward: ImageReward, users: Sequence[str], rewrites: Sequence[str]) -> Floats:
        """Any image reward of the rewrites' pictures against the users' texts: [rewrites, seeds]."""
        self._draw(rewrites)
        return np.array(self._scored(reward, list(zip(rewrites, users, strict=True))))

    def _draw(self, prompts: Sequence[str]) -> None:
        needed = list(dict.fromkeys(prompts))
        missing = [prompt for prompt in needed if prompt not in self._pictures]
        if missing:
            grid = self.generator.generate(missing, list(self.seeds), progress=False, **self.settings)
            images, each = list(grid.images), len(self.seeds)
            if len(images) != each * len(missing):
                raise ValueError(f"the generator drew {len(images)} pictures, expected {len(missing)} x {each}")
            for index, prompt in enumerate(missing):
                self._pictures[prompt] = images[index * each : (index + 1) * each]
        for prompt in needed:
            self._pictures.move_to_end(prompt)
        size = {image.width * image.height * 3 for images in self._pictures.values() for image in images[:1]}
        room = max(len(needed), self.memory // (max(size, default=1) * len(self.seeds)))
        while len(self._pictures) > room:
            self._pictures.popitem(last=False)

    def _rate(self, prompts: list[str]) -> None:
        scores = self._scored(self.aesthetic, [(prompt, prompt) for prompt in prompts])
        self._aesthetics.update(zip(prompts, scores, strict=True))

    def _match(self, pairs: list[tuple[str, str]]) -> None:
        self._relevances.update(zip(pairs, self._scored(self.relevance, pairs), strict=True))

    def _scored(self, reward: ImageReward, pairs: list[tuple[str, str]]) -> list[Floats]:
        """Scores of the pictures of each pair's first text against its second: [pairs][seeds]."""
        if not pairs:
            return []
        images = [image for drawn, _ in pairs for image in self._pictures[drawn]]
        texts = [read for _, read in pairs for _ in self.seeds]
        values = np.asarray(list(reward(images, texts)), dtype=np.float64)
        if values.shape != (len(images),) or not np.isfinite(values).all():
            raise ValueError(
                f"the image reward {reward!r} returned {values.shape} scores, {int((~np.isfinite(values)).sum())} of "
                f"them not finite, for {len(images)} pictures; one finite number each"
            )
        return list(values.reshape(len(pairs), len(self.seeds)))
