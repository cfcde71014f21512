"""Every published task, loaded by name through `datasets` from local data of the same schema."""

import datasets
import pytest
from datasets import ClassLabel

from lmops_lab import load_task
from lmops_lab.icl.catalog import CATALOG
from lmops_lab.icl.definitions import TaskDefinition
from lmops_lab.icl.loaders import load_data
from tests.icl.schemas import FINE, SCHEMAS, TREC, write_dataset

DEMONSTRATIONS = {
    "sst2": "Sentence: a joy Sentiment: positive\n",
    "sst5": "Sentence: awful Sentiment: terrible\n",
    "mr": "Review: good Sentiment: Positive\n",
    "subj": "Input: he leaves Type: objective\n",
    "agnews": "Article: a chip Category: Technology\n",
    "trec": "Question: How far ? Type: Number\n",
    "dbpedia": "Input: X was a mayor. Type: politics\n",
    "rte": "It rained. Question: It was dry. True or False? Answer: False\n",
    "cb": "It rained. Question: it was dry. True, False, or Neither? Answer: False\n",
    "boolq": "Passage: Ice is cold. Question: is ice cold? Answer: Yes\n",
    "wic": 'The bank shut. A river bank. Question: Is the word "bank" used in the same way in the two sentences above? '
    "Answer: No\n",
    "wsc": 'Mark told Pete he won. In the previous sentence, does the pronoun "he" refer to Mark? Yes\n',
    "multirc": 'Ann ran. Question: "Who ran?" Response: "Ann" Does the response correctly answer the question? '
    "Answer: Yes\n",
    "copa": "It rained so the road got wet.\n",
    "hellaswag": "A man sees a chair. He sits.\n",
    "piqa": "To open a jar, twist the lid.\n",
    "obqa": "Ice is cold\n",
    "arce": "Ice is cold\n",
    "arcc": "Ice is cold\n",
    "storycloze": "S1. S2. S3. S4. He won.\n",
    "winogrande": "Ann paid Sue since Ann owed money.\n",
    "nq": "Question: who sang it Answer: Ann Lee\n",
    "webqs": "Question: who sang it Answer: Ann Lee\n",
    "triviaqa": "Question: Who sang it? Answer: Ann Lee\n",
    "squad": "Passage: Ann sang. Question: Who sang? Answer: Ann\n",
    "squad2": "Passage: Ann sang. Question: Who sang? Answer: none\n",
    "banking77": "query: where is it intent: card arrival 0\n",
    "clinc": "query: wake me intent: intent number 7\n",
    "nlu": None,  # rows are split by chance
    "trec_fine": "query: How far ? intent: number distance\n",
}
LABELS = {"sst5": 5, "trec": 6, "dbpedia": 14, "cb": 3, "banking77": 77, "clinc": 151, "nlu": 68, "trec_fine": 50}


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    """Dataset names are folders of the working folder, and `datasets` caches nothing elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_the_whole_table_is_there():
    assert set(CATALOG) == set(SCHEMAS) == set(DEMONSTRATIONS)


@pytest.mark.parametrize("key", CATALOG)
def test_a_published_task(tmp_path, key):
    write_dataset(tmp_path, key)
    task = load_task(key)
    definition = CATALOG[key]
    assert (task.name, task.kind, task.template) == (key, definition.kind, definition.template)
    assert (definition.data, definition.config) == SCHEMAS[key][:2]
    if DEMONSTRATIONS[key] is not None:
        assert task.demonstration(task.train[0]) == DEMONSTRATIONS[key]
        assert task.demonstration(task.test[0]) == DEMONSTRATIONS[key]
    if key in LABELS:
        assert len(task.labels) == len(set(task.verbalizer.values())) == LABELS[key]


@pytest.mark.parametrize("order", [TREC, ["DESC", "ENTY", "ABBR", "HUM", "NUM", "LOC"], TREC[::-1]])
def test_label_words_follow_the_names_of_the_data_not_their_numbers(tmp_path, order):
    """The Hub has had TREC's classes in two orders; words given by number would swap Description and Number."""
    rows = [
        {"text": name, "coarse_label": number, "fine_label": next(i for i, f in enumerate(FINE) if name in f)}
        for number, name in enumerate(order)
    ]
    write_dataset(tmp_path, "trec", changes={"coarse_label": ClassLabel(names=order)}, rows=rows)
    task = load_task("trec")
    assert list(task.labels) == order
    words = {e.fields["text"]: task.answer(e) for e in task.train}
    assert words == {
        "ABBR": "Abbreviation",
        "ENTY": "Entity",
        "DESC": "Description",
        "HUM": "Human",
        "LOC": "Location",
        "NUM": "Number",
    }
    assert list(task.verbalizer.values()) == [words[name] for name in order]


