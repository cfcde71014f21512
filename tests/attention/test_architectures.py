"""Exactness on every supported architecture: identities that hold whatever the weights are."""

import copy
import dataclasses

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lmops_lab import load_model
from lmops_lab.attention import probe
from lmops_lab.attention.call import AttentionCall
from lmops_lab.attention.encoding import encode_token_groups
from lmops_lab.attention.forward import hidden_at, key_value_shapes, logits_at, set_route
from lmops_lab.attention.generate import generate_tokens
from lmops_lab.attention.hook import NAME, install
from lmops_lab.attention.probe import PROVEN, check_config, check_route, prepare
from lmops_lab.attention.scoring import score_labels
from tests.attention.coverage import BEGIN, END, PAGE, table
from tests.attention.oracle import full_prompt_logits
from tests.tiny import ARCHITECTURES, tiny_model

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request):
    model = tiny_model(request.param)
    model.capabilities = prepare(model)
    return model


@pytest.fixture(scope="module")
def stock(model):
    """The untouched model, by the attention that the architecture defines itself by."""
    stock = tiny_model(model.config.model_type)
    if model.capabilities.route == "hook" and model.config.model_type not in ("gpt_neo", "gptj", "codegen"):
        stock.set_attn_implementation("eager")
    return stock


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


def test_every_proven_architecture_is_tested():
    assert set(ARCHITECTURES) == set(PROVEN)


def test_one_group_with_own_weight_one_is_the_untouched_model(model, stock, generator):
    demonstration, query = ids(generator, 30, 9)
    expected = stock(torch.tensor([demonstration + query]), use_cache=False).logits[0, 30:]
    hooked = next_logits(model, query, encode(model, [demonstration]))
    assert (hooked - expected).abs().max() < TOLERANCE
    assert expected.abs().max() > 0.05  # logits of a size that could differ


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


@pytest.mark.parametrize("weight", [1.0, 3.0, 0.4])
def test_groups_equal_a_float64_mask_over_the_whole_prompt(model, generator, weight):
    """The untouched model in float64, with a 4D mask that hides groups from each other and holds the own weight."""
    kind = model.config.model_type
    changes = {"window_size": 256} if kind == "gpt_neo" else {}  # its window is counted in columns, not positions
    groups, (query,) = ids(generator, 20, 13, 17), ids(generator, 6)
    if changes:
        model = tiny_model(kind, **changes)
        prepare(model)
    reference = tiny_model(kind, **changes)
    if kind not in ("mixtral", "gpt_oss", "xglm"):  # their experts or their clamp exist in single precision only
        reference = reference.double()
    expected = full_prompt_logits(reference, groups, query, weight)
    ours = next_logits(model, query, encode(model, groups), own_weight=weight).double()
    assert (ours - expected).abs().max() < TOLERANCE


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


def test_trie_scoring_equals_one_pass_for_each_candidate(model, stock, generator):
    """All labels in one pass give what running the untouched model on every full candidate gives."""
    (demonstration,), queries = ids(generator, 25), ids(generator, 8, 5)
    labels = [[7], [7, 8], [7, 8, 9, 10], [7, 11, 9], [12, 8], [13]]
    scores = score_labels(model, queries, labels, context=encode(model, [demonstration]), own_weight=1)
    for row, query in enumerate(queries):
        for column, label in enumerate(labels):
            logits = stock(torch.tensor([demonstration + query + label]), use_cache=False).logits[0]
            first = len(demonstration) + len(query) - 1
            logs = logits[first : first + len(label)].log_softmax(-1)
            expected = logs[torch.arange(len(label)), torch.tensor(label)].sum()
            assert abs(float(scores[row, column] - expected)) < TOLERANCE


@pytest.mark.parametrize("bos", ["group", "shared"])
def test_one_group_with_bos_is_the_untouched_model(model, stock, generator, bos):
    demonstration, query = ids(generator, 21, 5)
    context = encode(model, [demonstration], bos=bos, prefix=[256])
    expected = stock(torch.tensor([[256, *demonstration, *query]]), use_cache=False).logits[0, 22:]
    assert (next_logits(model, query, context) - expected).abs().max() < TOLERANCE


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


def test_ordinary_calls_of_a_prepared_model_are_unchanged(model, stock, generator):
    batch = torch.tensor(ids(generator, 19, 19))
    mask = torch.ones_like(batch)
    mask[0, :4] = 0
    both = [m(batch, attention_mask=mask, use_cache=False).logits[:, 4:] for m in (stock, model)]
    assert torch.allclose(*both, atol=TOLERANCE)


