import dataclasses

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lmops_lab import load_task
from lmops_lab.icl.prompts import PromptTokens
from lmops_lab.icl.tasks import EMBEDDED_TASKS, Example, Task


@pytest.mark.parametrize("name", EMBEDDED_TASKS)
def test_pieces_are_the_tokens_of_the_whole_text(embedded, name):
    """Tokenising query, label and separator apart gives what tokenising the demonstration at once gives."""
    task = load_task(name)
    prompts = PromptTokens.of(embedded, task)
    for example in task.train[:200]:
        assert prompts.demonstration(example) == embedded.tokens(task.demonstration(example))


def test_real_data_with_the_published_template(embedded, real_data):
    task = load_task(str(real_data / "sst2"), template="Sentence: {text} Sentiment:", test_split="validation")
    prompts = PromptTokens.of(embedded, task)
    for example in task.train[:200]:
        assert prompts.demonstration(example) == embedded.tokens(task.demonstration(example))


def test_content_free_queries(tiny):
    prompts = PromptTokens.of(tiny, load_task("reviews"))
    assert prompts.content_free()[2] == tiny.tokens("Review: \nSentiment:")


def test_a_label_that_merges_into_the_template_is_refused(tiny):
    """A tokenizer that joins the template's last letter with the label's space would move the border between them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merging = Tokenizer(models.BPE({c: i for i, c in enumerate([*letters, "x\u0120"])}, [("x", "\u0120")]))
    merging.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    lm = dataclasses.replace(tiny, tokenizer=PreTrainedTokenizerFast(tokenizer_object=merging))
    example = Example({"text": "a"}, "p")
    with pytest.raises(ValueError, match="merges label 'one' into the template '{text}'"):
        PromptTokens.of(lm, Task("t", "{text}", {"p": "one", "q": "two"}, (example,), (example,)))
    assert PromptTokens.of(lm, Task("t", "{text}:", {"p": "one", "q": "two"}, (example,), (example,)))
