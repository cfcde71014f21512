"""Each method against a plain, slow formula of its own."""

import math

import pytest
import torch

from lmops_lab import encode_groups
from lmops_lab.attention.call import AttentionCall
from lmops_lab.attention.context import GroupedContext
from lmops_lab.attention.encoding import encode_token_groups
from lmops_lab.attention.layer import grouped_attention
from lmops_lab.attention.methods import METHODS, score_method
from lmops_lab.attention.probe import prepare
from lmops_lab.attention.scoring import score_labels
from tests.attention.oracle import full_prompt_logits
from tests.tiny import tiny_model

LABELS = [[7], [8, 9], [8, 10, 11], [12]]


@pytest.fixture(scope="module")
def model():
    model = tiny_model("llama")
    prepare(model)
    return model


@pytest.fixture
def parts(generator):
    return [torch.randint(0, 256, (n,), generator=generator).tolist() for n in (20, 13, 17, 6, 9)]


def encode(model, groups, prefix=()):
    bos = "shared" if prefix else "none"
    return encode_token_groups(model, [[g] for g in groups], bos=bos, prefix=prefix, model_name="t", progress=False)


def label_scores(step):
    """Sum of token log-probabilities of every label, with one call of `step` for every prefix of every label."""
    return torch.tensor([sum(float(step(label[:n])[label[n]]) for n in range(len(label))) for label in LABELS])


def alone(model, groups, query, end):
    """Log-probabilities after a query behind one group that ends at a position, by the untouched model."""
    row = [*groups, *query]
    positions = torch.arange(end - len(groups), end + len(query))[None]
    logits = model(torch.tensor([row]), position_ids=positions, attention_mask=torch.ones(1, len(row))).logits
    return logits[0, -1].log_softmax(-1)


@pytest.mark.parametrize(("method", "weight"), [("structured", 3.0), ("windows", 1.0)])
def test_structured_and_windows_are_one_masked_prompt(model, parts, method, weight):
    *groups, query, _ = parts
    reference = tiny_model("llama").double()
    expected = label_scores(
        lambda label: full_prompt_logits(reference, groups, query + label, weight)[-1].log_softmax(-1)
    )
    scores = score_method(model, [query], LABELS, context=encode(model, groups), method=method)[0]
    assert (scores - expected).abs().max() < 1e-3


def test_sequential_is_the_ordinary_long_prompt(model, parts):
    first, second, _, query, _ = parts
    context = encode(model, [first + second])
    expected = label_scores(lambda label: alone(tiny_model("llama"), first + second, query + label, context.end))
    assert (score_method(model, [query], LABELS, context=context, method="sequential")[0] - expected).abs().max() < 1e-3
    with pytest.raises(ValueError, match="this context has 2"):
        score_method(model, [query], LABELS, context=encode(model, [first, second]), method="sequential")


def test_ensemble_is_the_mixture_of_the_groups_label_distributions(model, parts):
    *groups, query, _ = parts
    context, stock = encode(model, groups), tiny_model("llama")
    votes = torch.stack(
        [label_scores(lambda label, g=g: alone(stock, g, query + label, context.end)).softmax(-1) for g in groups]
    )
    for weights in (None, [1.0, 5.0, 0.5]):
        share = torch.tensor(weights or [1.0] * 3) / sum(weights or [1.0] * 3)
        expected = (share[:, None] * votes).sum(0).log()
        scores = score_method(model, [query], LABELS, context=context, method="ensemble", group_weights=weights)[0]
        assert (scores - expected).abs().max() < 1e-3


