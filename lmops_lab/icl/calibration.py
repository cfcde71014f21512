"""Calibrations: what a stored score matrix says once the model's bias towards labels is divided out.

All are post-hoc functions of label log-probabilities [queries, labels]; none needs the model.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

Scores = NDArray[np.floating]


def raw(scores: Scores, content_free: Scores) -> Scores:
    """Return log p(label | query), normalised over the labels. No calibration."""
    del content_free
    return log_softmax(scores, axis=-1)


def contextual(scores: Scores, content_free: Scores) -> Scores:
    """Divide by the mean label probability of content-free inputs after the same demonstrations (arXiv 2102.09690).

    log p(label | query) - log mean_f p(label | f), f in ("N/A", "[MASK]", "").
    """
    return log_softmax(scores, axis=-1) - _log_mean(content_free)


def batch(scores: Scores, content_free: Scores) -> Scores:
    """Divide by the mean label probability over all queries (batch calibration, arXiv 2309.17249).

    Transductive: the answer to one query depends on the others, so it presumes a batch that represents the task.
    """
    del content_free
    return log_softmax(scores, axis=-1) - _log_mean(scores)


# "domain" is contextual calibration with random in-domain words for inputs (arXiv 2305.19148).
CALIBRATIONS: dict[str, Callable[[Scores, Scores], Scores]] = {
    "raw": raw,
    "contextual": contextual,
    "domain": contextual,
    "batch": batch,
}


def calibrate(name: str, scores: Scores, content_free: Scores, domain: Scores | None = None) -> Scores:
    """Calibrated scores [..., queries, labels] (nats up to a constant a row); the largest is the answer.

    Matrices stacked along further axes are calibrated one by one, in one step.

    Args:
        content_free: label log-probabilities of the inputs without content: [inputs, labels].
        domain: the same for random in-domain texts, which "domain" needs: [texts, labels].

    Raises:
        ValueError: an unknown calibration, inputs that were not scored, or scores that are not finite numbers.
    """
    if name not in CALIBRATIONS:
        raise ValueError(f"calibration {name!r} is unknown; choose among {', '.join(CALIBRATIONS)}")
    scores, content_free = np.asarray(scores, float), np.asarray(content_free, float)
    inputs = {"contextual": content_free, "domain": np.asarray([] if domain is None else domain, float)}.get(
        name, scores
    )
    if not inputs.size:
        raise ValueError(f"the inputs that calibration {name!r} needs were not scored; score the task again with them")
    if name == "domain":
        content_free = inputs
    for what, array in (("scores", scores), (f"scores of inputs for {name!r}", content_free)):
        if not np.isfinite(array).all():
            *several, row, label = np.argwhere(~np.isfinite(array))[0]
            value = array[(*several, row, label)]
            raise ValueError(f"{what} hold {value} at row {row}, label {label}; score them again in float32")
    return CALIBRATIONS[name](scores, content_free)


def _log_mean(scores: Scores) -> Scores:
    """Log of the mean label probability over the rows: [..., 1, labels]."""
    logs = log_softmax(scores, axis=-1)
    return logsumexp(logs, axis=-2, keepdims=True) - np.log(logs.shape[-2])
