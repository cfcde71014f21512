import numpy as np
import pytest
import torch

from lmops_lab.icl.answers import exact_match, f1, first_line, normalise, score_answers
from lmops_lab.icl.questions import answer_questions
from lmops_lab.icl.tasks import Example, Task


@pytest.mark.parametrize(
    ("text", "plain"),
    [("The  Beatles!", "beatles"), ("an apple, a pear", "apple pear"), ("U.S.A.", "usa"), ("Theatre", "theatre")],
)
def test_normalisation_is_squad_s(text, plain):
    assert normalise(text) == plain


@pytest.mark.parametrize(
    ("said", "accepted", "exact", "overlap"),
    [
        ("Paris.", ["paris", "Paris, France"], 1, 1),
        ("Paris in France", ["London", "Paris, France"], 0, 0.8),  # 2 of 3 said, 2 of 2 right
        ("Rome", ["Paris"], 0, 0),
        ("none", ["none"], 1, 1),
        ("", ["none"], 0, 0),
        ("the", ["a"], 1, 1),  # nothing but articles on both sides
        ("to be to be", ["to be"], 0, 2 / 3),  # a word counts as often as it stands
    ],
)
def test_exact_match_and_f1_take_the_best_alias(said, accepted, exact, overlap):
    assert exact_match(said, accepted) == exact
    assert f1(said, accepted) == pytest.approx(overlap)


def test_f1_is_precision_and_recall():
    said, right = "one two three four", "two four six"
    precision, recall = 2 / 4, 2 / 3
    assert f1(said, [right]) == pytest.approx(2 * precision * recall / (precision + recall))


def test_first_line():
    assert first_line(" Paris\n\nQuestion: who?") == "Paris"
    assert first_line("") == ""


def test_bad_input():
    with pytest.raises(ValueError, match="1 predictions for 2 questions"):
        score_answers(["a"], [["a"], ["b"]])
    with pytest.raises(ValueError, match="give a list of at least one"):
        exact_match("a", [])
    with pytest.raises(ValueError, match="give a list of at least one"):
        exact_match("a", "a")


def _open_task():
    questions = tuple(Example({"q": f"{n} plus 1"}, str(n + 1), answers=(str(n + 1), f"{n + 1}.")) for n in range(4))
    return Task("sums", "Question: {q} Answer:", {}, questions, questions, "\n", kind="generation")


def test_open_questions_are_asked_and_scored():
    task = _open_task()
    answers = answer_questions(task, task.test, lambda prompt: f" {len(prompt) - len(prompt) + 2}\nQuestion:")
    assert answers.predictions == ("2",) * 4
    scores = answers.score()
    assert scores.exact.tolist() == [0, 1, 0, 0]
    assert np.array_equal(scores.exact, scores.f1)


def test_open_questions_with_a_real_model(embedded):
    """One demonstration teaches the form of the answer; the model's own greedy decoding gives it."""
    shown = Example({"q": "What is the capital of Italy?"}, "Rome", answers=("Rome",))
    asked = Example({"q": "What is the capital of France?"}, "Paris", answers=("Paris", "Paris, France"))
    task = Task("capitals", "Question: {q} Answer:", {}, (shown,), (asked,), "\n", kind="generation")

    def generate(prompt):
        ids = torch.tensor([embedded.tokens(task.demonstration(shown) + prompt)])
        out = embedded.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
        return embedded.tokenizer.decode(out[0, ids.shape[1] :])

    assert answer_questions(task, task.test, generate).score().f1[0] > 0


def test_other_kinds_are_refused(tiny):
    task = _open_task()
    with pytest.raises(ValueError, match="nothing to ask of task 'sums'"):
        answer_questions(task, [], str)
    example = Example({"text": "1"}, "a")
    labelled = Task("t", "{text}:", {"a": "x", "b": "y"}, (example,), (example,))
    with pytest.raises(ValueError, match="kind 'classification', not 'generation'"):
        answer_questions(labelled, labelled.test, str)
