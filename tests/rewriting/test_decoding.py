import math

import pytest
import torch
from transformers import GenerationConfig

from lmops_lab.rewriting.decoding import (
    Decoding,
    beam_score,
    completion_log_probabilities,
    decode,
    legacy_beam_score,
)
from tests.rewriting.tiny_rewriters import tiny_gpt2

END = 19


@pytest.fixture(scope="module")
def model():
    return tiny_gpt2(20, END)


def run(model, prompts, candidates=4, seed=0, **settings):
    decoding = Decoding(**{"beams": 4, "max_new_tokens": 6, **settings})
    return decode(model, prompts, decoding, candidates=candidates, end=END, pad=END, seed=seed)


def slow_log_probability(model, prompt, tokens):
    total = 0.0
    for i, token in enumerate(tokens):
        logits = model(torch.tensor([[*prompt, *tokens[:i]]])).logits[0, -1]
        total += float(logits.detach().log_softmax(-1)[token])
    return total


def test_beams_are_those_of_transformers_with_the_same_scores(model):
    prompt = [3, 1, 4]
    config = GenerationConfig(
        num_beams=4,
        num_return_sequences=4,
        max_new_tokens=6,
        length_penalty=-1.0,
        eos_token_id=END,
        pad_token_id=END,
        output_scores=True,
        return_dict_in_generate=True,
    )
    with torch.inference_mode():
        out = model.generate(torch.tensor([prompt]), generation_config=config)
    (found,) = run(model, [prompt])
    for row, score, hypothesis in zip(out.sequences[:, 3:].tolist(), out.sequences_scores, found, strict=True):
        tokens = row[: row.index(END)] if END in row else row
        assert list(hypothesis.tokens) == tokens
        assert beam_score(hypothesis.log_probability, hypothesis.generated, -1.0) == pytest.approx(
            float(score), abs=1e-4
        )


def test_log_probabilities_are_those_of_one_token_at_a_time(model):
    prompt, completions = [3, 1], [[5, 6, 7], [8], [9, END]]
    fast = completion_log_probabilities(model, prompt, completions)
    for value, completion in zip(fast.tolist(), completions, strict=True):
        assert value == pytest.approx(slow_log_probability(model, prompt, completion), abs=1e-5)


def test_scores_by_hand():
    # Four generated tokens with the end token, -2 nats: since 4.36 -2 / 4**-1 = -8.
    assert beam_score(-2.0, 4, -1.0) == pytest.approx(-8.0)
    # Before: ten prompt tokens and three without the end token: -2 / 13**-1 = -26.
    assert legacy_beam_score(-2.0, 10, 3, -1.0) == pytest.approx(-26.0)
    assert beam_score(-2.0, 4, 0.0) == legacy_beam_score(-2.0, 10, 3, 0.0) == -2.0


def test_legacy_and_current_scores_can_rank_differently():
    # A short unlikely and a long likely rewrite after a long prompt: the old length hardly tells them apart.
    short, long = (-6.0, 3), (-4.0, 8)
    assert beam_score(short[0], short[1] + 1, -1.0) > beam_score(long[0], long[1] + 1, -1.0)
    assert legacy_beam_score(short[0], 20, short[1], -1.0) < legacy_beam_score(long[0], 20, long[1], -1.0)


@pytest.mark.parametrize("settings", [{}, {"method": "sampling"}, {"method": "diverse", "groups": 2}])
def test_completions_do_not_depend_on_the_batch_and_repeat(model, settings):
    prompts = [[3, 1, 4, 1, 5], [9], [2, 6]]
    together = run(model, prompts, **settings)
    assert together == run(model, prompts, **settings)
    for prompt, found in zip(prompts, together, strict=True):
        (alone,) = run(model, [prompt], **settings)
        assert [h.tokens for h in alone] == [h.tokens for h in found]
        assert [h.log_probability for h in alone] == pytest.approx([h.log_probability for h in found], abs=1e-5)


def test_sampling_follows_the_models_distribution_and_its_seed(model):
    decoding = {"method": "sampling", "max_new_tokens": 1}
    (found,) = run(model, [[3, 1]], candidates=3000, **decoding)
    counts = torch.zeros(20)
    for hypothesis in found:
        counts[hypothesis.tokens[0] if hypothesis.tokens else END] += 1
    expected = model(torch.tensor([[3, 1]])).logits[0, -1].detach().softmax(-1)
    assert float((counts / 3000 - expected).abs().max()) < 4 * math.sqrt(0.25 / 3000)
    assert found != run(model, [[3, 1]], candidates=3000, seed=1, **decoding)[0]


def test_one_group_is_beam_search_and_more_groups_differ_at_once(model):
    # With early stopping both keep the first four finished beams, so lengths must not end inside: forbid the end.
    settings = {"min_new_tokens": 6, "length_penalty": 1.0}
    plain = run(model, [[3, 1, 4]], **settings)
    assert {h.tokens for h in run(model, [[3, 1, 4]], method="diverse", groups=1, **settings)[0]} == {
        h.tokens for h in plain[0]
    }
    strong = run(model, [[3, 1, 4]], method="diverse", groups=4, diversity_penalty=1e6, **settings)
    for position in range(6):
        assert len({h.tokens[position] for h in strong[0]}) == 4


def test_diverse_groups_pay_the_penalty_by_hand(model):
    penalty = 0.7
    (found,) = run(model, [[3, 1]], method="diverse", groups=4, diversity_penalty=penalty, max_new_tokens=1)
    logs = model(torch.tensor([[3, 1]])).logits[0, -1].log_softmax(-1)
    taken = torch.zeros(20)
    for hypothesis in found:
        best = int((logs - penalty * taken).argmax())
        assert (list(hypothesis.tokens) or [END]) == [best]
        if best != END:
            taken[best] += 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "magic"}, "'magic'"),
        ({"beams": 0}, "beams is 0"),
        ({"method": "diverse", "beams": 5, "groups": 2}, "5 beams cannot be split into 2"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"min_new_tokens": 80}, "min_new_tokens is 80"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Decoding(**settings)


def test_more_candidates_than_beams(model):
    with pytest.raises(ValueError, match="5 candidates asked for, but the search has 4 beams"):
        run(model, [[1]], candidates=5)
