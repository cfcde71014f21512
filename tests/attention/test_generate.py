"""Generation behind a context: the same tokens as running everything again at every step, on every architecture."""

import pytest
import torch

from lmops_lab import encode_groups
from lmops_lab.attention.call import AttentionCall
from lmops_lab.attention.encoding import encode_documents, encode_token_groups
from lmops_lab.attention.forward import hidden_at, logits_at
from lmops_lab.attention.generate import generate_tokens
from lmops_lab.attention.probe import prepare
from lmops_lab.models import _pieces_until
from tests.tiny import ARCHITECTURES, tiny_model

NEW = 7


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request):
    model = tiny_model(request.param)
    prepare(model)
    return model


def ids(generator, *lengths):
    return [torch.randint(0, 256, (n,), generator=generator).tolist() for n in lengths]


def encode(model, groups):
    return encode_token_groups(model, [[g] for g in groups], bos="none", prefix=(), model_name="t", progress=False)


def generate(model, prompts, context, **options):
    settings = {"own_weight": "groups", "max_new_tokens": NEW, "pad_token": 257, "eos_token_id": None} | options
    return generate_tokens(model, prompts, context=context, **settings)


def rerun(model, prompt, context, steps=NEW):
    """Greedy continuation by a full forward pass over prompt and answer for every new token."""
    row = list(prompt)
    for _ in range(steps):
        positions = torch.arange(context.end, context.end + len(row))[None]
        call = AttentionCall(context, float(torch.tensor(float(context.groups)).log()))
        states = hidden_at(model, torch.tensor([row]), positions, call)
        row.append(int(logits_at(model, states[0, -1:]).argmax()))
    return row[len(prompt) :]


def test_a_ragged_batch_of_prompts_continues_as_each_does_by_rerunning(model, generator):
    context, prompts = encode(model, ids(generator, 22, 15)), ids(generator, 9, 3, 13)
    expected = [rerun(model, prompt, context) for prompt in prompts]
    assert generate(model, prompts, context) == expected
    assert generate(model, prompts[1:2], context) == expected[1:2]


def test_beams_behind_one_group_are_the_untouched_models_beams(model, generator):
    demonstration, prompt = ids(generator, 18, 6)
    stock = tiny_model(model.config.model_type)
    options = {"num_beams": 3, "num_return_sequences": 2, "do_sample": False, "eos_token_id": None, "pad_token_id": 257}
    row = torch.tensor([demonstration + prompt])
    expected = stock.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=NEW, **options)
    options.pop("eos_token_id"), options.pop("pad_token_id")
    ours = generate(model, [prompt], encode(model, [demonstration]), own_weight=1, **options)
    assert ours == [line[row.shape[1] :].tolist() for line in expected]


def test_without_a_context_it_is_ordinary_generation(tiny):
    expected = tiny.model.generate(
        torch.tensor([tiny.tokens("Some words")]), max_new_tokens=5, do_sample=False, eos_token_id=None
    )
    text = tiny.generate("Some words", max_new_tokens=5, eos_token_id=None)
    assert text == tiny.tokenizer.decode(expected[0, 10:], skip_special_tokens=True)


def test_the_public_call_takes_lists_stops_samples_and_streams(tiny):
    context = encode_groups(tiny, ["a: b\n", "c: d\n", "e: f\n"], group_size=1, progress=False)
    whole = tiny.generate("g:", context=context, max_new_tokens=12)
    assert tiny.generate(["g:", "longer prompt:"], context=context, max_new_tokens=12)[0] == whole
    assert "".join(tiny.stream("g:", context=context, max_new_tokens=12)) == whole
    stop = whole[5]
    assert tiny.generate("g:", context=context, max_new_tokens=12, stop=stop) == whole[: whole.index(stop)]
    torch.manual_seed(1)
    several = tiny.generate("g:", context=context, max_new_tokens=12, do_sample=True, num_return_sequences=3)
    assert len(set(several)) == 3


@pytest.mark.parametrize(
    "stops", [["lo w"], ["o", "lo w"], ["lo word", "w"], ["lo x", "rl"], ["never"], ["d"], [], ["h"]]
)
@pytest.mark.parametrize("size", [1, 2, 5, 11])
def test_pieces_end_before_the_first_stop_text_wherever_they_are_cut(stops, size):
    text = "hello world"
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    expected = text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]
    assert "".join(_pieces_until(pieces, stops)) == expected


def test_pieces_wait_only_while_a_stop_text_may_have_begun():
    pieces = _pieces_until(iter(["Label: ye", "s\nRe", "ad", "\nReview: x"]), ["\nReview:"])
    assert list(pieces) == ["Label: ye", "s", "\nRead"]


def test_a_stream_with_a_stop_text_is_what_generating_gives(tiny):
    context = encode_groups(tiny, ["a: b\n", "c: d\n", "e: f\n"], group_size=1, progress=False)
    whole = tiny.generate("g:", context=context, max_new_tokens=12)
    for stop in (whole[5], whole[3:6], [whole[4:6] + "no", whole[7:9]], "not there"):
        options = {"context": context, "max_new_tokens": 12, "stop": stop}
        assert "".join(tiny.stream("g:", **options)) == tiny.generate("g:", **options)
    assert tiny.generate("g:", context=context, max_new_tokens=12, stop=whole[3:6]) != whole


def test_documents_are_groups_of_their_own(tiny):
    documents = ["The bridge opened in 1901.\n", "Its engineer was Ada Holm. " * 3]
    context = encode_documents(tiny, documents, progress=False)
    assert (context.groups, context.examples, context.end) == (2, 2, len(tiny.tokens(documents[1])))
    cut = encode_documents(tiny, documents, chunk_tokens=30, progress=False)
    assert cut.group_tokens == (27, 30, 30, 21)
    with pytest.raises(ValueError, match="document 1 has no tokens"):
        encode_documents(tiny, ["x", ""], progress=False)
    with pytest.raises(ValueError, match="chunk_tokens is 0"):
        encode_documents(tiny, ["x"], chunk_tokens=0, progress=False)
    with pytest.raises(ValueError, match="give a list of texts"):
        encode_documents(tiny, "x", progress=False)


def test_bad_requests_are_refused_before_any_step(tiny):
    context = encode_groups(tiny, ["x" * 400], progress=False)
    with pytest.raises(ValueError, match="prompt 0 has 60 tokens and 64 new ones .* 112 of the model's 512 positions"):
        tiny.generate("y" * 60, context=context)
    for prompts, count, message in (
        ("", 5, "prompt 0 has no tokens"),
        ([], 5, "no prompts"),
        ("x", 0, "max_new_tokens is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny.generate(prompts, max_new_tokens=count)
    with pytest.raises(ValueError, match="own_weight is -1"):
        tiny.generate("x", context=context, own_weight=-1, max_new_tokens=2)
    with pytest.raises(ValueError, match="no prompts|no tokens"):
        list(tiny.stream(""))