@pytest.mark.parametrize("beta", [0.0, 0.25, 1.0])
def test_nbce_lets_the_most_certain_group_speak(model, parts, beta):
    *groups, query, other = parts
    context, stock = encode(model, groups), tiny_model("llama")

    def step(label, query=query):
        logs = [alone(stock, group, query + label, context.end) for group in groups]
        entropies = [float(-(p.exp() * p).sum()) for p in logs]
        pooled = logs[entropies.index(min(entropies))]
        return ((1 + beta) * pooled - beta * alone(stock, [], query + label, 0)).log_softmax(-1)

    both = score_method(model, [query, other], LABELS, context=context, method="nbce", beta=beta)
    assert (both[0] - label_scores(step)).abs().max() < 1e-3
    assert (both[1] - label_scores(lambda label: step(label, other))).abs().max() < 1e-3


def test_ape_is_its_equation_in_float64(generator):
    """softmax over prefix and own columns, and over the context's with temperature T and the sum raised to S."""
    temperature, exponent, scale, prefix = 0.7, 0.8, 0.3, 2
    query, key, value = (torch.randn(1, 2, n, 8, generator=generator, dtype=torch.float64) for n in (3, 3, 3))
    shared = [torch.randn(2, 12, 8, generator=generator, dtype=torch.float64) for _ in range(2)]

    context = GroupedContext((shared[0],), (shared[1],), prefix, (4, 6), (1, 1), end=9, bos="shared", model="t")
    call = AttentionCall(context, temperature=temperature, exponent=exponent)
    ours = grouped_attention(call, 0, query, key, value, scale=scale)
    scores = query @ shared[0][None].transpose(-1, -2) * scale
    own = (query @ key.transpose(-1, -2) * scale).masked_fill(torch.ones(3, 3).triu(1).bool(), -math.inf).exp()
    front, groups = scores[..., :prefix].exp(), (scores[..., prefix:] / temperature).exp()
    mass = groups.sum(-1, keepdim=True) ** exponent
    total = front.sum(-1, keepdim=True) + mass + own.sum(-1, keepdim=True)
    of_groups = groups / groups.sum(-1, keepdim=True) * mass
    weights = torch.cat([front, of_groups, own], -1) / total
    expected = weights @ torch.cat([shared[1][None], value], 2)
    assert (ours - expected).abs().max() < 1e-12


def test_ape_at_one_and_one_is_parallel_windows(model, parts):
    *groups, query, _ = parts
    for prefix in ((), (256, 40)):
        context = encode(model, groups, prefix)
        ape = score_method(model, [query], LABELS, context=context, method="ape", temperature=1, exponent=1)
        windows = score_method(model, [query], LABELS, context=context, method="windows")
        assert torch.allclose(ape, windows, atol=1e-5)
        default = score_method(model, [query], LABELS, context=context, method="ape")
        assert not torch.allclose(default, windows, atol=1e-3)


def test_every_method_is_reached_from_the_language_model(tiny):
    context = encode_groups(tiny, ["good: yes\n", "bad: no\n"], group_size=2, progress=False)
    rows = {m: tiny.score(["fine:"], [" yes", " no"], context=context, method=m) for m in METHODS}
    one_group = score_labels(
        tiny.model, [tiny.tokens("fine:")], [tiny.tokens(" yes"), tiny.tokens(" no")], context=context
    )
    for method in ("structured", "windows", "sequential"):  # one group: all the same
        assert torch.allclose(rows[method], one_group, atol=1e-5)
    assert all(torch.isfinite(row).all() for row in rows.values())


def test_settings_outside_their_range_are_refused(model, parts):
    *groups, query, _ = parts
    context = encode(model, groups)
    for options, message in (
        ({"method": "ensembel"}, "method is 'ensembel'; choose among structured"),
        ({"method": "ape", "temperature": 0}, "temperature is 0"),
        ({"method": "ape", "exponent": math.inf}, "exponent is inf"),
        ({"method": "nbce", "beta": -1}, "beta is -1"),
        ({"method": "ensemble", "group_weights": [1.0]}, "one positive number for each of 3 groups"),
        ({"own_weight": 0}, "own_weight is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            score_method(model, [query], LABELS, context=context, **options)
