"""The merge of partial attentions against the softmax over repeated columns, in float64."""

import math

import pytest
import torch

from lmops_lab.attention import partial
from lmops_lab.attention.partial import attend, attend_plainly, attend_shared, causal_mask, merge_parts


def tensors(generator, *shapes, dtype=torch.float64):
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def repeated_columns(query, context, own, weight, scale):
    """Structured attention as its definition says: the query's own columns stand M times among all columns."""
    (context_key, context_value), (own_key, own_value) = context, own
    tokens, keys = query.shape[2], context_key.shape[2]
    scores = query @ torch.cat([context_key, *[own_key] * weight], 2).transpose(-1, -2) * scale
    hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    for copy in range(weight):
        start = keys + copy * tokens
        scores[..., start : start + tokens].masked_fill_(hidden, -math.inf)
    return scores.softmax(-1) @ torch.cat([context_value, *[own_value] * weight], 2)


@pytest.mark.parametrize("weight", [1, 2, 7, 31])
def test_merge_is_the_softmax_over_repeated_columns(generator, weight):
    query, k1, v1, k2, v2 = tensors(generator, (2, 3, 9, 8), *[(2, 3, 40, 8)] * 2, *[(2, 3, 9, 8)] * 2)
    oracle = repeated_columns(query, (k1, v1), (k2, v2), weight, 0.35)
    query, k1, v1, k2, v2 = (t.float() for t in (query, k1, v1, k2, v2))
    context, own = attend(query, k1, v1, scale=0.35), attend(query, k2, v2, scale=0.35, causal=True)
    out, _ = merge_parts(context, own, math.log(weight))
    assert (out.double() - oracle).abs().max() < 1e-6


