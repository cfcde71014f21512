"""Small local data sets with exactly the columns, types and class names of the published ones, to load by name."""

from pathlib import Path

import yaml
from datasets import ClassLabel, Dataset, Features, Sequence, Value


def _words(text: str) -> list[str]:
    return text.split()


TEXT, NUMBER = Value("string"), Value("int32")
TREC = ["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"]
FINE = _words(
    "ABBR:abb ABBR:exp ENTY:animal ENTY:body ENTY:color ENTY:cremat ENTY:currency ENTY:dismed ENTY:event ENTY:food "
    "ENTY:instru ENTY:lang ENTY:letter ENTY:other ENTY:plant ENTY:product ENTY:religion ENTY:sport ENTY:substance "
    "ENTY:symbol ENTY:techmeth ENTY:termeq ENTY:veh ENTY:word DESC:def DESC:desc DESC:manner DESC:reason HUM:gr "
    "HUM:ind HUM:title HUM:desc LOC:city LOC:country LOC:mount LOC:other LOC:state NUM:code NUM:count NUM:date "
    "NUM:dist NUM:money NUM:ord NUM:other NUM:period NUM:perc NUM:speed NUM:temp NUM:volsize NUM:weight"
)
DBPEDIA = _words(
    "Company EducationalInstitution Artist Athlete OfficeHolder MeanOfTransportation Building NaturalPlace Village "
    "Animal Plant Album Film WrittenWork"
)
_TRUTH = ClassLabel(names=["False", "True"])
_SCIENCE = {"text": Sequence(TEXT), "label": Sequence(TEXT)}
_TRAIN_TEST, _TRAIN_VALIDATION = ("train", "test"), ("train", "validation")
_BANK = [f"{what}_{n}" for n in range(39) for what in ("card_arrival", "exchange_rate")][:77]
_CLINC = [f"intent_number_{n}" for n in range(150)] + ["oos"]
_NLU = [f"alarm_query_{n}" for n in range(68)]


def _few(*names: str) -> ClassLabel:
    return ClassLabel(names=list(names))


