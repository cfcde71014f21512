"""The token budget against what the tokenizer itself keeps."""

import pytest

from lmops_lab.generation.tokens import prompt_warnings, token_budget
from tests.tiny_pictures import clip_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return clip_tokenizer()


@pytest.mark.parametrize(
    "text", ["the cat " * 60, "A Rabbit wears a Space Suit, digital Art, " * 3, "кот в космосе " * 12, "🦊" * 40]
)
def test_the_cut_text_is_what_truncation_drops(tokenizer, text):
    budget = token_budget(tokenizer, text)
    whole = tokenizer(text).input_ids
    assert budget.used == len(whole) > budget.limit == 77
    assert not budget.fits
    kept = tokenizer(text, truncation=True, max_length=77).input_ids
    assert len(kept) == 77
    assert text.endswith(budget.cut)
    # The part before the cut fills the window, up to a character that the cut splits.
    before = tokenizer(text[: len(text) - len(budget.cut)]).input_ids
    assert 74 <= len(before) <= 77
    assert before[:70] == kept[:70]


def test_what_fits_is_not_cut(tokenizer):
    budget = token_budget(tokenizer, "the cat")
    assert (budget.used, budget.limit, budget.cut, budget.unknown) == (4, 77, "", ())
    assert budget.fits
    assert token_budget(tokenizer, "the cat", limit=3).cut == "cat"


def test_pieces_without_a_token_are_named(loaded, tokenizer):
    import copy

    from transformers import CLIPTokenizer

    vocabulary = {"the</w>": 0, "cat</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}
    small = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
    pipeline = copy.copy(loaded.pipeline)
    pipeline.tokenizer = small
    assert token_budget(small, "z").unknown == ("z",)
    assert any("does not know, 'z'" in message for message in prompt_warnings(pipeline, "z"))
    assert token_budget(tokenizer, "z 🦊").unknown == ()
