"""How much better rewrites are, and how sure that is: common seeds, paired bootstrap over prompts, win rates.

Every method's pictures of a prompt share their seeds, so differences are taken prompt by prompt before anything is
averaged. Seeds are few and fixed; what is resampled are the prompts, the thing conclusions are drawn about.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lmops_lab.icl.statistics import Interval
from lmops_lab.rewriting.reward import Generator, ImageReward, PictureReward
from lmops_lab.rewriting.rewriter import clean_text
from lmops_lab.rewriting.search import Method, user_input

USER = "user input"
METRICS = ("reward", "aesthetic", "relevance", "words")
RESAMPLES = 4000


def paired_bootstrap(difference: NDArray[np.floating], *, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean of paired differences with a percentile bootstrap interval over prompts: [prompts].

    Raises:
        ValueError: fewer than two prompts, or a value that is no finite number.
    """
    values = np.asarray(difference, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"paired differences of shape {values.shape} need at least two finite values, one a prompt")
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of every method on every prompt and seed.

    Attributes:
        scores: columns domain, prompt, method, rewrite, seed, one column a metric (words: of the rewrite).
        metrics: reward, aesthetic, relevance, words, and the further rewards' names.
    """

    scores: pd.DataFrame = field(repr=False)
    metrics: tuple[str, ...] = METRICS

    @property
    def methods(self) -> list[str]:
        """Methods in the order given, the user's own text first."""
        return list(dict.fromkeys(self.scores["method"]))

    @property
    def domains(self) -> list[str]:
        """Domains in the order given."""
        return list(dict.fromkeys(self.scores["domain"]))

    def by_prompt(self, metric: str, method: str, domain: str | None = None) -> pd.Series:
        """Means over seeds, one a (domain, prompt).

        Raises:
            ValueError: an unknown metric, method or domain.
        """
        for what, value, known in (("metric", metric, self.metrics), ("method", method, self.methods)):
            if value not in known:
                raise ValueError(f"unknown {what} {value!r}; there are {', '.join(known)}")
        if domain is not None and domain not in self.domains:
            raise ValueError(f"unknown domain {domain!r}; there are {', '.join(self.domains)}")
        rows = self.scores[self.scores["method"] == method]
        if domain is not None:
            rows = rows[rows["domain"] == domain]
        return rows.groupby(["domain", "prompt"], sort=True)[metric].mean()

    def difference(
        self, left: str, right: str, metric: str = "reward", domain: str | None = None, *, level: float = 0.95
    ) -> Interval:
        """`left` minus `right` on the same prompts and seeds, with a paired bootstrap interval over prompts."""
        pair = self.by_prompt(metric, left, domain) - self.by_prompt(metric, right, domain)
        return paired_bootstrap(pair.to_numpy(), level=level)

    def win_rate(self, left: str, right: str, metric: str = "reward", domain: str | None = None) -> Interval:
        """Share of prompts on which `left` scores higher than `right`, ties counting half, with Wilson's interval.

        A bootstrap of prompts that are all won would give an interval of no width.
        """
        pair = (self.by_prompt(metric, left, domain) - self.by_prompt(metric, right, domain)).to_numpy()
        return _wilson(float(np.where(pair > 0, 1.0, np.where(pair < 0, 0.0, 0.5)).mean()), len(pair))

    def table(self, level: float = 0.95) -> pd.DataFrame:
        """One row a domain and method: means, and the reward's gain over the user's text with its interval."""
        rows = []
        for domain in self.domains:
            for method in self.methods:
                row: dict[str, Any] = {"domain": domain, "method": method}
                for metric in self.metrics:
                    row[metric] = float(self.by_prompt(metric, method, domain).mean())
                gain = self.difference(method, USER, "reward", domain, level=level)
                row |= {"gain": gain.mean, "gain low": gain.low, "gain high": gain.high}
                row["wins"] = self.win_rate(method, USER, "reward", domain).mean
                rows.append(row)
        return pd.DataFrame(rows).set_index(["domain", "method"])

    def plot_pareto(self, domain: str | None = None) -> Figure:
        """Relevance against aesthetics, a mark a method; methods that none beats in both are filled and joined."""
        points = {
            method: (
                float(self.by_prompt("relevance", method, domain).mean()),
                float(self.by_prompt("aesthetic", method, domain).mean()),
            )
            for method in self.methods
        }
        best = pareto(points)
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        axes.plot(*zip(*sorted(points[method] for method in best), strict=True), color="#bbbbbb", linewidth=1, zorder=1)
        for at, (method, (x, y)) in enumerate(points.items()):
            colour, marker = f"C{at % 7}", "osD^v"[at % 5]
            filled = colour if method in best else "none"
            axes.scatter([x], [y], s=60, marker=marker, facecolors=filled, edgecolors=colour, label=method)
        axes.set_xlabel("relevance to the user's text (cosine)")
        axes.set_ylabel("aesthetic score")
        axes.margins(0.15)
        figure.legend(loc="outside right upper", title="filled: the front")  # beside them, for marks often lie close
        return figure


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names that no other point beats in one coordinate without losing in the other (higher is better).

    >>> pareto({"a": (1.0, 1.0), "b": (2.0, 0.5), "c": (0.9, 0.9)})
    ['a', 'b']
    """
    return [
        name
        for name, (x, y) in points.items()
        if not any(u >= x and v >= y and (u > x or v > y) for u, v in points.values())
    ]


def evaluate_rewriters(
    prompts: Sequence[str] | Mapping[str, Sequence[str]],
    rewriters: Mapping[str, Method | Sequence[str]],
    generator: Generator,
    rewards: Mapping[str, ImageReward],
    seeds: Sequence[int] = (1000, 1001, 1002, 1003),
    *,
    threshold: float | None = None,
    **settings: Any,
) -> Evaluation:
    """Score rewriting methods on the same prompts with the same seeds.

    Args:
        prompts: user texts, or domain -> user texts ("in-domain", "out-of-domain").
        rewriters: name -> method; the user's own text is added as "user input". Rewrites that exist already, such as
            engineered prompts by people, are a list in the order of all prompts.
        rewards: "relevance" and "aesthetic" (Promptist's formula needs both), and held-out ones by other names.
        threshold: relevance from which the reward takes nothing off; default what the relevance reward says of its
            CLIP, or .28, which belongs to CLIP ViT-L/14's cosines.
        seeds: others than those that a method was trained or searched on.
        settings: further arguments of the generator, such as steps and guidance.

    Raises:
        ValueError: no or repeated prompts, a missing reward, no seeds, or a method that returns another number of
            rewrites or an empty one.
    """
    domains = dict(prompts) if isinstance(prompts, Mapping) else {"all": prompts}
    users = [(domain, clean_text(text)) for domain, texts in domains.items() for text in texts]
    if len(users) < 2 or len(set(users)) < len(users):
        raise ValueError(f"there are {len(users)} prompts, {len(set(users))} of them different; give two or more, once")
    for name in ("relevance", "aesthetic"):
        if name not in rewards:
            raise ValueError(f"rewards has no {name!r}, which Promptist's formula needs; it has {', '.join(rewards)}")
    if not seeds or USER in rewriters:
        raise ValueError(f"give at least one seed (there are {len(seeds)}), and no rewriter of the name {USER!r}")
    texts = [text for _, text in users]
    rewrites = {name: _rewritten(name, method, texts) for name, method in {USER: user_input, **rewriters}.items()}
    pictures = PictureReward(
        generator, rewards["relevance"], rewards["aesthetic"], tuple(seeds), dict(settings), threshold=threshold
    )
    further = [name for name in rewards if name not in ("relevance", "aesthetic")]
    rows: list[dict[str, Any]] = []
    for method, made in rewrites.items():
        details = pictures.details(texts, made)
        extra = {name: pictures.score_with(rewards[name], texts, made) for name in further}
        for i, (domain, text) in enumerate(users):
            for s, seed in enumerate(seeds):
                row = {"domain": domain, "prompt": text, "method": method, "rewrite": made[i], "seed": int(seed)}
                # Its mean over seeds is Promptist's reward, which is linear in the pictures.
                row["reward"] = float(details.by_picture[i, s])
                row |= {"aesthetic": float(details.aesthetic[i, s]), "relevance": float(details.relevance[i, s])}
                row["words"] = float(len(made[i].split()))
                row |= {name: float(extra[name][i, s]) for name in further}
                rows.append(row)
    return Evaluation(pd.DataFrame(rows), (*METRICS, *further))


def _wilson(share: float, count: int) -> Interval:
    """Wilson's 95 % interval of a share of `count` cases, halves allowed."""
    z = NormalDist().inv_cdf(0.975)
    shrunk = 1 + z**2 / count
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / shrunk
    middle = (share + z**2 / (2 * count)) / shrunk
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def _rewritten(name: str, method: Method | Sequence[str], texts: list[str]) -> list[str]:
    made = list(method(texts)) if callable(method) else list(method)
    if len(made) != len(texts):
        raise ValueError(f"{name!r} made {len(made)} rewrites of {len(texts)} prompts; one each")
    empty = [texts[i] for i, rewrite in enumerate(made) if not rewrite.strip()]
    if empty:
        raise ValueError(f"{name!r} made an empty rewrite of {empty[0]!r}, which no picture can be drawn of")
    return made