# key of the catalogue -> (dataset, configuration, features, splits, rows of every split)
SCHEMAS = {
    "sst2": (
        "glue",
        "sst2",
        {"sentence": TEXT, "label": _few("negative", "positive"), "idx": NUMBER},
        _TRAIN_VALIDATION,
        [{"sentence": "a joy ", "label": 1, "idx": 0}, {"sentence": "a bore ", "label": 0, "idx": 1}],
    ),
    "sst5": (
        "SetFit/sst5",
        None,
        {"text": TEXT, "label": Value("int64"), "label_text": TEXT},
        ("train", "validation", "test"),
        [{"text": "awful", "label": 0, "label_text": "very negative"}],
    ),
    "mr": (
        "rotten_tomatoes",
        None,
        {"text": TEXT, "label": _few("neg", "pos")},
        ("train", "validation", "test"),
        [{"text": "good", "label": 1}],
    ),
    "subj": (
        "SetFit/subj",
        None,
        {"text": TEXT, "label": Value("int64"), "label_text": TEXT},
        _TRAIN_TEST,
        [{"text": "he leaves", "label": 0, "label_text": "objective"}],
    ),
    "agnews": (
        "ag_news",
        None,
        {"text": TEXT, "label": _few("World", "Sports", "Business", "Sci/Tech")},
        _TRAIN_TEST,
        [{"text": "a chip", "label": 3}],
    ),
    "trec": (
        "trec",
        None,
        {"text": TEXT, "coarse_label": _few(*TREC), "fine_label": _few(*FINE)},
        _TRAIN_TEST,
        [{"text": "How far ?", "coarse_label": 5, "fine_label": FINE.index("NUM:dist")}],
    ),
    "dbpedia": (
        "dbpedia_14",
        None,
        {"label": _few(*DBPEDIA), "title": TEXT, "content": TEXT},
        _TRAIN_TEST,
        [{"label": 4, "title": "X", "content": "X was a mayor."}],
    ),
    "rte": (
        "glue",
        "rte",
        {"sentence1": TEXT, "sentence2": TEXT, "label": _few("entailment", "not_entailment"), "idx": NUMBER},
        _TRAIN_VALIDATION,
        [{"sentence1": "It rained.", "sentence2": "It was dry.", "label": 1, "idx": 0}],
    ),
    "cb": (
        "super_glue",
        "cb",
        {"premise": TEXT, "hypothesis": TEXT, "idx": NUMBER, "label": _few("entailment", "contradiction", "neutral")},
        _TRAIN_VALIDATION,
        [{"premise": "It rained.", "hypothesis": "it was dry", "idx": 0, "label": 1}],
    ),
    "boolq": (
        "super_glue",
        "boolq",
        {"question": TEXT, "passage": TEXT, "idx": NUMBER, "label": _TRUTH},
        _TRAIN_VALIDATION,
        [{"question": "is ice cold", "passage": "Ice is cold.", "idx": 0, "label": 1}],
    ),
    "wic": (
        "super_glue",
        "wic",
        {
            **dict.fromkeys(("word", "sentence1", "sentence2"), TEXT),
            **dict.fromkeys(("start1", "start2", "end1", "end2", "idx"), NUMBER),
            "label": _TRUTH,
        },
        _TRAIN_VALIDATION,
        [
            {"word": "bank", "sentence1": "The bank shut.", "sentence2": "A river bank.", "label": 0}
            | dict.fromkeys(("start1", "start2", "end1", "end2", "idx"), 0)
        ],
    ),
    "wsc": (
        "super_glue",
        "wsc",
        {
            **dict.fromkeys(("text", "span1_text", "span2_text"), TEXT),
            **dict.fromkeys(("span1_index", "span2_index", "idx"), NUMBER),
            "label": _TRUTH,
        },
        _TRAIN_VALIDATION,
        [
            {"text": "Mark told Pete he won.", "span1_text": "Mark", "span2_text": "he", "label": 1}
            | dict.fromkeys(("span1_index", "span2_index", "idx"), 0)
        ],
    ),
    "multirc": (
        "super_glue",
        "multirc",
        {
            **dict.fromkeys(("paragraph", "question", "answer"), TEXT),
            "idx": {"paragraph": NUMBER, "question": NUMBER, "answer": NUMBER},
            "label": _TRUTH,
        },
        _TRAIN_VALIDATION,
        [
            {
                "paragraph": "Ann ran.",
                "question": "Who ran?",
                "answer": "Ann",
                "idx": {"paragraph": 0, "question": 0, "answer": 0},
                "label": 1,
            }
        ],
    ),
    "copa": (
        "super_glue",
        "copa",
        {
            **dict.fromkeys(("premise", "choice1", "choice2", "question"), TEXT),
            "idx": NUMBER,
            "label": _few("choice1", "choice2"),
        },
        _TRAIN_VALIDATION,
        [
            {"premise": "It rained.", "choice1": "He swam.", "choice2": "The road got wet.", "question": "effect"}
            | {"idx": 0, "label": 1}
        ],
    ),
    "hellaswag": (
        "hellaswag",
        None,
        {
            "ind": NUMBER,
            **dict.fromkeys(("activity_label", "ctx_a", "ctx_b", "ctx"), TEXT),
            "endings": Sequence(TEXT),
            **dict.fromkeys(("source_id", "split", "split_type", "label"), TEXT),
        },
        _TRAIN_VALIDATION,
        [
            {"ind": 4, "endings": ["sings.", "eats.", "runs.", "sits."], "label": "3", "ctx": "A man sees a chair. He"}
            | dict.fromkeys(("activity_label", "ctx_a", "ctx_b", "source_id", "split", "split_type"), "x")
        ],
    ),
    "piqa": (
        "piqa",
        None,
        {"goal": TEXT, "sol1": TEXT, "sol2": TEXT, "label": _few("0", "1")},
        _TRAIN_VALIDATION,
        [{"goal": "To open a jar,", "sol1": "twist the lid.", "sol2": "lick it.", "label": 0}],
    ),
    **{
        key: (
            data,
            config,
            {"id": TEXT, column: TEXT, "choices": _SCIENCE, "answerKey": TEXT},
            ("train", "validation", "test"),
            [
                {
                    "id": "1",
                    column: "Ice is",
                    "choices": {"text": ["hot", "cold", "loud"], "label": keys},
                    "answerKey": keys[1],
                }
            ],
        )
        for key, data, config, column, keys in (
            ("obqa", "openbookqa", "main", "question_stem", ["A", "B", "C"]),
            ("arce", "ai2_arc", "ARC-Easy", "question", ["A", "B", "C"]),
            ("arcc", "ai2_arc", "ARC-Challenge", "question", ["1", "2", "3"]),
        )
    },
    "storycloze": (
        "story_cloze",
        "2016",
        {
            "story_id": TEXT,
            **{f"input_sentence_{i}": TEXT for i in range(1, 5)},
            **dict.fromkeys(("sentence_quiz1", "sentence_quiz2"), TEXT),
            "answer_right_ending": NUMBER,
        },
        ("validation", "test"),
        [
            {"story_id": "a", "sentence_quiz1": "He cried.", "sentence_quiz2": "He won.", "answer_right_ending": 2}
            | {f"input_sentence_{i}": f"S{i}." for i in range(1, 5)}
        ],
    ),
    "winogrande": (
        "winogrande",
        "winogrande_xs",
        dict.fromkeys(("sentence", "option1", "option2", "answer"), TEXT),
        _TRAIN_VALIDATION,
        [{"sentence": "Ann paid Sue since _ owed money.", "option1": "Ann", "option2": "Sue", "answer": "1"}],
    ),
    "nq": (
        "nq_open",
        None,
        {"question": TEXT, "answer": Sequence(TEXT)},
        _TRAIN_VALIDATION,
        [{"question": "who sang it", "answer": ["Ann Lee", "A. Lee"]}],
    ),
    "webqs": (
        "web_questions",
        None,
        {"url": TEXT, "question": TEXT, "answers": Sequence(TEXT)},
        _TRAIN_TEST,
        [{"url": "x", "question": "who sang it", "answers": ["Ann Lee"]}],
    ),
    "triviaqa": (
        "trivia_qa",
        "rc.nocontext",
        {
            **dict.fromkeys(("question", "question_id", "question_source"), TEXT),
            "answer": {
                "aliases": Sequence(TEXT),
                "normalized_aliases": Sequence(TEXT),
                **dict.fromkeys(("matched_wiki_entity_name", "normalized_matched_wiki_entity_name"), TEXT),
                **dict.fromkeys(("normalized_value", "type", "value"), TEXT),
            },
        },
        _TRAIN_VALIDATION,
        [
            {
                "question": "Who sang it?",
                "question_id": "1",
                "question_source": "x",
                "answer": {
                    "aliases": ["Lee", "Ann Lee"],
                    "normalized_aliases": ["lee", "ann lee"],
                    "matched_wiki_entity_name": "",
                    "normalized_matched_wiki_entity_name": "",
                    "normalized_value": "ann lee",
                    "type": "WikipediaEntity",
                    "value": "Ann Lee",
                },
            }
        ],
    ),
    **{
        key: (
            data,
            None,
            {
                **dict.fromkeys(("id", "title", "context", "question"), TEXT),
                "answers": {"text": Sequence(TEXT), "answer_start": Sequence(NUMBER)},
            },
            _TRAIN_VALIDATION,
            [
                {"id": "1", "title": "t", "context": "Ann sang.", "question": "Who sang?"}
                | {"answers": {"text": answers, "answer_start": [0] * len(answers)}}
            ],
        )
        for key, data, answers in (("squad", "squad", ["Ann", "Ann", "ann."]), ("squad2", "squad_v2", []))
    },
    "banking77": (
        "banking77",
        None,
        {"text": TEXT, "label": _few(*_BANK)},
        _TRAIN_TEST,
        [{"text": "where is it", "label": 0}],
    ),
    "clinc": (
        "clinc_oos",
        "plus",
        {"text": TEXT, "intent": _few(*_CLINC)},
        ("train", "validation", "test"),
        [{"text": "wake me", "intent": 7}],
    ),
    "nlu": (
        "nlu_evaluation_data",
        None,
        {"text": TEXT, "scenario": TEXT, "label": _few(*_NLU)},
        ("train",),
        [{"text": f"wake me {i}", "scenario": "alarm", "label": i % 68} for i in range(8)],
    ),
}
SCHEMAS["trec_fine"] = SCHEMAS["trec"]


def write_dataset(home: Path, key: str, *, changes: dict | None = None, rows: list | None = None) -> Path:
    """Write one schema below `home` as `load_dataset` finds it by name: home/glue/README.md, home/glue/sst2/...

    Args:
        changes: features to replace.
        rows: rows of every split instead of the schema's own.
    """
    name, config, features, splits, own_rows = SCHEMAS[key]
    config = config or "default"
    folder = home / name
    for split in splits:
        data = Dataset.from_list(rows or own_rows, Features({**features, **(changes or {})}))
        (folder / config).mkdir(parents=True, exist_ok=True)
        data.to_parquet(folder / config / f"{split}.parquet")
    about = {
        "configs": [
            {
                "config_name": config,
                "data_files": [{"split": split, "path": f"{config}/{split}.parquet"} for split in splits],
            }
        ]
    }
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(about)}---\n", encoding="utf-8")
    return folder