def test_log_weight_is_an_additive_mask(generator):
    query, k1, v1, k2, v2 = tensors(generator, (1, 2, 5, 8), *[(1, 2, 11, 8)] * 2, *[(1, 2, 5, 8)] * 2)
    mask = torch.cat(
        [torch.zeros(1, 1, 5, 11), causal_mask(5, 5, dtype=torch.float64, device="cpu") + math.log(4.5)], 3
    )
    oracle, lse = attend_plainly(query, torch.cat([k1, k2], 2), torch.cat([v1, v2], 2), scale=0.3, mask=mask.double())
    own = attend_plainly(query, k2, v2, scale=0.3, causal=True)
    out, merged = merge_parts(attend_plainly(query, k1, v1, scale=0.3), own, math.log(4.5))
    assert torch.allclose(out, oracle, atol=1e-12)
    assert torch.allclose(merged, lse, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_fast_attention_agrees_with_the_plain_formula(generator, dtype):
    query, key, value = tensors(generator, (2, 6, 33, 16), (2, 2, 33, 16), (2, 2, 33, 16), dtype=dtype)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    for options in ({}, {"causal": True}, {"mask": causal_mask(33, 33, dtype=torch.float32, device="cpu")}):
        for fast, slow in zip(
            attend(query, key, value, scale=0.25, **options),
            attend_plainly(query, key, value, scale=0.25, **options),
            strict=True,
        ):
            assert torch.allclose(fast.double(), slow.double(), atol=tolerance)


def test_plain_attention_in_blocks_of_keys(generator, monkeypatch):
    query, key, value = tensors(generator, (1, 2, 30, 8), (1, 2, 30, 8), (1, 2, 30, 8))
    whole = attend_plainly(query, key, value, scale=0.3, causal=True)
    monkeypatch.setattr(partial, "_FALLBACK_KEYS", 7)
    blocks = attend_plainly(query, key, value, scale=0.3, causal=True)
    for one, other in zip(whole, blocks, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_shared_context_equals_a_copy_for_every_row_and_head(generator):
    query, key, value = tensors(generator, (4, 6, 5, 8), (2, 21, 8), (2, 21, 8))
    out, lse = attend_shared(query, key, value, scale=0.3)
    copied = [t.unsqueeze(0).expand(4, -1, -1, -1) for t in (key, value)]
    expected_out, expected_lse = attend_plainly(query, *copied, scale=0.3)
    assert torch.allclose(out, expected_out, atol=1e-12)
    assert torch.allclose(lse, expected_lse, atol=1e-12)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_logits_stay_finite(generator, size):
    query, key, value = tensors(generator, (1, 1, 3, 4), (1, 1, 6, 4), (1, 1, 6, 4))
    key[0, 0, 2] *= size
    left, right = (attend(query, key[:, :, s], value[:, :, s], scale=1.0) for s in (slice(0, 3), slice(3, 6)))
    out, lse = merge_parts(left, right, math.log(64))
    assert torch.isfinite(out).all()
    assert torch.isfinite(lse).all()


@pytest.mark.parametrize("tokens", [192, 193, 400, 577])
def test_causal_attention_in_blocks(generator, tokens):
    query, key, value = tensors(generator, (2, 6, tokens, 8), (2, 2, tokens, 8), (2, 2, tokens, 8))
    fast = attend(query, key, value, scale=0.3, causal=True)
    slow = attend_plainly(query, key, value, scale=0.3, causal=True)
    for one, other in zip(fast, slow, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_falls_back_where_the_flash_kernel_is_missing(generator, monkeypatch):
    query, key, value = tensors(generator, (1, 2, 6, 8), (1, 2, 6, 8), (1, 2, 6, 8))
    expected = attend(query, key, value, scale=0.3, causal=True)
    monkeypatch.setattr(partial, "_flash_for_cpu_works", lambda _: False)
    assert torch.allclose(attend(query, key, value, scale=0.3, causal=True)[0], expected[0], atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value_width", [5, 24])
def test_values_of_another_width_than_the_keys(generator, dtype, value_width):
    """DeepSeek's latent attention: keys of 12 numbers, values of fewer or more; also causal and shared by the batch."""
    query, key, value = tensors(generator, (2, 6, 9, 12), (2, 2, 9, 12), (2, 2, 9, value_width))
    expected = {}
    for causal in (False, True):
        scores = query @ key.repeat_interleave(3, 1).transpose(-1, -2) * 0.3
        if causal:
            scores = scores.masked_fill(torch.ones(9, 9, dtype=torch.bool).triu(1), -math.inf)
        expected[causal] = scores.softmax(-1) @ value.repeat_interleave(3, 1), scores.logsumexp(-1)
        ours = attend(query.to(dtype), key.to(dtype), value.to(dtype), scale=0.3, causal=causal)
        for one, other in zip(ours, expected[causal], strict=True):
            assert torch.allclose(one.double(), other, atol=1e-5)
    shared_key, shared_value = key[:1].expand(2, -1, -1, -1), value[:1].expand(2, -1, -1, -1)
    for one, other in zip(
        attend_shared(query.to(dtype), key[0].to(dtype), value[0].to(dtype), scale=0.3),
        attend_plainly(query, shared_key, shared_value, scale=0.3),
        strict=True,
    ):
        assert torch.allclose(one.double(), other, atol=1e-5)


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("lengths", [(6, 1, 4), (6, 6, 6), (1, 2, 3)])
def test_padding_of_a_batch_sees_no_context(generator, softcap, lengths):
    """To 1e-12 of the whole rectangle's; behind each row's tokens out 0, log-sum-exp -inf."""
    query = torch.randn(3, 4, 6, 8, generator=generator, dtype=torch.float64)
    key, value = (torch.randn(2, 11, width, generator=generator, dtype=torch.float64) for width in (8, 12))
    whole, whole_lse = attend_shared(query, key, value, scale=0.3, softcap=softcap)
    out, lse = attend_shared(query, key, value, scale=0.3, softcap=softcap, lengths=lengths)
    real = (torch.arange(6) < torch.tensor(lengths)[:, None])[:, None].expand(3, 4, 6)
    assert torch.allclose(out[real], whole[real], atol=1e-12)
    assert torch.allclose(lse[real], whole_lse[real], atol=1e-12)
    assert (out[~real] == 0).all()
    assert (lse[~real] == -torch.inf).all()