def test_the_packed_route_equals_the_hook(generator):
    """Both routes of the same weights: two groups, a ragged batch of queries, labels of several tokens."""
    hooked, packed = tiny_model("llama"), tiny_model("llama")
    prepare(hooked)
    set_route(packed, "packed")
    groups, queries = ids(generator, 20, 14), ids(generator, 9, 4, 6)
    labels = [[5, 6], [5, 7, 8], [9]]
    scores = [score_labels(m, queries, labels, context=encode(m, groups)) for m in (hooked, packed)]
    assert torch.allclose(*scores, atol=TOLERANCE)


def test_capabilities_say_what_was_found():
    found = {kind: prepare(tiny_model(kind)) for kind in ("llama", "gemma2", "gpt_oss", "gpt2", "bloom", "gpt_neo")}
    assert {kind: c.route for kind, c in found.items()} == {
        "llama": "hook",
        "gemma2": "hook",
        "gpt_oss": "hook",
        "gpt2": "hook",
        "bloom": "packed",
        "gpt_neo": "hook",
    }
    assert {kind: c.positions for kind, c in found.items()} == {
        "llama": "rotary",
        "gemma2": "rotary",
        "gpt_oss": "rotary",
        "gpt2": "learned",
        "bloom": "alibi",
        "gpt_neo": "learned",
    }
    assert found["gemma2"].sliding_layers == (0, 2)
    assert found["gpt_neo"].sliding_layers == (1, 3)
    assert found["gemma2"].softcap
    assert found["gpt_oss"].sinks
    assert not found["llama"].sinks
    for capabilities in found.values():
        assert capabilities.reached == tuple(range(capabilities.layers))
        assert capabilities.honours_masks
        assert capabilities.honours_positions
        assert capabilities.difference <= capabilities.allowed
        assert capabilities.seconds < 5
        assert "route" in str(capabilities)


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("mpt", {"d_model": 48, "n_layers": 2, "n_heads": 6}, "loses the own weight"),
        ("falcon", {"alibi": True, "num_hidden_layers": 2}, "loses the own weight"),
        ("lfm2", {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]}, "conv layers keep a state"),
        ("t5", {}, "encoder-decoder"),
    ],
)
def test_what_cannot_work_is_refused_before_any_weights(kind, options, reason):
    with pytest.raises(ValueError, match=f"architecture '{kind}' cannot run structured attention: .*{reason}"):
        check_config(AutoConfig.for_model(kind, **options))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
        ("falcon_h1", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}),
        ("recurrent_gemma", {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "lru_width": 32}),
    ],
)
def test_recurrent_models_are_refused(kind, options):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=320, **options)).eval()
    with pytest.raises(ValueError, match="recurrent state|keep a state"):
        prepare(model)


_LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12}
_LATENT |= {"n_routed_experts": 4, "moe_intermediate_size": 32, "num_experts_per_tok": 2, "num_hidden_layers": 2}
_LATENT |= {"vocab_size": 320, "hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4}
_LATENT |= {"num_key_value_heads": 4, "max_position_embeddings": 512, "first_k_dense_replace": 1}


@pytest.mark.parametrize(
    ("kind", "options"), [("deepseek_v2", {}), ("deepseek_v3", {"n_group": 2, "topk_group": 1})], ids=str
)
def test_latent_attention_whose_keys_are_wider_than_its_values(generator, kind, options):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **_LATENT, **options)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    found = prepare(model)
    assert (found.route, found.kv_shapes) == ("hook", ((4, 16, 12),) * 2)
    assert "plain matrix products" in found.backend
    with torch.device("meta"):
        assert key_value_shapes(AutoModelForCausalLM.from_config(config)) == found.kv_shapes
    (demonstration,), queries = ids(generator, 20), ids(generator, 6, 3)
    one, two = (encode(model, [demonstration] * groups) for groups in (1, 2))
    scores = [score_labels(model, queries, [[5], [9, 7]], context=c, own_weight="groups") for c in (one, two)]
    assert torch.allclose(*scores, atol=TOLERANCE)
    assert len(generate_tokens(model, queries, context=two, own_weight="groups", max_new_tokens=3, pad_token=0)) == 2


