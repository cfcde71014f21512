"""The published tasks as definitions: dataset, splits, template, label words (Hao et al. 2022 and many-class sets).

Label words are given by the name that the data has for each class, never by its number: `TaskDefinition` puts them in
the data's own order, so a dataset that renumbers its classes cannot swap two words.
"""

from collections.abc import Mapping
from typing import Any

from lmops_lab.icl.definitions import TaskDefinition
from lmops_lab.icl.tasks import GENERATION, MULTIPLE_CHOICE

# Enough to draw any demonstrations from; the reference asks at most 4000 queries.
_LIMITS = {"train_limit": 20_000, "test_limit": 4_000}

_NO_YES = {"False": "No", "True": "Yes"}

_TREC = {
    "ABBR": "Abbreviation",
    "ENTY": "Entity",
    "DESC": "Description",
    "HUM": "Human",
    "LOC": "Location",
    "NUM": "Number",
}

_DBPEDIA = {
    "Company": "company",
    "EducationalInstitution": "school",
    "Artist": "artist",
    "Athlete": "athlete",
    "OfficeHolder": "politics",
    "MeanOfTransportation": "transportation",
    "Building": "building",
    "NaturalPlace": "nature",
    "Village": "village",
    "Animal": "animal",
    "Plant": "plant",
    "Album": "album",
    "Film": "film",
    "WrittenWork": "book",
}

# Li and Roth (2002) abbreviate their 50 fine classes; written out after the coarse one, all differ.
_FINE = {
    "ABBR": "abb exp",
    "DESC": "def desc manner reason",
    "ENTY": "animal body color cremat currency dismed event food instru lang letter other plant product religion sport "
    "substance symbol techmeth termeq veh word",
    "HUM": "desc gr ind title",
    "LOC": "city country mount other state",
    "NUM": "code count date dist money ord other perc period speed temp volsize weight",
}
_WRITTEN_OUT = {
    "abb": "abbreviation",
    "exp": "expansion",
    "def": "definition",
    "desc": "description",
    "body": "body part",
    "cremat": "creative work",
    "dismed": "disease or medicine",
    "instru": "musical instrument",
    "lang": "language",
    "techmeth": "technique or method",
    "termeq": "equivalent term",
    "veh": "vehicle",
    "gr": "group",
    "ind": "individual",
    "mount": "mountain",
    "dist": "distance",
    "ord": "order",
    "perc": "percentage",
    "temp": "temperature",
    "volsize": "size or volume",
}
_TREC_FINE = {
    f"{coarse}:{fine}": f"{_TREC[coarse].lower()} {_WRITTEN_OUT.get(fine, fine)}"
    for coarse, fines in _FINE.items()
    for fine in fines.split()
}


def _copa(row: Mapping[str, Any]) -> dict[str, Any]:
    """The premise as the beginning of one sentence that either choice ends."""
    joint = {"cause": "because", "effect": "so"}
    if row["question"] not in joint:
        raise ValueError(f"COPA asks for 'cause' or 'effect', got {row['question']!r}")
    choices = [row["choice1"], row["choice2"]]
    lowered = [choice[:1].lower() + choice[1:] for choice in choices]
    return {"premise": f"{row['premise'].strip().removesuffix('.')} {joint[row['question']]}", "choices": lowered}


def _winogrande(row: Mapping[str, Any]) -> dict[str, Any]:
    """The sentence before and after its gap."""
    before, gap, after = row["sentence"].partition("_")
    if not gap or not after.strip():
        raise ValueError(f"a WinoGrande sentence has a gap '_' and text after it, got {row['sentence']!r}")
    return {"before": before, "after": after.strip()}


def _triviaqa(row: Mapping[str, Any]) -> dict[str, Any]:
    """The answer's usual name before its aliases."""
    return {"answers": [row["answer"]["value"], *row["answer"]["aliases"]]}


def _squad(row: Mapping[str, Any]) -> dict[str, Any]:
    """The annotators' answers; "none" where the passage does not answer."""
    return {"answers": [*row["answers"]["text"]] or ["none"]}


def _label(name: str, data: str, template: str, labels: Mapping[str, str] | None, **more: Any) -> TaskDefinition:
    return TaskDefinition(name, template, data, labels=labels, **{**_LIMITS, **more})


def _choice(name: str, data: str, template: str, **more: Any) -> TaskDefinition:
    return TaskDefinition(name, template, data, kind=MULTIPLE_CHOICE, **{**_LIMITS, "test": "validation", **more})


def _open(name: str, data: str, template: str, **more: Any) -> TaskDefinition:
    settings = {**_LIMITS, "test": "validation", "answers": "answers", **more}
    return TaskDefinition(name, template, data, kind=GENERATION, **settings)


_SCIENCE: dict[str, Any] = {"label_column": "answerKey", "choices": "choices.text", "choice_keys": "choices.label"}
_INTENT = "query: {text} intent:"

