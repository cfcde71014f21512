"""Property tests of the core against plain float64 formulas: 100 configurations each here, 1,000 by night."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from lmops_lab.attention.encoding import encode_token_groups
from lmops_lab.attention.grouping import group_by_count, group_by_tokens
from lmops_lab.attention.partial import attend, attend_shared, merge_parts
from lmops_lab.attention.probe import prepare
from lmops_lab.attention.scoring import score_labels
from lmops_lab.icl.calibration import calibrate
from lmops_lab.icl.comparison import holm
from lmops_lab.icl.statistics import accuracy, crossed, paired_difference
from tests.attention.oracle import full_prompt_logits
from tests.tiny import tiny_model
from tests.trust import numerics

TIERS = [100, pytest.param(1000, marks=pytest.mark.nightly)]
tiers = pytest.mark.parametrize("examples", TIERS)
DTYPES = tuple(numerics.BOUNDS)


def check(examples, strategy, property_):
    """Try a property on so many configurations; the same ones in every run."""
    run = settings(max_examples=examples, deadline=None, database=None, derandomize=True,
                   suppress_health_check=list(HealthCheck))(given(strategy)(property_))  # fmt: skip
    run()


SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=64)


@tiers
def test_grouping(examples):
    def holds(case):
        sizes, size, spare = case
        demonstrations = [[number] * tokens for number, tokens in enumerate(sizes)]
        budget = max(sizes) + spare
        for found, expected in (
            (group_by_count(demonstrations, size), numerics.groups_of(sizes, size)),
            (group_by_tokens(demonstrations, budget), numerics.filled(sizes, budget)),
        ):
            assert [[demonstration[0] for demonstration in group] for group in found] == expected
            assert all(len(d) == sizes[d[0]] for group in found for d in group)

    check(examples, st.tuples(SIZES, st.integers(1, 70), st.integers(0, 100)), holds)


MERGES = st.tuples(
    st.integers(1, 64),  # groups
    st.integers(1, 5),  # tokens of a group at most: 1 gives groups of one token
    st.integers(1, 4),  # own tokens
    st.sampled_from(DTYPES),
    st.sampled_from(["random", "equal", "extreme"]),
    st.integers(0, 2**31),
)


@tiers
def test_merging(examples):
    def holds(case):
        groups, longest, own, dtype, kind, seed = case
        rng = np.random.default_rng(seed)
        lengths = rng.integers(1, longest + 1, groups).tolist()
        columns, dim = sum(lengths) + own, 1 if kind == "extreme" else 4
        keys = rng.normal(size=(columns, dim))
        if kind == "equal":
            keys[:] = keys[0]
        if kind == "extreme":
            keys = numerics.exact_logits(rng, columns, 1e4 if dtype != torch.bfloat16 else 9984.0)
        query = np.ones((1, dim)) if kind == "extreme" else rng.normal(size=(1, dim))
        values = rng.normal(size=(columns, dim))
        query, keys, values = (torch.tensor(x).to(dtype) for x in (query, keys, values))
        expected, expected_lse = numerics.attention(
            query[0].tolist(), keys.tolist(), values.tolist(), 0.5, [0.0] * (columns - own) + [math.log(groups)] * own
        )
        q = query[None, None]  # [1, 1, 1, dim]
        merged = None
        for part in torch.arange(columns - own).split(lengths):  # one group after the other
            found = attend_shared(q, keys[part][None], values[part][None], scale=0.5)
            merged = found if merged is None else merge_parts(merged, found)
        rest = attend(q, keys[None, None, -own:], values[None, None, -own:], scale=0.5)
        output, lse = merge_parts(merged, rest, math.log(groups))
        size = max(1.0, float(values.abs().max()))
        assert torch.isfinite(output).all()
        error = np.abs(output.double().flatten().numpy() - expected).max() / size
        assert error <= numerics.output_bound(dtype, expected_lse, groups), error
        lse_error = abs(float(lse) - expected_lse) / max(1.0, abs(expected_lse))
        assert lse_error <= numerics.BOUNDS[dtype]["log_sum_exp"], lse_error

    check(examples, MERGES, holds)


LABELS = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=4).map(tuple), min_size=2, max_size=7, unique=True)


@tiers
def test_trie_scoring(examples):
    model, reference = tiny_model("llama"), tiny_model("llama").double()
    prepare(model)

    def holds(case):
        labels, lengths, queries, seed = case
        rng = np.random.default_rng(seed)
        groups = [rng.integers(0, 256, n).tolist() for n in lengths]
        rows = [rng.integers(0, 256, n).tolist() for n in queries]
        context = encode_token_groups(
            model, [[group] for group in groups], bos="none", prefix=(), model_name="t", progress=False
        )
        scores = score_labels(model, rows, [list(label) for label in labels], context=context)
        for row, column in [(r, int(rng.integers(len(labels)))) for r in range(len(rows))]:
            label = list(labels[column])
            logits = full_prompt_logits(reference, groups, rows[row] + label[:-1], float(len(groups)))
            logs = logits[len(rows[row]) - 1 :].log_softmax(-1)
            expected = float(logs[torch.arange(len(label)), torch.tensor(label)].sum())
            assert abs(float(scores[row, column]) - expected) <= numerics.LABEL_SCORES

    lengths = st.lists(st.integers(1, 9), min_size=1, max_size=12)
    check(
        examples,
        st.tuples(LABELS, lengths, st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(0, 2**31)),
        holds,
    )


@tiers
@pytest.mark.parametrize("name", ["raw", "contextual", "batch"])
def test_calibration(examples, name):
    def holds(case):
        queries, labels, free, size, seed = case
        rng = np.random.default_rng(seed)
        scores, inputs = rng.normal(size=(queries, labels)) * size, rng.normal(size=(free, labels)) * size
        if size == 0.0:  # all scores equal
            scores, inputs = scores + 3, inputs - 2
        found = calibrate(name, scores, inputs)
        assert np.isfinite(found).all()
        assert np.abs(found - numerics.calibrated(name, scores, inputs)).max() <= numerics.CALIBRATION * max(1, size)

    sizes = st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e4, -1e4])
    check(
        examples,
        st.tuples(st.integers(1, 30), st.integers(2, 12), st.integers(1, 5), sizes, st.integers(0, 2**31)),
        holds,
    )


TABLES = st.tuples(
    st.integers(1, 8), st.integers(1, 40), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), st.integers(0, 2**31)
)


@tiers
def test_statistics(examples):
    def holds(case):
        seeds, items, share, seed = case
        rng = np.random.default_rng(seed)
        left, right = rng.random((2, seeds, items)) < share
        rows, columns, rest = numerics.mean_squares(left)
        found = crossed(left)
        if seeds > 1:
            taken = 0.0 if seeds == 2 else 0.8
            expected = max(rows - taken * rest, 0) / (seeds * items), max(columns, rest / 2) / (seeds * items)
            assert (float(found.seed_part), float(found.item_part)) == pytest.approx(expected, abs=numerics.STATISTICS)
        else:
            z = float(norm.ppf(0.975))
            assert accuracy(left)[1:] == pytest.approx(numerics.wilson(left.sum(), items, z), abs=numerics.STATISTICS)
        interval, difference = accuracy(left), paired_difference(left, right)
        assert 0 <= interval.low <= interval.mean <= interval.high <= 1
        assert interval.mean == pytest.approx(left.sum() / left.size, abs=numerics.STATISTICS)
        assert -1 <= difference.low <= difference.mean <= difference.high <= 1
        assert difference.mean == pytest.approx((left.sum() - right.sum()) / left.size, abs=numerics.STATISTICS)
        p_values = rng.random(1 + seed % 20).tolist()
        p_values[0] = p_values[-1]  # equal ones, too
        assert holm(p_values) == pytest.approx(numerics.holm(p_values), abs=numerics.STATISTICS)

    check(examples, TABLES, holds)


def test_the_bounds_are_worth_something():
    """A merge that forgets log M, or rounds through half precision, breaks them."""
    query, key, value = (torch.randn(1, 1, n, 4, generator=torch.Generator().manual_seed(n)) for n in (1, 5, 5))
    parts = [attend(query, key[:, :, s], value[:, :, s], scale=0.5) for s in (slice(0, 3), slice(3, 5))]
    expected, _ = numerics.attention(
        query.flatten().tolist(), key[0, 0].tolist(), value[0, 0].tolist(), 0.5, [0, 0, 0, math.log(3), math.log(3)]
    )
    right, wrong = (merge_parts(*parts, w)[0].double().flatten() for w in (math.log(3), 0.0))
    bound = numerics.BOUNDS[torch.float32]["output"]
    assert (right - torch.tensor(expected)).abs().max() < bound
    assert (wrong - torch.tensor(expected)).abs().max() > bound
    assert (right.half().double() - torch.tensor(expected)).abs().max() > numerics.BOUNDS[torch.float64]["output"]
