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


def test_domain_texts_are_random_words_of_the_training_examples(tiny):
    train = tuple(Example({"a": f"x{i} y{i} z{i}", "b": f"w{i}"}, "pq"[i % 2]) for i in range(8))
    test = (Example({"a": "secret", "b": "secret"}, "p"),)
    task = Task("t", "A: {a} B: {b} C:", {"p": "one", "q": "two"}, train, test)
    prompts = PromptTokens.of(tiny, task)
    texts = [tiny.tokenizer.decode(tokens) for tokens in prompts.domain(5, seed=1)]
    assert len(set(texts)) == 5
    words = {word for e in train for word in e.fields["a"].split()}
    for text in texts:
        first, second = text.removeprefix("A: ").removesuffix(" C:").split(" B: ")
        assert len(first.split()) == 3  # as long as that field is on average
        assert set(first.split()) <= words
        assert second in {e.fields["b"] for e in train}
    assert prompts.domain(5, seed=1) == prompts.domain(5, seed=1) != prompts.domain(5, seed=2)


def test_the_premise_is_the_template_s_end(tiny):
    example = Example({"text": "1"}, "p")
    for template, premise in (("Review: {text}\nSentiment:", "Sentiment:"), ("{text}", "<s>")):
        task = Task("t", template, {"p": "one", "q": "two"}, (example,), (example,))
        assert tiny.tokenizer.decode(PromptTokens.of(tiny, task).premise()) == premise


def test_demonstrations_of_other_kinds(tiny):
    """Query, answer and separator apart are the tokens of the whole text, whatever the kind of task."""
    choice = Example({"text": "Ann paid", "after": "owed it."}, "1", ("Bob", "Sue"))
    opened = Example({"text": "Who?"}, "Ann Lee", answers=("Ann Lee",))
    tasks = [
        Task("c", "Q: {text} A:", {}, (choice,), (choice,), "\n", kind="multiple-choice"),
        Task("w", "{text} {choice}", {}, (choice,), (choice,), "\n", kind="multiple-choice", continuation="{after}"),
        Task("o", "Q: {text} A:", {}, (opened,), (opened,), "\n", kind="generation"),
    ]
    texts = ["Q: Ann paid A: Sue\n", "Ann paid Sue owed it.\n", "Q: Who? A: Ann Lee\n"]
    for task, text in zip(tasks, texts, strict=True):
        prompts = PromptTokens.of(tiny, task, task.kind)
        assert tiny.tokenizer.decode(prompts.demonstration(task.train[0])) == text
        with pytest.raises(ValueError, match=f"is of kind '{task.kind}', not 'classification'"):
            PromptTokens.of(tiny, task)
    prompts = PromptTokens.of(tiny, tasks[1], "multiple-choice")
    assert tiny.tokenizer.decode(prompts.query(choice, 0)) == "Ann paid Bob"
    tail = prompts.with_tail([choice], choice)
    assert tiny.tokenizer.decode(tail) == "Ann paid Sue owed it.\nAnn paid Sue"
