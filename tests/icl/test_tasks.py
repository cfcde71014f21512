"""Embedded data, local files and `datasets`: what loads, and what every malformed input is told."""

import json
import re
import shutil
from collections import Counter

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmops_lab import load_task
from lmops_lab.icl.tasks import EMBEDDED_TASKS, Example, Task

ROWS = [{"text": f"item {i}", "label": "good" if i % 2 else "bad"} for i in range(12)]


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower())


def five_grams(text):
    tokens = words(text)
    return {tuple(tokens[i : i + 5]) for i in range(len(tokens) - 4)}


@pytest.fixture(scope="module", params=EMBEDDED_TASKS)
def embedded_task(request):
    return load_task(request.param)


def test_embedded_data_is_large_balanced_and_of_the_stated_length(embedded_task):
    train, test = embedded_task.train, embedded_task.test
    assert len(train) >= 1200
    assert len(test) >= 300
    for split in (train, test):
        counts = Counter(example.label for example in split)
        assert set(counts) == set(embedded_task.labels)
        assert len(set(counts.values())) == 1
        assert all(4 <= len(example.fields["text"].split()) <= 40 for example in split)


def test_embedded_data_has_no_duplicates_and_no_five_words_in_common(embedded_task):
    texts = [" ".join(words(e.fields["text"])) for split in (embedded_task.train, embedded_task.test) for e in split]
    assert len(set(texts)) == len(texts)
    train = set().union(*(five_grams(e.fields["text"]) for e in embedded_task.train))
    assert [e.fields["text"] for e in embedded_task.test if five_grams(e.fields["text"]) & train] == []


def test_embedded_data_follows_no_template(embedded_task):
    """No opening of two words begins more than 2 % of the items, and no length dominates."""
    texts = [e.fields["text"] for split in (embedded_task.train, embedded_task.test) for e in split]
    openings = Counter(" ".join(words(text)[:2]) for text in texts)
    assert openings.most_common(1)[0][1] <= 0.02 * len(texts)
    assert max(Counter(len(text.split()) for text in texts).values()) < 0.15 * len(texts)


def test_embedded_texts_are_plain(embedded_task):
    for example in embedded_task.train:
        text = example.fields["text"]
        assert text == " ".join(text.split())
        assert text.isascii()


def test_prompts():
    task = load_task("reviews")
    example = Example({"text": "A joy."}, "positive")
    assert task.query(example.fields) == "Review: A joy.\nSentiment:"
    assert task.demonstration(example) == "Review: A joy.\nSentiment: positive\n\n"
    assert task.fill("N/A") == "Review: N/A\nSentiment:"


def test_every_local_format_gives_the_same_task(tmp_path, write_jsonl):
    write_jsonl("json/train.jsonl", ROWS)
    write_jsonl("json/test.jsonl", ROWS[:4])
    for kind in ("csv", "parquet"):
        (tmp_path / kind).mkdir()
    for name, rows in (("train", ROWS), ("test", ROWS[:4])):
        lines = ["text,label", *(f'"{row["text"]}",{row["label"]}' for row in rows)]
        (tmp_path / "csv" / f"{name}.csv").write_text("\n".join(lines))
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "parquet" / f"{name}.parquet")
    tasks = [load_task(str(tmp_path / kind), template="{text} =") for kind in ("json", "csv", "parquet")]
    prints = {task.fingerprint.rpartition("-")[2] for task in tasks}
    assert len(prints) == 1
    assert (len(tasks[0].train), len(tasks[0].test), tasks[0].labels) == (12, 4, ("bad", "good"))


def test_a_single_file_is_split(write_jsonl):
    task = load_task(str(write_jsonl("all.jsonl", ROWS * 10)))
    assert (len(task.train), len(task.test)) == (90, 30)
    assert {example.label for example in task.test} == {"good", "bad"}  # whatever the order of the rows
    assert task.name == "all"


def test_one_split_in_two_files_is_refused(tmp_path, write_jsonl):
    write_jsonl("s/train.jsonl", ROWS)
    (tmp_path / "s" / "train.csv").write_text("text,label\na,x\n")
    with pytest.raises(ValueError, match="one split in several files"):
        load_task(str(tmp_path / "s"))


def test_verbalizer_and_other_columns(write_jsonl):
    path = write_jsonl("d.jsonl", [{"a": "x", "b": "y", "gold": 1} for i in range(8)])
    task = load_task(str(path), template="{a} and {b}?", labels={"0": "No", "1": "Yes"}, label_column="gold")
    assert task.demonstration(task.train[0]) == "x and y? Yes\n"