CATALOG: Mapping[str, TaskDefinition] = {
    task.name: task
    for task in (
        _label(
            "sst2",
            "glue",
            "Sentence: {sentence} Sentiment:",
            {"negative": "negative", "positive": "positive"},
            config="sst2",
            test="validation",
        ),
        _label(
            "sst5",
            "SetFit/sst5",
            "Sentence: {text} Sentiment:",
            {
                "very negative": "terrible",
                "negative": "negative",
                "neutral": "neutral",
                "positive": "positive",
                "very positive": "great",
            },
            label_column="label_text",
            test="test",
        ),
        _label(
            "mr",
            "rotten_tomatoes",
            "Review: {text} Sentiment:",
            {"neg": "Negative", "pos": "Positive"},
            test="test",
        ),
        _label(
            "subj",
            "SetFit/subj",
            "Input: {text} Type:",
            {"objective": "objective", "subjective": "subjective"},
            label_column="label_text",
            test="test",
        ),
        _label(
            "agnews",
            "ag_news",
            "Article: {text} Category:",
            {"World": "World", "Sports": "Sports", "Business": "Business", "Sci/Tech": "Technology"},
            test="test",
        ),
        _label("trec", "trec", "Question: {text} Type:", _TREC, label_column="coarse_label", test="test"),
        _label("dbpedia", "dbpedia_14", "Input: {content} Type:", _DBPEDIA, test="test"),
        _label(
            "rte",
            "glue",
            "{sentence1} Question: {sentence2} True or False? Answer:",
            {"entailment": "True", "not_entailment": "False"},
            config="rte",
            test="validation",
        ),
        _label(
            "cb",
            "super_glue",
            "{premise} Question: {hypothesis}. True, False, or Neither? Answer:",
            {"entailment": "True", "contradiction": "False", "neutral": "Neither"},
            config="cb",
            test="validation",
        ),
        _label(
            "boolq",
            "super_glue",
            "Passage: {passage} Question: {question}? Answer:",
            _NO_YES,
            config="boolq",
            test="validation",
        ),
        _label(
            "wic",
            "super_glue",
            '{sentence1} {sentence2} Question: Is the word "{word}" used in the same way in the two sentences above? '
            "Answer:",
            _NO_YES,
            config="wic",
            test="validation",
        ),
        _label(
            "wsc",
            "super_glue",
            '{text} In the previous sentence, does the pronoun "{span2_text}" refer to {span1_text}?',
            _NO_YES,
            config="wsc",
            test="validation",
        ),
        _label(
            "multirc",
            "super_glue",
            '{paragraph} Question: "{question}" Response: "{answer}" Does the response correctly answer the question? '
            "Answer:",
            _NO_YES,
            config="multirc",
            test="validation",
        ),
        _choice(
            "copa",
            "super_glue",
            "{premise}",
            config="copa",
            choices="choices",
            choice_keys=("choice1", "choice2"),
            prepare=_copa,
        ),
        _choice("hellaswag", "hellaswag", "{ctx}", choices="endings"),
        _choice("piqa", "piqa", "{goal}", choices=("sol1", "sol2")),
        _choice("obqa", "openbookqa", "{question_stem}", config="main", test="test", **_SCIENCE),
        _choice("arce", "ai2_arc", "{question}", config="ARC-Easy", test="test", **_SCIENCE),
        _choice("arcc", "ai2_arc", "{question}", config="ARC-Challenge", test="test", **_SCIENCE),
        _choice(
            "storycloze",
            "story_cloze",
            "{input_sentence_1} {input_sentence_2} {input_sentence_3} {input_sentence_4}",
            config="2016",
            train="validation",
            test="test",
            choices=("sentence_quiz1", "sentence_quiz2"),
            label_column="answer_right_ending",
            choice_keys=("1", "2"),
        ),
        _choice(
            "winogrande",
            "winogrande",
            "{before}{choice}",
            config="winogrande_xs",
            continuation="{after}",
            choices=("option1", "option2"),
            label_column="answer",
            choice_keys=("1", "2"),
            prepare=_winogrande,
        ),
        _open("nq", "nq_open", "Question: {question} Answer:", answers="answer"),
        _open("webqs", "web_questions", "Question: {question} Answer:", test="test"),
        _open("triviaqa", "trivia_qa", "Question: {question} Answer:", config="rc.nocontext", prepare=_triviaqa),
        _open("squad", "squad", "Passage: {context} Question: {question} Answer:", prepare=_squad),
        _open("squad2", "squad_v2", "Passage: {context} Question: {question} Answer:", prepare=_squad),
        _label("banking77", "banking77", _INTENT, None, test="test"),
        _label("clinc", "clinc_oos", _INTENT, None, config="plus", label_column="intent", test="test"),
        _label("nlu", "nlu_evaluation_data", _INTENT, None),
        _label("trec_fine", "trec", _INTENT, _TREC_FINE, label_column="fine_label", test="test"),
    )
}
