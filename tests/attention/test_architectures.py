"""Exactness on every supported architecture: identities that hold whatever the weights are."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from lmops_lab.attention.encoding import encode_token_groups
from lmops_lab.attention.forward import hidden_at, logits_at
from lmops_lab.attention.hook import AttentionCall, install
from lmops_lab.attention.probe import SUPPORTED, check_hook, prepare
from lmops_lab.attention.scoring import score_labels
from tests.tiny import ARCHITECTURES, tiny_config, tiny_model

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request):
    model = tiny_model(request.param)
    prepare(model)
    return model


def ids(generator, *lengths):
    return [torch.randint(0, 256, (n,), generator=generator).tolist() for n in lengths]


def encode(model, groups, **options):
    settings = {"bos": "none", "prefix": (), "model_name": "tiny", "progress": False} | options
    return encode_token_groups(model, [[group] for group in groups], **settings)


def next_logits(model, query, context, own_weight=1.0):
    """Logits after each token of one query."""
    positions = torch.arange(context.end, context.end + len(query))[None]
    call = AttentionCall(context, float(torch.tensor(own_weight).log()))
    return logits_at(model, hidden_at(model, torch.tensor([query]), positions, call)[0])


def test_every_supported_architecture_is_tested():
    assert set(ARCHITECTURES) == set(SUPPORTED)


def test_one_group_with_own_weight_one_is_the_untouched_model(model, generator):
    demonstration, query = ids(generator, 30, 9)
    stock = model(torch.tensor([demonstration + query]), use_cache=False).logits[0, 30:]
    hooked = next_logits(model, query, encode(model, [demonstration]))
    assert (hooked - stock).abs().max() < TOLERANCE
    assert stock.abs().max() > 0.1  # logits of a size that could differ


def test_identical_groups_equal_one_group(model, generator):
    demonstration, query = ids(generator, 24, 7)
    one = next_logits(model, query, encode(model, [demonstration]))
    many = next_logits(model, query, encode(model, [demonstration] * 5), own_weight=5)
    assert (one - many).abs().max() < TOLERANCE


def test_order_of_groups_does_not_matter(model, generator):
    groups, (query,) = ids(generator, 20, 13, 17, 8), ids(generator, 6)
    forward = next_logits(model, query, encode(model, groups), own_weight=4)
    backward = next_logits(model, query, encode(model, groups[::-1]), own_weight=4)
    assert (forward - backward).abs().max() < TOLERANCE


def test_groups_equal_a_float64_mask_over_the_whole_prompt(generator):
    """The untouched model in float64, with a 4D mask that hides groups from each other and holds log M."""
    reference = tiny_model("llama").double()
    model = tiny_model("llama")
    prepare(model)
    groups, (query,) = ids(generator, 20, 13, 17), ids(generator, 6)
    end = max(map(len, groups))
    flat = [token for group in groups for token in group] + query
    positions = [p for group in groups for p in range(end - len(group), end)] + list(range(end, end + len(query)))
    mask = torch.full((len(flat), len(flat)), -torch.inf, dtype=torch.float64)
    start = 0
    for part in (*groups, query):
        block = slice(start, start + len(part))
        mask[block, block] = torch.full((len(part), len(part)), -torch.inf).triu(1)
        start += len(part)
    own = slice(start - len(query), start)
    mask[own, : start - len(query)] = 0
    mask[own, own] += torch.tensor(3.0, dtype=torch.float64).log()
    oracle = reference(
        torch.tensor([flat]), position_ids=torch.tensor([positions]), attention_mask=mask[None, None], use_cache=False
    ).logits[0, own]
    assert (next_logits(model, query, encode(model, groups), own_weight=3).double() - oracle).abs().max() < TOLERANCE


def test_ragged_batch_of_groups_equals_groups_one_by_one(model, generator):
    groups = ids(generator, 40, 3, 17, 1, 25)
    together = encode(model, groups)
    column = 0
    for group in groups:
        alone = encode(model, [group], end=together.end)
        for layer, key in enumerate(alone.keys):
            assert torch.allclose(together.keys[layer][:, column : column + len(group)], key, atol=TOLERANCE)
        column += len(group)
    assert together.tokens == column == sum(map(len, groups))


def test_ragged_batch_of_queries_equals_queries_one_by_one(model, generator):
    context, queries = encode(model, ids(generator, 20, 30)), ids(generator, 12, 3, 7, 1, 12, 30)
    for labels in ([[5], [9], [200]], [[5, 6], [5, 7, 8], [9]]):
        together = score_labels(model, queries, labels, context=context)
        alone = torch.cat([score_labels(model, [query], labels, context=context) for query in queries])
        assert (together - alone).abs().max() < TOLERANCE


def test_trie_scoring_equals_one_pass_for_each_candidate(model, generator):
    """All labels in one pass give what running the untouched model on every full candidate gives."""
    (demonstration,), queries = ids(generator, 25), ids(generator, 8, 5)
    labels = [[7], [7, 8], [7, 8, 9, 10], [7, 11, 9], [12, 8], [13]]
    scores = score_labels(model, queries, labels, context=encode(model, [demonstration]), own_weight=1)
    for row, query in enumerate(queries):
        for column, label in enumerate(labels):
            logits = model(torch.tensor([demonstration + query + label]), use_cache=False).logits[0]
            first = len(demonstration) + len(query) - 1
            logs = logits[first : first + len(label)].log_softmax(-1)
            expected = logs[torch.arange(len(label)), torch.tensor(label)].sum()
            assert abs(float(scores[row, column] - expected)) < TOLERANCE


@pytest.mark.parametrize("bos", ["group", "shared"])
def test_one_group_with_bos_is_the_untouched_model(model, generator, bos):
    demonstration, query = ids(generator, 21, 5)
    context = encode(model, [demonstration], bos=bos, prefix=[256])
    stock = model(torch.tensor([[256, *demonstration, *query]]), use_cache=False).logits[0, 22:]
    assert (next_logits(model, query, context) - stock).abs().max() < TOLERANCE


def test_a_shared_prefix_is_kept_once(model, generator):
    context = encode(model, ids(generator, 9, 5), bos="shared", prefix=[256, 40])
    assert (context.prefix_tokens, context.tokens, context.end) == (2, 16, 11)


def test_subset_and_cut_need_no_encoding(model, generator):
    groups, (query,) = ids(generator, 12, 12, 12), ids(generator, 6)
    whole = encode(model, groups)
    for chosen in ([0, 1], [2, 0], [1]):
        fresh = encode(model, [groups[g] for g in chosen])
        taken = whole.subset(chosen)
        assert taken.groups == len(chosen)
        weight = len(chosen)
        difference = next_logits(model, query, taken, weight) - next_logits(model, query, fresh, weight)
        assert difference.abs().max() < TOLERANCE
    long = encode(model, [groups[0] + groups[1]])
    difference = next_logits(model, query, long.cut(12, 1)) - next_logits(model, query, encode(model, groups[:1]))
    assert difference.abs().max() < TOLERANCE


def test_ordinary_calls_of_a_prepared_model_are_unchanged(model, generator):
    stock = AutoModelForCausalLM.from_config(model.config, attn_implementation="sdpa").eval()
    stock.load_state_dict(model.state_dict())
    batch = torch.tensor(ids(generator, 9, 9))
    mask = torch.ones_like(batch)
    mask[0, :4] = 0
    both = [m(batch, attention_mask=mask, use_cache=False).logits[:, 4:] for m in (stock, model)]
    assert torch.allclose(*both, atol=1e-5)


@pytest.mark.parametrize("kind", ["bloom", "gpt_neo", "gptj", "mpt", "falcon", "gemma2"])
def test_other_architectures_are_refused_by_name(kind):
    small = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2}
    config = tiny_config("llama")
    config.model_type = kind
    model = tiny_model("llama", **small, num_attention_heads=4)
    model.config.model_type = kind
    with pytest.raises(ValueError, match=f"architecture '{kind}' is not supported"):
        prepare(model)


def test_sliding_windows_are_refused():
    with pytest.raises(ValueError, match="sliding window"):
        prepare(tiny_model("mistral", sliding_window=8))
    with pytest.raises(ValueError, match="sliding window"):
        prepare(tiny_model("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1))


@pytest.mark.parametrize("layer", [1, 2])
def test_a_model_whose_layers_the_hook_misses_is_refused(layer):
    """A layer that computes its attention itself would be silently wrong if nobody counted the calls."""
    model = tiny_model("llama")
    own = copy.deepcopy(model.config)
    own._attn_implementation = "eager"
    install(model)
    model.model.layers[layer].self_attn.config = own
    with pytest.raises(ValueError, match=r"never called|reached layers"):
        check_hook(model)
