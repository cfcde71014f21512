import math

import pytest
import torch

from lmops_lab import encode_groups
from lmops_lab.attention.context import concat, log_own_weight
from lmops_lab.attention.encoding import empty_context

TEXTS = ["one fish\n", "two fish\n", "red fish\n", "blue fish, old fish\n", "new fish\n"]


def test_exactly_k_demonstrations_are_kept(tiny):
    context = encode_groups(tiny, TEXTS, group_size=2, bos="shared", progress=False)
    assert (context.examples, context.groups, context.group_examples) == (5, 3, (2, 2, 1))
    assert context.tokens == 1 + sum(len(tiny.tokens(text)) for text in TEXTS)  # one shared BOS
    assert context.nbytes == context.tokens * tiny.kv_bytes_per_token
    assert "5 demonstrations in 3 groups" in repr(context)


def test_a_leading_subset_shares_memory(tiny):
    context = encode_groups(tiny, TEXTS, group_size=1, progress=False)
    assert context.subset([0, 1]).keys[0].data_ptr() == context.keys[0].data_ptr()
    assert context.subset([2, 1]).group_tokens == (context.group_tokens[2], context.group_tokens[1])


@pytest.mark.parametrize("groups", [[0, 1], [1], [2, 0]])
def test_a_subset_keeps_the_shared_prefix_and_whole_groups(tiny, groups):
    context = encode_groups(tiny, TEXTS, group_size=2, bos="shared", progress=False)
    prefix, *parts = context.keys[2].split([context.prefix_tokens, *context.group_tokens], dim=1)
    expected = torch.cat([prefix, *(parts[g] for g in groups)], dim=1)
    assert torch.equal(context.subset(groups).keys[2], expected)


@pytest.mark.parametrize("groups", [[], [0, 0], [5], [-1]])
def test_subset_refuses_what_is_no_choice(tiny, groups):
    context = encode_groups(tiny, TEXTS, group_size=2, progress=False)
    with pytest.raises(ValueError, match="no choice among 0..2"):
        context.subset(groups)


def test_concat_equals_encoding_together(tiny):
    parts = [encode_groups(tiny, TEXTS[i : i + 2], group_size=2, end=60, progress=False) for i in (0, 2)]
    both = encode_groups(tiny, TEXTS[:4], group_size=2, end=60, progress=False)
    joined = concat(parts)
    assert joined.group_tokens == both.group_tokens
    for one, other in zip(joined.keys, both.keys, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_concat_refuses_other_positions(tiny):
    parts = [encode_groups(tiny, TEXTS[:2], end=end, progress=False) for end in (60, 61)]
    with pytest.raises(ValueError, match="contexts differ in end: 60 and 61"):
        concat(parts)
    with pytest.raises(ValueError, match="at least one"):
        concat([])


def test_cut_needs_one_group(tiny):
    with pytest.raises(ValueError, match="exactly one group"):
        encode_groups(tiny, TEXTS, group_size=2, progress=False).cut(3, 1)


def test_own_weight():
    assert log_own_weight("groups", 31) == math.log(31)
    assert log_own_weight("sqrt_groups", 16) == pytest.approx(math.log(4))
    assert log_own_weight(1, 31) == 0
    for bad in (0, -1, math.nan, math.inf, "many"):
        with pytest.raises(ValueError, match="own_weight is"):
            log_own_weight(bad, 3)


def test_zero_shot_context_is_the_bos_alone(tiny):
    assert empty_context(tiny, "none") is None
    context = empty_context(tiny, "shared")
    assert (context.tokens, context.end) == (1, 1)


def test_encoding_refuses_what_does_not_fit(tiny):
    with pytest.raises(ValueError, match=r"group 0 \(2 demonstrations, .* longest is demonstration 1 .*group_size"):
        encode_groups(tiny, ["short\n", "long " * 200], group_size=2, progress=False)
    with pytest.raises(ValueError, match="not both"):
        encode_groups(tiny, TEXTS, group_size=2, token_budget=9)
    with pytest.raises(ValueError, match="bos is 'many'"):
        encode_groups(tiny, TEXTS, bos="many")


def test_int8_keeps_every_number_within_half_a_step(tiny):
    context = encode_groups(tiny, ["one two\n", "three four five\n", "six\n"], group_size=1, progress=False)
    small = context.quantized()
    assert small.quantized() is small
    for layer in range(3):
        for (exact, rough), dim in zip(zip(context.layer(layer), small.layer(layer), strict=True), (1, 2), strict=True):
            step = exact.abs().amax(dim, keepdim=True) / 127
            assert ((exact - rough).abs() <= 0.501 * step).all()
    half, other = context.subset([2, 0]), small.subset([2, 0])
    assert torch.allclose(half.layer(1)[1], other.layer(1)[1], atol=0.05)
    with pytest.raises(ValueError, match="join first, then quantize"):
        concat([small, small])


def test_leave_one_out_is_the_subset_of_all_others(tiny):
    context = encode_groups(tiny, ["one two\n", "three\n", "six\n"], group_size=1, progress=False)
    rest = context.leave_one_out(1)
    assert rest.group_tokens == context.subset([0, 2]).group_tokens
    assert rest.example_tokens == (8, 4)
    assert torch.equal(rest.keys[2], context.subset([0, 2]).keys[2])
    for group, of in ((3, context), (-1, context), (0, context.subset([0]))):
        with pytest.raises(ValueError, match=f"group {group} cannot be left out of {of.groups}"):
            of.leave_one_out(group)


def test_concat_and_subset_keep_the_lengths_of_demonstrations(tiny):
    context = encode_groups(tiny, ["a b c\n", "d\n", "e f\n"], group_size=2, progress=False)
    assert context.example_tokens == (6, 2, 4)
    assert context.subset([1]).example_tokens == (4,)
    assert concat([context, context]).example_tokens == (6, 2, 4) * 2
    with_bos = encode_groups(tiny, ["a b c\n", "d\n", "e f\n"], group_size=2, bos="group", progress=False)
    assert with_bos.example_tokens == (7, 2, 5)
    assert sum(with_bos.example_tokens) == sum(with_bos.group_tokens)