def test_sparse_attention_is_refused_before_any_weights():
    with pytest.raises(ValueError, match="'deepseek_v32' cannot run structured attention: its indexed_attention"):
        check_config(AutoConfig.for_model("deepseek_v32"))


@pytest.mark.parametrize("error", [RuntimeError("shapes [2] and [3]\nat some line"), TypeError("no argument 'x'")])
def test_a_layer_that_fails_in_the_check_is_a_refusal(monkeypatch, error):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(probe, "check_route", fail)
    said = f"fails in it .{type(error).__name__}: {str(error).splitlines()[0]}".replace("[", r"\[")
    with pytest.raises(ValueError, match=f"architecture 'llama' cannot run structured attention: .*{said}"):
        prepare(tiny_model("llama"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("llama", "sees no window in any layer, but a sliding window of 100 tokens is in its configuration"),
        ("bloom", "in a packed row passes over its sliding window of 100 tokens"),
    ],
)
def test_a_window_that_no_layer_hands_over_is_refused(kind, message):
    """The check's few tokens fit into the window, so the numbers agree: only the configuration tells."""
    with pytest.raises(ValueError, match=message):
        prepare(tiny_model(kind, sliding_window=100))
    beyond = {"llama": 512, "bloom": 2048}[kind]  # as many positions as there are: it hides nothing
    assert prepare(tiny_model(kind, sliding_window=beyond)).sliding_layers == ()


def test_a_window_that_only_the_masks_have_is_refused():
    """The masks are not used, so a layer that keeps its window from the hook would see too much."""
    model = tiny_model("mistral", sliding_window=100)
    model.config.use_sliding_window = False  # nothing in the configuration then says that there is a window
    assert prepare(model).windows == (100, 100, 100)
    model = tiny_model("mistral", sliding_window=100)
    model.config.use_sliding_window = False
    without = copy.deepcopy(model.config)
    without.sliding_window = None
    without._attn_implementation = NAME
    for layer in model.model.layers:
        layer.self_attn.config = without
    with pytest.raises(ValueError, match="a sliding window of 100 tokens is in its masks"):
        prepare(model)


@pytest.mark.parametrize("layer", [1, 2])
def test_a_model_whose_layers_the_hook_misses_is_refused(layer):
    """A layer that computes its attention itself would be silently wrong if nobody counted the calls."""
    model = tiny_model("llama")
    own = copy.deepcopy(model.config)
    own._attn_implementation = "eager"
    install(model)
    model.model.layers[layer].self_attn.config = own
    sample = list(range(100, 112))
    stock = tiny_model("llama")(torch.tensor([sample])).logits[0].log_softmax(-1)
    with pytest.raises(ValueError, match="reached layers"):
        check_route(model, sample, stock, 2e-3)


def test_the_docs_table_is_what_the_probe_reports():
    text = PAGE.read_text(encoding="utf-8")
    assert table() == text.partition(BEGIN)[2].partition(END)[0].strip(), "run python -m tests.attention.coverage"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt_oss", "gptj", "gpt2", "bloom"])
def test_half_precision_is_measured_by_its_mean_square(kind, dtype):
    found = prepare(tiny_model(kind).to(dtype))
    assert 0 < found.difference <= found.allowed == {torch.bfloat16: 0.2, torch.float16: 0.03}[dtype]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_embedded_model_loads_in_half_precision_and_faults_are_still_refused(embedded, monkeypatch, dtype):
    """A bound wide enough for the rounding must not hide queries one place off, or an own weight of 1 for 2 groups."""
    lm = load_model("smollm2-135m", dtype=dtype)
    found = lm.capabilities()
    assert found.difference <= found.allowed
    sample = probe._sample(lm.model)
    stock = torch.tensor([sample])
    with torch.inference_mode():
        stock = embedded.model(stock).logits[0].log_softmax(-1)
    check_route(lm.model, sample, stock, found.allowed)

    def one_place_off(model, ids, positions, call):
        return hidden_at(model, ids, positions + (call.context is not None), call)

    def too_light(model, ids, positions, call):
        return hidden_at(model, ids, positions, dataclasses.replace(call, log_weight=0.0) if call.context else call)

    for fault in (one_place_off, too_light):
        with monkeypatch.context() as patch:
            patch.setattr(probe, "hidden_at", fault)
            with pytest.raises(ValueError, match="differs from the untouched|reached layers"):
                check_route(lm.model, sample, stock, found.allowed)
