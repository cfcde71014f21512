"""A user's own task: ten lines of Python, a YAML file, a CSV - and what every mistake in one is told."""

import csv

import pytest

from lmops_lab import load_task
from lmops_lab.icl.definitions import TaskDefinition
from lmops_lab.icl.prompts import PromptTokens
from lmops_lab.icl.tasks import Example, Task

ROWS = [{"text": f"item {i}", "label": "good" if i % 2 else "bad"} for i in range(12)]


@pytest.fixture
def write_yaml(tmp_path):
    def write(text: str):
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def table(tmp_path):
    """A CSV with a label, choices, and an answer."""
    path = tmp_path / "d.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["text", "label", "a", "b", "c", "right", "answer"])
        writer.writeheader()
        for i, row in enumerate(ROWS):
            right = "blue" if i % 2 else "A"
            writer.writerow(row | {"a": "red", "b": "blue", "c": "" if i < 6 else "green", "right": right, "answer": i})
    return path


def test_ten_lines_of_python():
    definition = TaskDefinition("mine", "Item: {text}\nQuality:", labels={"bad": "poor", "good": "fine"})
    task = definition.from_rows(ROWS[:8], ROWS[8:])
    assert task.demonstration(task.train[1]) == "Item: item 1\nQuality: fine\n\n"
    assert (task.labels, len(task.test)) == (("bad", "good"), 4)


def test_a_yaml_classification(write_yaml, table):
    task = load_task(
        write_yaml('template: "{text} =>"\ndata: d.csv\nlabels:\n  bad: "No"\n  good: "Yes"\ntest_limit: 2\n')
    )
    assert (task.name, task.kind, len(task.train), len(task.test)) == ("mine", "classification", 9, 2)
    assert {task.answer(e) for e in task.train} == {"No", "Yes"}


def test_numbers_are_labels_too(write_yaml, tmp_path):
    (tmp_path / "n.csv").write_text("text,label\na,0\nb,1\nc,0\nd,1\n")
    task = load_task(write_yaml("template: '{text}:'\ndata: n.csv\nlabels: {0: bad, 1: good}\n"))
    assert dict(task.verbalizer) == {"0": "bad", "1": "good"}


def test_a_yaml_multiple_choice(write_yaml, table):
    text = (
        "kind: multiple-choice\ntemplate: 'Colour of {text}:'\ndata: d.csv\n"
        "choices: [a, b, c]\nchoice_keys: [A, B, C]\nlabel_column: right\n"
    )
    task = load_task(write_yaml(text))
    examples = {e.fields["text"]: e for e in (*task.train, *task.test)}
    assert examples["item 0"] == Example({"text": "item 0"}, "0", ("red", "blue"))  # a key, and an empty cell
    assert examples["item 7"] == Example({"text": "item 7"}, "1", ("red", "blue", "green"))  # a choice's own text
    assert task.demonstration(examples["item 7"]) == "Colour of item 7: blue\n"


def test_a_yaml_open_question(write_yaml, table):
    task = load_task(write_yaml("kind: generation\ntemplate: 'Number of {text}:'\ndata: d.csv\nanswers: answer\n"))
    example = next(e for e in task.train if e.fields["text"] != "item 0")
    assert example.answers == (example.label,)
    assert f"item {example.label}" == example.fields["text"]