def test_real_data(real_data):
    sst2 = load_task(str(real_data / "sst2"), template="Sentence: {text} Sentiment:", test_split="validation")
    assert (len(sst2.train), len(sst2.test), sst2.labels) == (6920, 872, ("negative", "positive"))
    trec = load_task(str(real_data / "trec"), template="Question: {text} Type:")
    rows = [json.loads(line) for line in (real_data / "trec" / "train.jsonl").open(encoding="utf-8")]
    assert set(trec.labels) == {row["label"] for row in rows}
    assert [e.label for e in trec.train] == [row["label"] for row in rows]


def test_a_datasets_dataset_keeps_its_own_label_order(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["NUM", "DESC"])}
    )
    for split, n in (("train", 8), ("test", 4)):
        data = datasets.Dataset.from_dict(
            {"text": [f"q{i}" for i in range(n)], "label": [i % 2 for i in range(n)]}, features
        )
        data.to_parquet(tmp_path / "set" / f"{split}.parquet")
    from lmops_lab.icl.loaders import load_hub_splits

    splits = load_hub_splits(str(tmp_path / "set"))
    assert [row["label"] for _, row in splits["train"][:2]] == ["NUM", "DESC"]
    assert splits["test"][0][0].endswith("test row 1")


def test_a_dataset_that_cannot_be_reached():
    with pytest.raises(ValueError, match="dataset 'nobody/nothing' .* cannot be loaded"):
        load_task("nobody/nothing", template="{text}:")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "a", "label": "x"}\n{"text": "b"\n', "d.jsonl line 2 is not JSON"),
        ('{"text": "a", "label": "x"}\n\n["b"]\n', "d.jsonl line 3 is a list, not an object"),
        ('{"text": "a", "label": "x"}\n{"text": "b", "label": ""}\n', r"d.jsonl line 2: no value for \['label'\]"),
        ('{"text": "a"}\n', r"d.jsonl line 1: no value for \['label'\]; the columns are \['text'\]"),
        ("", "d.jsonl holds no rows"),
    ],
)
def test_malformed_lines_are_named(tmp_path, text, message):
    path = tmp_path / "d.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_task(str(path))


def test_other_malformed_files(tmp_path):
    (tmp_path / "d.csv").write_text("text,label\na,x\nb,y,z\n")
    with pytest.raises(ValueError, match=r"d.csv line 3 has 3 cells, the header has 2"):
        load_task(str(tmp_path / "d.csv"))
    (tmp_path / "d.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(ValueError, match="d.parquet is not a readable Parquet file"):
        load_task(str(tmp_path / "d.parquet"))
    (tmp_path / "e.jsonl").write_bytes(b'{"text": "\xff"}')
    with pytest.raises(ValueError, match="e.jsonl is not UTF-8"):
        load_task(str(tmp_path / "e.jsonl"))
    (tmp_path / "d.txt").write_text("a")
    with pytest.raises(ValueError, match="suffix '.txt'; readable are"):
        load_task(str(tmp_path / "d.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds none of"):
        load_task(str(tmp_path / "empty"))


def test_unknown_names():
    with pytest.raises(ValueError, match="task 'review' is unknown; embedded tasks are reviews, headlines, questions"):
        load_task("review")
    with pytest.raises(FileNotFoundError, match="no data at './nowhere.jsonl'"):
        load_task("./nowhere.jsonl")


def test_missing_split(tmp_path, write_jsonl):
    write_jsonl("s/train.jsonl", ROWS)
    with pytest.raises(ValueError, match=r"no split 'validation'; it has \['train'\]"):
        load_task(str(tmp_path / "s"))
    shutil.rmtree(tmp_path / "s")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": "no field"}, "needs at least one plain name"),
        ({"template": "{text} {"}, "cannot be read"),
        ({"template": "{0}"}, "needs at least one plain name"),
        ({"template": "{text}: "}, "ends in white space"),
        ({"verbalizer": {"a": "x"}}, "has 1 labels"),
        ({"verbalizer": {"a": "x", "b": "x"}}, "stands twice"),
        (
            {"verbalizer": {"c": "x", "d": "y"}},
            "train example 0 of task 't' has label 'a', which is not in the verbalizer",
        ),
        ({"train": ()}, "has no train examples"),
        ({"test": (Example({"other": "1"}, "a"),)}, r"test example 0 of task 't' lacks \['text'\]"),
    ],
)
def test_tasks_that_make_no_sense(changes, message):
    example = Example({"text": "1"}, "a")
    settings = {"template": "{text}:", "verbalizer": {"a": "x", "b": "y"}, "train": (example,), "test": (example,)}
    with pytest.raises(ValueError, match=message):
        Task("t", **(settings | changes))
