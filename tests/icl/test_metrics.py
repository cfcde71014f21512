"""Metrics against their definitions, their intervals by coverage, label diagnostics on answers with a known bias."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from lmops_lab.icl.metrics import (
    METRICS,
    brier,
    confusion,
    expected_calibration_error,
    favourite_bias,
    macro_f1,
    majority_label,
    measure,
    metrics_frame,
    negative_log_likelihood,
    predicted_shares,
    recency_label,
)
from tests.icl.synthetic import synthetic_curve


@pytest.fixture(scope="module")
def curve():
    return synthetic_curve(labels=("a", "b", "c"), queries=120, seeds=3)


def plain(name, probabilities, gold):
    """A metric of one seed, straight from its definition."""
    answers, labels = probabilities.argmax(-1), range(probabilities.shape[1])
    if name == "accuracy":
        return np.mean(answers == gold)
    if name == "nll":
        return np.mean([entropy(np.eye(len(labels))[g], p) for g, p in zip(gold, probabilities, strict=True)])
    if name == "brier":
        return np.mean([((p - np.eye(len(labels))[g]) ** 2).sum() for g, p in zip(gold, probabilities, strict=True)])
    if name == "macro_f1":
        scores = []
        for label in set(gold):
            hits = ((answers == label) & (gold == label)).sum()
            scores.append(2 * hits / ((answers == label).sum() + (gold == label).sum()))
        return np.mean(scores)
    confidence, total = probabilities.max(1), 0.0
    for low in np.arange(10) / 10:
        inside = (confidence > low) & (confidence <= low + 0.1)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - (answers == gold)[inside].mean())
    return total


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("calibration", ["raw", "contextual", "batch"])
def test_metrics_are_what_their_definitions_say(curve, name, calibration):
    found = measure(curve, name, "structured", 8, calibration)
    probabilities = softmax(curve.scores("structured", 8, calibration), axis=-1)
    assert found.by_seed == pytest.approx([plain(name, p, curve.gold) for p in probabilities], abs=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_pseudo_values_are_those_of_leaving_each_query_out(curve, name):
    scores = curve.scores("structured", 8)[:, :40]
    gold = curve.gold[:40]
    found, queries = METRICS[name](scores, gold), 40
    for query in (0, 7, 39):
        kept = np.arange(queries) != query
        without = METRICS[name](scores[:, kept], gold[kept]).by_seed
        expected = queries * found.by_seed - (queries - 1) * without
        assert found.pseudo_values[:, query] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("metric", [macro_f1, negative_log_likelihood, brier])
def test_intervals_of_metrics_cover(metric):
    """200 experiments of 4 seeds and 120 queries: the nominal 95 % interval covers the metric of a large sample."""

    def draw(rng, seeds, queries):
        gold = rng.integers(0, 3, queries)
        scores = rng.normal(0, 1, (seeds, queries, 3))
        strength = 1.0 + rng.normal(0, 0.4, (seeds, 1)) + rng.normal(0, 1, (1, queries))
        np.put_along_axis(
            scores, gold[None, :, None], np.take_along_axis(scores, gold[None, :, None], 2) + strength[..., None], 2
        )
        return scores, gold

    rng = np.random.default_rng(0)
    true = metric(*draw(rng, 200, 4000)).by_seed.mean()
    found = [metric(*draw(rng, 4, 120)).interval() for _ in range(200)]
    assert 0.91 <= np.mean([low <= true <= high for _, low, high in found]) <= 0.98


def test_a_confident_fool_and_an_honest_guesser():
    gold = np.zeros(100, int)
    fool, guesser = np.tile([-20.0, 20.0], (1, 100, 1)), np.zeros((1, 100, 2))
    assert expected_calibration_error(fool, gold).by_seed[0] == pytest.approx(1)
    assert brier(fool, gold).by_seed[0] == pytest.approx(2)
    assert negative_log_likelihood(guesser, gold).by_seed[0] == pytest.approx(np.log(2))
    half = np.arange(100) % 2
    assert expected_calibration_error(guesser, half).by_seed[0] == pytest.approx(0)


def test_tables(curve):
    frame = metrics_frame(curve, ["raw", "batch"])
    assert len(frame) == len(curve.points()) * 2 * len(METRICS)
    assert (frame.low <= frame.value + 1e-12).all()
    assert (frame.value <= frame.high + 1e-12).all()
    counts = confusion(curve, "structured", 8)
    assert counts.to_numpy().sum() == 3 * 120
    assert np.diag(counts).sum() / 360 == pytest.approx(curve.accuracy("structured", 8).mean)
    assert list(counts.sum(axis=1)) == [3 * (curve.gold == label).sum() for label in range(3)]
    shares = predicted_shares(curve, "structured", 8).set_index("label")
    assert shares.given.sum() == pytest.approx(1)
    assert shares.loc["a", "low"] > shares.loc["a", "right"]  # the bias the scores were made with


def test_labels_that_demonstrations_push():
    assert majority_label([0, 1, 1]) == 1
    assert majority_label([0, 1]) is None
    assert majority_label([]) is None
    assert recency_label([0, 1, 2]) == 2
    assert recency_label([]) is None
    assert recency_label([0, 0, 1, 0, 0, 1, 0], group_size=3) == 1  # groups end in 1, 1, 0
    assert recency_label([0, 0], group_size=16) == 0


def test_a_push_is_found_and_its_absence_too():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 2, 400)
    favourites = [0, 1, 0, 1, None]
    honest = np.where(rng.random((5, 400)) < 0.7, gold, 1 - gold)
    pushed = honest.copy()
    for row, favourite in zip(pushed, favourites, strict=True):
        if favourite is not None:
            row[rng.random(400) < 0.3] = favourite
    assert favourite_bias(pushed, gold, favourites).low > 0.05
    absent = favourite_bias(honest, gold, favourites)
    assert absent.low < 0 < absent.high
    with pytest.raises(ValueError, match="2 favourites for 5 seeds"):
        favourite_bias(honest, gold, [0, 1])
    with pytest.raises(ValueError, match="needs an uneven draw"):
        favourite_bias(honest, gold, [None] * 5)


def test_unknown_metric(curve):
    with pytest.raises(ValueError, match="metric 'f2' is unknown; choose among accuracy, macro_f1"):
        measure(curve, "f2", "structured", 8)
