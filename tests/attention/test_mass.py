"""Attention mass against an explicit softmax over all columns."""

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from lmops_lab.attention.encoding import encode_token_groups
from lmops_lab.attention.mass import mass_of_tokens
from lmops_lab.attention.probe import prepare
from tests.attention.oracle import full_prompt_logits
from tests.tiny import tiny_model


def encode(model, groups, **options):
    settings = {"bos": "none", "prefix": ()} | options
    return encode_token_groups(model, groups, model_name="t", progress=False, **settings)


def explicit(kind, groups, query, weight):
    """Weights [layers, heads, columns] of the last query token, from the untouched model's own softmax in float64."""
    rows = []

    def attention(module, query, key, value, attention_mask, scaling, **_kwargs):
        share = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
        weights = (query @ key.transpose(2, 3) * scaling + attention_mask).softmax(-1)
        rows.append(weights[0, :, -1])
        return (weights @ value).transpose(1, 2).contiguous(), None

    AttentionInterface.register("explicit", attention)
    AttentionMaskInterface.register("explicit", eager_mask)
    model = tiny_model(kind).double()
    model.set_attn_implementation("explicit")
    full_prompt_logits(model, groups, query, weight)
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2"])
def test_mass_is_the_sum_of_an_explicit_softmax(kind, generator):
    model = tiny_model(kind)
    prepare(model)
    pieces = [torch.randint(0, 256, (n,), generator=generator).tolist() for n in (5, 4, 6, 3, 7)]
    groups, query = [[pieces[0], pieces[1]], [pieces[2], pieces[3]]], pieces[4]
    context = encode(model, groups)
    weights = explicit(kind, [sum(group, []) for group in groups], query, 2.0)
    by_group = mass_of_tokens(model, [query], context)
    expected = torch.stack([part.sum(-1) for part in weights.split([9, 9, 7], -1)], -1)
    assert (by_group - expected).abs().max() < 1e-4
    by_demonstration = mass_of_tokens(model, [query], context, by="demonstration")
    expected = torch.stack([part.sum(-1) for part in weights.split([5, 4, 6, 3, 7], -1)], -1)
    assert (by_demonstration - expected).abs().max() < 1e-4
    assert torch.allclose(by_group.sum(-1), torch.ones(()), atol=1e-5)
    assert torch.allclose(by_demonstration[..., :2].sum(-1), by_group[..., 0], atol=1e-5)


def test_a_shared_prefix_is_a_part_of_its_own_and_queries_are_averaged(generator):
    model = tiny_model("llama")
    prepare(model)
    pieces = [torch.randint(0, 256, (n,), generator=generator).tolist() for n in (8, 5, 6, 3)]
    context = encode(model, [[pieces[0]], [pieces[1]]], bos="shared", prefix=[256])
    both = mass_of_tokens(model, pieces[2:], context)
    assert both.shape == (3, 6, 4)  # prefix, two groups, own part
    each = [mass_of_tokens(model, [query], context) for query in pieces[2:]]
    assert torch.allclose(both, sum(each) / 2, atol=1e-6)
    assert torch.allclose(both.sum(-1), torch.ones(()), atol=1e-5)
    subset = mass_of_tokens(model, pieces[2:3], context.subset([1]), by="demonstration")
    assert subset.shape == (3, 6, 3)


def test_sinks_belong_to_the_own_part(generator):
    model = tiny_model("gpt_oss")
    prepare(model)
    pieces = [torch.randint(0, 256, (n,), generator=generator).tolist() for n in (8, 5, 6)]
    mass = mass_of_tokens(model, pieces[2:], encode(model, [[pieces[0]], [pieces[1]]]))
    assert torch.allclose(mass.sum(-1), torch.ones(()), atol=1e-5)


def test_what_cannot_be_told_is_refused(generator):
    model = tiny_model("bloom")
    prepare(model)
    context = encode(model, [[[1, 2, 3]], [[4, 5]]])
    with pytest.raises(ValueError, match="packed route"):
        mass_of_tokens(model, [[1, 2]], context)
    with pytest.raises(ValueError, match="by is 'heads'"):
        mass_of_tokens(model, [[1, 2]], context, by="heads")
    with pytest.raises(ValueError, match="queries of at least one token"):
        mass_of_tokens(model, [[]], context)
