"""Instruments that catch a rewriter which pleases the reward and not the user.

A trained rewriter finds what a reward overlooks: strings of tags, artists' names, a second marker, sheer length. Each
has a meter here; a held-out reward, never trained on, shows whether a gain is one at all.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from lmops_lab.icl.statistics import Interval
from lmops_lab.rewriting.content import phrases, split_or_tags
from lmops_lab.rewriting.evaluation import USER, Evaluation, paired_bootstrap
from lmops_lab.rewriting.reward import PromptReward, score_rewrites
from lmops_lab.rewriting.rewriter import clean_text, repeats_marker

# Names that engineered prompts of 2022 lean on most; others are found by "by First Last".
ARTISTS = (
    "greg rutkowski",
    "artgerm",
    "alphonse mucha",
    "wlop",
    "ilya kuvshinov",
    "loish",
    "james jean",
    "beeple",
    "ross tran",
    "rossdraws",
    "makoto shinkai",
    "craig mullins",
    "peter mohrbacher",
    "tom bagshaw",
    "zdzislaw beksinski",
    "h. r. giger",
    "h.r. giger",
    "norman rockwell",
    "charlie bowater",
    "krenz cushart",
    "van gogh",
    "hokusai",
    "beatrix potter",
    "jules verne",
)
_CREDIT = re.compile(r"\bby ((?:[A-Z][\w.'-]*|van|da|de|der)(?:\s+(?:[A-Z][\w.'-]*|van|da|de|der))+)")
SALAD_SHARE, SALAD_TAGS = 0.75, 8


@dataclass(frozen=True)
class Salad:
    """How much of a prompt is tags.

    Attributes:
        tags: modifiers.
        share: of all words that are in modifiers.
        repeated: modifiers that occur more than once.
        artists: artists' names.
        marker: whether the marker occurs.
    """

    tags: int
    share: float
    repeated: tuple[str, ...]
    artists: tuple[str, ...]
    marker: bool

    @property
    def is_salad(self) -> bool:
        """Many tags that outweigh the content, or the same tags again and again."""
        return (self.tags >= SALAD_TAGS and self.share >= SALAD_SHARE) or len(self.repeated) > 1


def salad(prompt: str) -> Salad:
    """Measure the tags of a prompt.

    >>> salad("a cat, 8k, 8k, by Greg Rutkowski").repeated
    ('8k',)
    """
    modifiers = split_or_tags(prompt).modifiers
    lower = [modifier.lower() for modifier in modifiers]
    words = sum(len(phrase.split()) for phrase in phrases(prompt))
    return Salad(
        len(modifiers),
        sum(len(modifier.split()) for modifier in modifiers) / max(1, words),
        tuple(sorted({modifier for modifier in lower if lower.count(modifier) > 1})),
        artists(prompt),
        repeats_marker(prompt),
    )


def artists(prompt: str) -> tuple[str, ...]:
    """Artists' names in a prompt, lower-case, in the order they come.

    >>> artists("a castle by Thomas Kinkade and greg rutkowski")
    ('thomas kinkade', 'greg rutkowski')
    """
    lower = prompt.lower()
    found = {match.group(1).lower(): match.start(1) for match in _CREDIT.finditer(prompt)}
    for name in ARTISTS:
        if re.search(rf"\b{re.escape(name)}\b", lower) and not any(name in other for other in found):
            found[name] = lower.index(name)
    return tuple(sorted(found, key=lambda name: found[name]))


def ablate(users: Sequence[str], rewrites: Sequence[str], reward: PromptReward, *, fewest: int = 2) -> pd.DataFrame:
    """What every modifier is worth: the reward with it less the reward without it, all else equal.

    Prompts are drawn with the seeds that the reward uses for all, so differences are paired.

    Args:
        fewest: modifiers of fewer rewrites are left out; an interval needs two.

    Returns:
        One row a modifier, best first: uses, gain, low, high (95 % bootstrap over rewrites).
    """
    kept: list[tuple[str, str, str, str]] = []
    for user, rewrite in zip(map(clean_text, users), rewrites, strict=True):
        parts = split_or_tags(rewrite)
        for at, modifier in enumerate(parts.modifiers):
            rest = parts.joined(parts.modifiers[:at] + parts.modifiers[at + 1 :])
            if rest:  # a prompt of one tag alone has nothing left to draw
                kept.append((modifier.lower(), user, parts.joined(), rest))
    if not kept:
        raise ValueError(f"none of the {len(rewrites)} rewrites has a modifier, so there is nothing to take away")
    texts = [user for _, user, _, _ in kept]
    whole = score_rewrites(reward, texts, [full for _, _, full, _ in kept])
    less = score_rewrites(reward, texts, [short for _, _, _, short in kept])
    gains = pd.DataFrame({"modifier": [modifier for modifier, *_ in kept], "gain": whole - less})
    rows = []
    for name, group in gains.groupby("modifier"):
        if len(group) >= max(2, fewest):
            gain = paired_bootstrap(group["gain"].to_numpy())
            rows.append({"modifier": name, "uses": len(group), "gain": gain.mean, "low": gain.low, "high": gain.high})
    table = pd.DataFrame(rows, columns=["modifier", "uses", "gain", "low", "high"])
    return table.sort_values("gain", ascending=False).set_index("modifier")


@dataclass(frozen=True)
class HackingReport:
    """What a method changed against another, and what is suspicious about it.

    Attributes:
        changes: metric -> paired difference with its interval.
        meters: share of salads, markers and rewrites with artists; mean tags; rank correlation of length and reward.
        warnings: sentences; none where nothing is suspicious.
    """

    method: str
    against: str
    changes: dict[str, Interval]
    meters: dict[str, float]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.method} against {self.against}"]
        lines += [f"  {m}: {c.mean:+.3f} [{c.low:+.3f}, {c.high:+.3f}]" for m, c in self.changes.items()]
        lines += [f"  {name}: {value:.2f}" for name, value in self.meters.items()]
        return "\n".join([*lines, *(f"  WARNING: {text}" for text in self.warnings or ())])


def hacking_report(
    evaluation: Evaluation,
    method: str,
    *,
    against: str = USER,
    held_out: Sequence[str] = (),
    relevance_loss: float = 0.01,
) -> HackingReport:
    """Look for reward hacking in an evaluation.

    Args:
        held_out: metrics of the evaluation that the method was never trained on.
        relevance_loss: what relevance may fall by without a warning.

    Raises:
        ValueError: an unknown method or metric.
    """
    metrics = ["reward", "aesthetic", "relevance", "words", *held_out]
    changes = {metric: evaluation.difference(method, against, metric) for metric in metrics}
    rows = evaluation.scores[evaluation.scores["method"] == method].drop_duplicates(["domain", "prompt"])
    measured = [salad(rewrite) for rewrite in rows["rewrite"]]
    words, rewards = evaluation.by_prompt("words", method), evaluation.by_prompt("reward", method)
    varied = bool(np.ptp(words) > 0 and np.ptp(rewards) > 0)  # a correlation with a constant is undefined
    meters = {
        "tag salads": float(np.mean([one.is_salad for one in measured])),
        "repeated markers": float(np.mean([one.marker for one in measured])),
        "with artists": float(np.mean([bool(one.artists) for one in measured])),
        "tags": float(np.mean([one.tags for one in measured])),
        "length and reward": float(spearmanr(words, rewards).statistic) if varied else 0.0,
    }
    return HackingReport(method, against, changes, meters, tuple(_warnings(changes, meters, held_out, relevance_loss)))


def _warnings(
    changes: dict[str, Interval], meters: dict[str, float], held_out: Sequence[str], relevance_loss: float
) -> list[str]:
    found = []
    aesthetic, relevance = changes["aesthetic"], changes["relevance"]
    if aesthetic.mean > 0 and relevance.mean < -relevance_loss:
        found.append(
            f"aesthetics rise by {aesthetic.mean:.3f} while relevance falls by {-relevance.mean:.3f}: the pictures are "
            "prettier and show less of what was asked for"
        )
    # A judge that gives every pair of pictures the same (a recogniser that is always right) says nothing either way.
    told_apart = [name for name in held_out if changes[name].low != 0 or changes[name].high != 0]
    found += [
        f"the trained reward rises, the held-out reward {name!r} does not ({changes[name].mean:+.3f})"
        for name in told_apart
        if changes["reward"].low > 0 and changes[name].mean <= 0
    ]
    if meters["tag salads"] > 0.2:
        found.append(f"{meters['tag salads']:.0%} of the rewrites are tag salads")
    if meters["repeated markers"] > 0:
        found.append(f"{meters['repeated markers']:.0%} of the rewrites repeat the marker")
    if meters["with artists"] > 0.5:
        found.append(f"{meters['with artists']:.0%} of the rewrites lean on artists' names")
    if meters["length and reward"] > 0.5:
        found.append(f"longer rewrites earn more (rank correlation {meters['length and reward']:.2f})")
    return found