def test_default_labels_are_the_data_s_with_spaces():
    rows = [{"text": "a", "label": "card_lost"}, {"text": "b", "label": "pin"}]
    assert TaskDefinition("t", "{text}:").from_rows(rows, rows).verbalizer == {"card_lost": "card lost", "pin": "pin"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("templete: '{text}:'\ndata: d.csv\n", "mine.yaml has an unknown field 'templete'; did you mean 'template'?"),
        ("zzz: 1\n", "unknown field 'zzz'; fields are name, template, data"),
        ("prepare: x\n", "unknown field 'prepare'"),
        ("template: '{text}:'\n", r"mine.yaml lacks \['data'\]"),
        ("template: [a]\ndata: d.csv\n", r"template is \['a'\]; it has to be a text"),
        ("template: '{text}:'\ndata: d.csv\ntest_limit: yes\n", "test_limit is True; it has to be a whole number"),
        ("template: '{text}:'\ndata: d.csv\ntest_limit: 0\n", "test_limit of task 'mine' is 0"),
        ("template: '{text}:'\ndata: d.csv\nlabels: {bad: No, good: Yes}\n", "holds False, .* put quotes around it"),
        ("template: '{text}:'\ndata: d.csv\nlabels: good\n", "labels is 'good'; it has to be a list, or a mapping"),
        ("template: '{text}:'\ndata: d.csv\nlabels: [bad, goood]\n", "label 'good', .*did you mean 'goood'"),
        ("template: '{text}:'\ndata: d.csv\nlabels: {bad: x, good: x}\n", "stands twice"),
        ("template: '{txt}:'\ndata: d.csv\n", "has no column 'txt', .* did you mean 'text'"),
        ("template: '{text}:'\ndata: d.csv\nlabel_column: gold\n", "has no column 'gold'"),
        ("template: '{text}:'\ndata: d.csv\ntest: tset\n", r"no split 'tset'; it has \['test', 'train'\]"),
        ("template: '{text}:'\ndata: ./nowhere.csv\n", "no data at './nowhere.csv'"),
        ("template: '{text} {'\ndata: d.csv\n", "cannot be read"),
        ("template: '{text}:'\ndata: d.csv\nkind: generatoin\n", "did you mean 'generation'"),
        ("template: '{text}:'\ndata: d.csv\nkind: generation\n", "names no answers"),
        ("template: '{text}:'\ndata: d.csv\nkind: multiple-choice\n", "names no choices"),
        ("template: '{text}:'\ndata: d.csv\nanswers: answer\n", "'classification', which has no answers"),
        (
            "template: '{text}:'\ndata: d.csv\nkind: multiple-choice\nchoices: [a, b]\nlabel_column: right\n",
            "says that 'A' is right .* set choice_keys",
        ),
        ("- a\n", "holds a list, not fields"),
        ("a: [\n", "mine.yaml is not YAML"),
        ("template: '{text}'\ndata: d\nlabels: {a: [b], c: d}\n", r"labels holds \['b'\]"),
        ("template: '{text}'\ndata: d\nkind: multiple-choice\nchoices: [a, {}]\n", "choices holds {}"),
        ("template: &t '{text}'\ndata: *t\n", r"mine.yaml has the alias \*t in line 2"),
        (f"template: '{{text}}'\ndata: {'x' * 5000}\n", "mine.yaml: data is 'xxx"),
    ],
)
def test_mistakes_in_a_yaml_file(write_yaml, table, text, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_task(write_yaml(text))


def test_a_yaml_file_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="no data at './nowhere.yaml'"):
        load_task("./nowhere.yaml")


def test_an_empty_split():
    with pytest.raises(ValueError, match="the test split of task 't' is empty"):
        TaskDefinition("t", "{text}:").from_rows(ROWS, [])


def test_a_definition_without_data():
    with pytest.raises(ValueError, match="names no data"):
        TaskDefinition("t", "{text}:").load()
    with pytest.raises(ValueError, match="labels of task 't' is one text"):
        TaskDefinition("t", "{text}:", labels="ab")


def test_two_labels_with_the_same_tokens(tiny):
    """The tokenizer decides: here one that does not tell upper from lower case."""
    from tokenizers import normalizers

    task = TaskDefinition("t", "{text}:", labels={"bad": "Word", "good": "word"}).from_rows(ROWS, ROWS)
    assert PromptTokens.of(tiny, task)
    tokenizer = tiny.tokenizer.backend_tokenizer
    before = tokenizer.normalizer
    tokenizer.normalizer = normalizers.Lowercase()
    try:
        with pytest.raises(ValueError, match="labels 'Word' and 'word' have the same tokens .* make them differ"):
            PromptTokens.of(tiny, task)
    finally:
        tokenizer.normalizer = before


CHOICE = Example({"text": "1"}, "0", ("x", "y"))
OPEN = Example({"text": "1"}, "x", answers=("x",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "choice"}, "kind 'choice'; kinds are classification"),
        ({"verbalizer": {"a": "x", "b": "y"}}, "has a verbalizer"),
        ({"train": (CHOICE._replace(choices=("x",)),)}, "needs 2 or more, none empty"),
        ({"train": (CHOICE._replace(choices=("x", " ")),)}, "needs 2 or more, none empty"),
        ({"test": (CHOICE._replace(label="2"),)}, "not the number of one of its 2 choices"),
        ({"continuation": "{text}"}, "names {choice}"),
        ({"continuation": "{choice} {more}"}, r"lacks \['more'\]"),
        ({"kind": "generation"}, "has no accepted answer"),
    ],
)
def test_tasks_of_other_kinds_that_make_no_sense(changes, message):
    settings = {"template": "{text}:", "verbalizer": {}, "train": (CHOICE,), "test": (CHOICE,)}
    with pytest.raises(ValueError, match=message):
        Task("t", **(settings | {"kind": "multiple-choice"} | changes))


def test_fingerprints_see_choices_and_answers():
    def fingerprint(example, kind):
        return Task("t", "{text}:", {}, (example,), (example,), kind=kind).fingerprint

    others = [CHOICE, CHOICE._replace(choices=("x", "z")), CHOICE._replace(label="1")]
    prints = [fingerprint(example, "multiple-choice") for example in others]
    prints += [fingerprint(example, "generation") for example in (OPEN, OPEN._replace(answers=("x", "y")))]
    assert len(set(prints)) == len(prints)