def test_choices_and_answers(tmp_path):
    for key in ("copa", "winogrande", "triviaqa", "squad", "arcc"):
        write_dataset(tmp_path, key)
    copa, winogrande, arc = (load_task(key) for key in ("copa", "winogrande", "arcc"))
    assert copa.test[0].choices == ("he swam.", "the road got wet.")
    assert (winogrande.test[0].choices, winogrande.test[0].label) == (("Ann", "Sue"), "0")
    queries = [winogrande.query(winogrande.test[0].fields, choice) for choice in winogrande.test[0].choices]
    assert queries == ["Ann paid Sue since Ann", "Ann paid Sue since Sue"]
    assert winogrande.answer(winogrande.test[0], 1) == "owed money."
    assert arc.test[0].label == "1"
    assert load_task("triviaqa").test[0].answers == ("Ann Lee", "Lee")
    assert load_task("squad").test[0].answers == ("Ann", "ann.")


def test_rows_beyond_the_limit_are_drawn_by_one_seed(tmp_path):
    rows = [{"text": f"t{i}", "label": i % 2} for i in range(50)]
    write_dataset(tmp_path, "mr", rows=rows)
    first, again = (load_data("rotten_tomatoes", limits={"test": 10}) for _ in range(2))
    assert first == again
    assert [len(first.splits[split]) for split in ("train", "validation", "test")] == [0, 0, 10]
    where, row = first.splits["test"][3]
    assert where.endswith(f"test row {int(row['text'][1:]) + 1}")
    assert first.class_names == {"label": ("neg", "pos")}
    assert len(load_task("mr").train) == 50


def test_another_place_for_the_same_data(tmp_path, write_jsonl):
    rows = [{"sentence": f"s{i}", "label": ["negative", "positive"][i % 2]} for i in range(6)]
    for split in ("train", "validation"):
        write_jsonl(f"copy/{split}.jsonl", rows)
    task = load_task("sst2", data=tmp_path / "copy")
    assert (len(task.train), task.labels) == (6, ("negative", "positive"))
    with pytest.raises(FileNotFoundError, match="no data at"):
        load_task("sst2", data=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="'reviews' names none"):
        load_task("reviews", data=tmp_path / "copy")


def test_overrides(tmp_path):
    write_dataset(tmp_path, "trec")
    task = load_task("trec", template="Q: {text}\nA:", label_column="fine_label")
    assert task.demonstration(task.train[0]) == "Q: How far ?\nA: NUM:dist\n\n"
    assert list(task.labels) == FINE


def test_class_names_order_the_labels_of_any_dataset(tmp_path):
    write_dataset(tmp_path, "agnews", rows=[{"text": "a", "label": i} for i in (2, 0, 3, 1)])
    (tmp_path / "my").mkdir()
    (tmp_path / "ag_news").rename(tmp_path / "my" / "news")
    loaded = load_data("my/news")
    assert loaded.class_names["label"] == ("World", "Sports", "Business", "Sci/Tech")
    mine = TaskDefinition("mine", "{text}:", "my/news", test="test").load()
    assert mine.labels == ("World", "Sports", "Business", "Sci/Tech")
    assert [e.label for e in mine.train] == ["Business", "World", "Sci/Tech", "Sports"]


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(ValueError, match="task 'helaswag' is unknown.*did you mean 'hellaswag'"):
        load_task("helaswag")


def test_a_hidden_test_label_is_explained(tmp_path):
    write_dataset(tmp_path, "sst2", rows=[{"sentence": "a", "label": -1, "idx": 0}])
    with pytest.raises(ValueError, match="glue train row 1 has label '-1' .a hidden test label: name another split"):
        load_task("sst2")


def test_classes_without_words_and_words_without_classes(tmp_path):
    write_dataset(tmp_path, "mr", changes={"label": ClassLabel(names=["neg", "positives"])})
    with pytest.raises(
        ValueError, match=r"without words: \['positives'\]; not in the data: \['positive'\]; did you mean 'positives'\?"
    ):
        load_task("mr", labels={"neg": "bad", "positive": "good"})


def test_a_missing_column_and_split(tmp_path):
    write_dataset(tmp_path, "sst2")
    with pytest.raises(
        ValueError, match="has no column 'sentance', which task 'sst2' needs; .* did you mean 'sentence'"
    ):
        load_task("sst2", template="{sentance}:")
    with pytest.raises(ValueError, match=r"no split 'validaton'; it has \['train', 'validation'\].*'validation'"):
        load_task("sst2", test_split="validaton")


def test_rows_that_a_preparation_cannot_read(tmp_path):
    rows = [{"sentence": "no gap", "option1": "a", "option2": "b", "answer": "1"}]
    write_dataset(tmp_path, "winogrande", rows=rows)
    with pytest.raises(ValueError, match="WinoGrande sentence has a gap"):
        load_task("winogrande")
    with pytest.raises(ValueError, match=r"train row 1 has no column 'sentence'; its columns are \['option1'\]"):
        CATALOG["winogrande"].from_rows([{"option1": "a"}], [{"option1": "a"}])


def test_a_dataset_that_is_a_script_is_read_from_its_parquet_branch(monkeypatch, tmp_path):
    folder = write_dataset(tmp_path, "mr")
    real, asked = datasets.load_dataset, []

    def load(name, config=None, **options):
        asked.append((name, config, options))
        if not options:
            raise RuntimeError("Dataset scripts are no longer supported, but found x.py")
        return real(str(folder))

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(load_task("mr").train) == 1
    assert asked[1] == ("rotten_tomatoes", None, {"revision": "refs/convert/parquet"})
