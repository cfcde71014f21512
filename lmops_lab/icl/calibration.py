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


CALIBRATIONS: dict[str, Callable[[Scores, Scores], Scores]] = {"raw": raw, "contextual": contextual, "batch": batch}


def calibrate(name: str, scores: Scores, content_free: Scores) -> Scores:
    """Calibrated scores [queries, labels] (nats up to a constant a row); the largest is the answer.

    Raises:
        ValueError: an unknown calibration, or scores that are not finite numbers.
    """
    if name not in CALIBRATIONS:
        raise ValueError(f"calibration {name!r} is unknown; choose among {', '.join(CALIBRATIONS)}")
    for what, array in (("scores", scores), ("content-free scores", content_free)):
        if not np.isfinite(array).all():
            row, label = np.argwhere(~np.isfinite(array))[0]
            raise ValueError(
                f"{what} hold {array[row, label]} at row {row}, label {label}; score them again in float32"
            )
    return CALIBRATIONS[name](np.asarray(scores, float), np.asarray(content_free, float))


def _log_mean(scores: Scores) -> Scores:
    """Log of the mean label probability over the rows: [labels]."""
    logs = log_softmax(scores, axis=-1)
    return logsumexp(logs, axis=0) - np.log(len(logs))
