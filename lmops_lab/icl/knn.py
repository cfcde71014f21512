"""kNN prompting (Xu et al. 2023, arXiv 2303.13824): answer as the training examples of which the model says the same.

Anchors are training examples beyond the demonstrations, asked like queries. A query's neighbours are the anchors whose
distribution is nearest in KL divergence. It uses any number of labelled examples at the cost of one query each. The
paper compares distributions over the whole vocabulary; here they are over the labels, which is what is stored.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from lmops_lab.icl.calibration import Scores


def divergences(queries: Scores, anchors: Scores) -> Scores:
    """KL divergence of every anchor's label distribution from every query's: [queries, anchors], nats.

    KL(query || anchor) = sum_l q_l (log q_l - log a_l), both normalised over the labels.
    """
    q, a = log_softmax(queries, axis=-1), log_softmax(anchors, axis=-1)
    weights = np.exp(q)
    return (weights * q).sum(-1)[:, None] - weights @ a.T


def vote(queries: Scores, anchors: Scores, anchor_gold: NDArray[np.int64], neighbours: int) -> Scores:
    """Share of each label among the nearest anchors of each query: [queries, labels].

    A label's nearest anchor decides between equal shares: it adds less than one vote.

    Raises:
        ValueError: no anchors, or fewer than `neighbours`.
    """
    if not 1 <= neighbours <= len(anchors):
        raise ValueError(f"{neighbours} neighbours of {len(anchors)} anchors; score at least that many anchors")
    distances = divergences(queries, anchors)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :neighbours]  # [queries, neighbours]
    votes = np.zeros(queries.shape)
    for rank in range(neighbours):
        # The nearest counts 1 + 1/2 of the smallest unit, the next 1 + 1/4, ...: whole votes go first.
        bonus = 0.5 ** (min(rank, 40) + 1) / 2
        votes[np.arange(len(queries)), anchor_gold[nearest[:, rank]]] += 1 + bonus
    return votes / neighbours
