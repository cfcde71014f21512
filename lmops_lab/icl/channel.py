"""The noisy channel (Min et al. 2022, arXiv 2108.04106): which label makes the text most likely?

Demonstrations and queries put the label before the text: "{label} {text}". A text is scored once per label, all its
labels in one batch, and labels count as equally likely beforehand.
"""

import re
from collections.abc import Sequence

import numpy as np
from tqdm.auto import tqdm

from lmops_lab.attention.context import GroupedContext, OwnWeight
from lmops_lab.icl.calibration import Scores
from lmops_lab.icl.prompts import PromptTokens
from lmops_lab.icl.tasks import Example, Task


def channel_parts(task: Task, example: Example, label: str) -> tuple[str, str]:
    """The condition and the text whose probability it changes.

    The template's end moves before its beginning, with the label: "Review: {text}\\nSentiment:" becomes
    "Sentiment: positive\\nReview:" and then " <the text>".
    """
    found = re.match(r"([^{]*)(.*})([^}]*)$", task.template, re.DOTALL)
    if found is None:
        raise ValueError(f"template {task.template!r} has no field")
    before, text, after = found.groups()  # the text: from the first field to the last one
    gap = "\n" if "\n" in task.template else " "
    condition = f"{after.strip()} {task.verbalizer[label]}".strip() + gap + before.strip()
    return condition.rstrip(), f" {text.format(**example.fields).strip()}"


def channel_demonstrations(prompts: PromptTokens, examples: Sequence[Example]) -> list[list[int]]:
    """Tokens of demonstrations with the label first, for `encode_groups`."""
    rows = []
    for example in examples:
        condition, text = _tokens(prompts, example, example.label)
        rows.append([*condition, *text, *prompts.separator])
    return rows


def score_channel(
    prompts: PromptTokens,
    examples: Sequence[Example],
    *,
    context: GroupedContext | None = None,
    own_weight: OwnWeight = "groups",
    progress: bool = True,
) -> Scores:
    """Log p(text | demonstrations, label) of every query and label: [queries, labels], nats, summed over the text.

    Args:
        context: encoded `channel_demonstrations`; None for no demonstrations.

    Raises:
        ValueError: whatever `LanguageModel.score` refuses, a text that is too long first of all.
    """
    scores = np.empty((len(examples), len(prompts.task.labels)))
    for row, example in enumerate(tqdm(examples, desc="channel", unit="query", disable=not progress, leave=False)):
        parts = [_tokens(prompts, example, label) for label in prompts.task.labels]
        text = parts[0][1]
        # Scoring compares labels; a second one of a single token costs nothing.
        other = [0 if text != [0] else 1]
        found = prompts.lm.score([p[0] for p in parts], [text, other], context=context, own_weight=own_weight)
        scores[row] = found[:, 0].double().numpy()
    return scores


def _tokens(prompts: PromptTokens, example: Example, label: str) -> tuple[list[int], list[int]]:
    condition, text = channel_parts(prompts.task, example, label)
    return prompts.lm.tokens(condition), prompts.lm.tokens(text)
