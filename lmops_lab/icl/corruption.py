"""Wrong labels on purpose: does a model read the demonstrations' labels, or only their texts and their form?

Corrupted (Min et al. 2022, arXiv 2202.12837), flipped and symbol labels (Wei et al. 2023, arXiv 2303.03846).
"""

import string
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from lmops_lab.icl.tasks import CLASSIFICATION, Example, Task

Share = int | float  # 0 and 1 are shares, too


def corrupt_labels(examples: Sequence[Example], labels: Sequence[str], share: Share, seed: int) -> list[Example]:
    """The same demonstrations, a share of them with a wrong label, drawn evenly among the other labels.

    Nested like the draw itself: among the first k, for every k, share * k are wrong, rounded up or down by chance. So a
    smaller k stays the beginning of a larger one, and encoded groups can be used again.

    Args:
        examples: demonstrations of a classification task, in order.
        labels: all labels of the task.
        share: wrong ones, 0 to 1.
        seed: of what is corrupted and to which label.

    Raises:
        ValueError: a share outside 0 to 1, fewer than 2 labels, or an example with another label.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of wrong labels is {share}; give a number from 0 to 1 (0.25 is 25 %)")
    _check_labels(examples, labels)
    rng = np.random.default_rng([seed, 4])
    step = Fraction(share).limit_denominator(1000)
    corrupted = []
    # Walk along share * k. Between two whole numbers the count of wrong ones is either the lower (ahead = False) or
    # the upper one (True), the latter with probability `part`; the chances of each step keep it so.
    part, ahead = Fraction(0), False
    for example in examples:
        chance, other = float(rng.random()), int(rng.integers(len(labels) - 1))
        upto = part + step
        if upto >= 1:
            upto -= 1
            wrong = not ahead or chance < float(upto / part)
            ahead = wrong and ahead
        else:
            wrong = not ahead and chance < float(step / (1 - part))
            ahead = ahead or wrong
        part = upto
        others = [label for label in labels if label != example.label]
        corrupted.append(example._replace(label=others[other]) if wrong else example)
    return corrupted


def flip_labels(examples: Sequence[Example], labels: Sequence[str]) -> list[Example]:
    """The same demonstrations with every label exchanged for the next one (of two labels: for the other one).

    A model that follows its demonstrations then answers wrongly on purpose; accuracy is still against the true labels.

    Raises:
        ValueError: fewer than 2 labels, or an example with another label.
    """
    _check_labels(examples, labels)
    after = dict(zip(labels, [*labels[1:], *labels[:1]], strict=True))
    return [example._replace(label=after[example.label]) for example in examples]


def symbol_task(task: Task, symbols: Sequence[str] = (), seed: int | None = None) -> Task:
    """The same task with label words that mean nothing; what they stand for has to be learned from demonstrations.

    Args:
        symbols: one word a label; default A, B, C, ... and from 27 labels on 1, 2, 3, ...
        seed: assign the words by chance; None in the order of the labels.

    Raises:
        ValueError: a task without fixed labels, or too few symbols.
    """
    if task.kind != CLASSIFICATION:
        raise ValueError(f"task {task.name!r} is of kind {task.kind!r}; only a classification has labels to exchange")
    count = len(task.labels)
    words = list(symbols) or (list(string.ascii_uppercase) if count <= 26 else [str(i) for i in range(1, count + 1)])
    if len(words) < count:
        raise ValueError(f"{len(words)} symbols {words} for the {count} labels of task {task.name!r}; give one each")
    chosen = words[:count]
    if seed is not None:
        chosen = [chosen[i] for i in np.random.default_rng([seed, 5]).permutation(count)]
    verbalizer = dict(zip(task.labels, chosen, strict=True))
    return replace(task, name=f"{task.name}-symbols", verbalizer=verbalizer)


def _check_labels(examples: Sequence[Example], labels: Sequence[str]) -> None:
    if len(set(labels)) < 2:
        raise ValueError(f"labels are {list(labels)}; a wrong label needs at least 2 to choose from")
    for number, example in enumerate(examples):
        if example.label not in labels:
            raise ValueError(
                f"demonstration {number} has label {example.label!r}, not one of {list(labels)[:10]}; corruption is "
                "for classification tasks"
            )
