"""Tasks: a template, the words to answer with, examples to demonstrate with and examples to ask."""

import functools
import hashlib
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lmops_lab.icl.loaders import Rows, load_data, load_local_splits, nearest

if TYPE_CHECKING:
    from lmops_lab.icl.definitions import TaskDefinition

# How a task is answered: with one of a fixed set of labels, one of an example's own choices, or free text.
CLASSIFICATION, MULTIPLE_CHOICE, GENERATION = KINDS = ("classification", "multiple-choice", "generation")


class Example(NamedTuple):
    """One item: the fields that the template names, and its right answer.

    Attributes:
        fields: column -> text.
        label: a label of the verbalizer; of a multiple-choice item the number of its right choice ("0" is the first);
            of an open question the answer that a demonstration shows.
        choices: candidate answers of a multiple-choice item.
        answers: every accepted answer (alias) of an open question.
    """

    fields: Mapping[str, str]
    label: str
    choices: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Task:
    """A task as prompts.

    A demonstration reads `template` filled in, a space, the answer's words, `separator`. A query is the filled
    template. The answer's words are the label's in the verbalizer, the right choice, or the first accepted answer.

    Attributes:
        name: short name for tables and figures.
        template: for instance "Review: {text}\\nSentiment:"; must not end in a space. In a multiple-choice task it may
            name {choice}: every choice then has a prompt of its own, and what is scored is the continuation.
        verbalizer: label of the data -> words the model is asked for, in a fixed order; empty for other kinds.
        train: examples that demonstrations are drawn from.
        test: examples that queries are drawn from.
        separator: text after each demonstration.
        kind: "classification", "multiple-choice" or "generation".
        continuation: what follows the query of a multiple-choice task, with its fields and {choice} in braces.
    """

    name: str
    template: str
    verbalizer: Mapping[str, str]
    train: Sequence[Example]
    test: Sequence[Example]
    separator: str = "\n\n"
    kind: str = CLASSIFICATION
    continuation: str = "{choice}"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"task {self.name!r} is of kind {self.kind!r}; kinds are {', '.join(KINDS)}")
        fields = template_fields(self.template)
        if self.template != self.template.rstrip():
            raise ValueError(f"template {self.template!r} ends in white space; the label's space is added by itself")
        if self.kind == MULTIPLE_CHOICE:
            fields = list(dict.fromkeys([*fields, *template_fields(self.continuation)]))
            if "choice" not in fields:
                raise ValueError(f"neither template {self.template!r} nor {self.continuation!r} names {{choice}}")
            fields.remove("choice")
        self._check_verbalizer()
        for split, examples in (("train", self.train), ("test", self.test)):
            if not examples:
                raise ValueError(f"task {self.name!r} has no {split} examples; check the data file or the split name")
            for number, example in enumerate(examples):
                self._check_answer(example, f"{split} example {number} of task {self.name!r}")
                missing = [name for name in fields if name not in example.fields]
                if missing:
                    raise ValueError(
                        f"{split} example {number} of task {self.name!r} lacks {missing}, which the template names; "
                        f"it has {list(example.fields)}"
                    )

    def _check_verbalizer(self) -> None:
        if self.kind != CLASSIFICATION:
            if self.verbalizer:
                raise ValueError(
                    f"task {self.name!r} is of kind {self.kind!r} and has a verbalizer {list(self.verbalizer)}; only a "
                    "classification has labels"
                )
            return
        if len(self.verbalizer) < 2:
            raise ValueError(f"task {self.name!r} has {len(self.verbalizer)} labels; a classification needs 2 or more")
        words = list(self.verbalizer.values())
        for word in words:
            if not word.strip() or word != word.strip() or words.count(word) > 1:
                raise ValueError(f"label words {words}: {word!r} is empty, has outer spaces or stands twice")

    def _check_answer(self, example: Example, where: str) -> None:
        if self.kind == CLASSIFICATION and example.label not in self.verbalizer:
            raise ValueError(
                f"{where} has label {example.label!r}, which is not in the verbalizer {list(self.verbalizer)}; add it "
                f"or correct the data{nearest(example.label, self.verbalizer)}"
            )
        if self.kind == MULTIPLE_CHOICE:
            if len(example.choices) < 2 or not all(choice.strip() for choice in example.choices):
                raise ValueError(f"{where} has choices {list(example.choices)}; it needs 2 or more, none empty")
            if not example.label.isdecimal() or int(example.label) >= len(example.choices):
                raise ValueError(
                    f"{where} has label {example.label!r}, which is not the number of one of its "
                    f"{len(example.choices)} choices; count them from 0"
                )
        if self.kind == GENERATION and not (example.label.strip() and example.answers):
            raise ValueError(f"{where} has no accepted answer; give a label to show and at least one of `answers`")

    def __repr__(self) -> str:
        return (
            f"Task({self.name!r}: {len(self.verbalizer)} labels, {len(self.train)} train and {len(self.test)} test "
            f"examples)"
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in the order of every score matrix."""
        return tuple(self.verbalizer)

    def query(self, fields: Mapping[str, str], choice: str = "") -> str:
        """The prompt that asks for an answer; `choice` fills {choice} where the template names it."""
        return self.template.format(**{"choice": choice, **fields})

    def answer(self, example: Example, choice: int | None = None) -> str:
        """The words that follow the query: of the right answer, or of choice number `choice`."""
        if self.kind == CLASSIFICATION:
            return self.verbalizer[example.label]
        if self.kind == GENERATION:
            return example.label
        chosen = example.choices[int(example.label) if choice is None else choice]
        return self.continuation.format(**{"choice": chosen, **example.fields})

    def fill(self, text: str) -> str:
        """The template with the same text in every field (content-free inputs of contextual calibration)."""
        return self.query(dict.fromkeys(template_fields(self.template), text))

    def demonstration(self, example: Example) -> str:
        """A labelled prompt, as text."""
        right = example.choices[int(example.label)] if self.kind == MULTIPLE_CHOICE else ""
        return f"{self.query(example.fields, right)} {self.answer(example)}{self.separator}"

    @functools.cached_property
    def fingerprint(self) -> str:
        """Content hash of everything that a score depends on."""
        splits = (self.train, self.test)
        what = [
            self.template,
            self.separator,
            list(self.verbalizer.items()),
            [[sorted(e.fields.items()), e.label] for split in splits for e in split],
        ]
        if self.kind != CLASSIFICATION:
            what += [self.kind, self.continuation, [[*e.choices, *e.answers] for split in splits for e in split]]
        return f"{self.name}-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]}"


def template_fields(template: str) -> list[str]:
    """Names in a template's braces, in order.

    Raises:
        ValueError: no field, a positional one, or broken braces.
    """
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"template {template!r} cannot be read ({error}); write fields as {{text}}") from error
    if not fields or not all(name.isidentifier() for name in fields):
        raise ValueError(
            f"template {template!r} has fields {fields}; it needs at least one plain name such as {{text}}"
        )
    return list(dict.fromkeys(fields))


@dataclass(frozen=True)
class _Embedded:
    template: str
    labels: tuple[str, ...]


EMBEDDED_TASKS = {
    "reviews": _Embedded("Review: {text}\nSentiment:", ("negative", "positive")),
    "headlines": _Embedded("Headline: {text}\nSection:", ("politics", "business", "sports", "science")),
    "questions": _Embedded("Question: {text}\nAnswer type:", ("person", "place", "time", "number", "reason", "method")),
}


def load_task(
    name: str,
    *,
    template: str | None = None,
    labels: Mapping[str, str] | Sequence[str] | None = None,
    label_column: str | None = None,
    config: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    data: Path | str | None = None,
) -> Task:
    """A task by name, from local files, or from any dataset of the `datasets` library.

    Args:
        name: "reviews", "headlines" or "questions" (embedded); a published task ("sst2", "trec", "hellaswag", ...: see
            `lmops_lab.icl.catalog.CATALOG`); a .yaml file that defines one; a .jsonl, .csv or .parquet file; a folder
            with one such file a split ("./sst2" where a published task has the same name); or a dataset's name such as
            "SetFit/sst5".
        template: prompt with column names in braces; default "Input: {text}\\nLabel:", or the definition's own.
        labels: label -> words, or just the labels in order; default: the class names of the data in their own order,
            else the sorted labels of the training data, as words.
        label_column: column that holds the label, default "label".
        config: configuration of a `datasets` dataset ("sst2" of "glue").
        train_split: split that demonstrations come from, default "train".
        test_split: split that queries come from; default "test", else "validation".
        data: where the data of a published or YAML task is instead: a local copy or another dataset's name.

    Raises:
        ValueError: an unknown name, a malformed file (with its line), a missing column, or labels that do not match.
        FileNotFoundError: a path that does not exist.
    """
    defined = _defined(name)
    if defined is not None:
        given: dict[str, Any] = {
            "template": template,
            "label_column": label_column,
            "config": config,
            "train": train_split,
        }
        given |= {"test": test_split, "labels": labels if labels is None or isinstance(labels, Mapping) else [*labels]}
        changes = {field: value for field, value in given.items() if value is not None}
        if label_column is not None and labels is None:
            changes["labels"] = None  # another column has other labels
        return replace(defined, **changes).load(data)
    if data is not None:
        raise ValueError(f"data={str(data)!r} replaces the data of a published task; {name!r} names none")
    class_names: Mapping[str, tuple[str, ...]] = {}
    label_column = label_column or "label"
    if name in EMBEDDED_TASKS:
        embedded = EMBEDDED_TASKS[name]
        folder = resources.files("lmops_lab.data")
        splits = load_local_splits(
            [(split, Path(str(folder / f"{name}_{split}.jsonl"))) for split in ("train", "test")]
        )
        template, labels = template or embedded.template, labels or embedded.labels
    elif Path(name).expanduser().exists():
        splits = load_local_splits(Path(name).expanduser())
    elif "/" not in name and "." not in name and config is None and template is None:
        from lmops_lab.icl.catalog import CATALOG

        raise ValueError(
            f"task {name!r} is unknown; embedded tasks are {', '.join(EMBEDDED_TASKS)}, published ones "
            f"{', '.join(CATALOG)}. For other data give a path, or the name of a `datasets` dataset together with "
            f"template={nearest(name, [*EMBEDDED_TASKS, *CATALOG])}"
        )
    elif name.startswith((".", "/", "~")) or Path(name).suffix in (".jsonl", ".csv", ".parquet", ".yaml", ".yml"):
        raise FileNotFoundError(f"there is no data at {name!r}; give an existing file or folder")
    else:
        splits, class_names = load_data(name, config)
    template = template or "Input: {text}\nLabel:"
    test_split = test_split or ("test" if "test" in splits else "validation")
    train_rows, test_rows = (_split(splits, split, name) for split in (train_split or "train", test_split))
    columns = [*template_fields(template), label_column]
    train, test = (_examples(rows, columns, name) for rows in (train_rows, test_rows))
    if labels is None:
        labels = class_names.get(label_column) or sorted({example.label for example in train})
    verbalizer = dict(labels) if isinstance(labels, Mapping) else {label: label for label in labels}
    short = Path(name).stem if Path(name).exists() else name
    return Task(short, template, verbalizer, train, test, "\n\n" if "\n" in template else "\n")


def _defined(name: str) -> "TaskDefinition | None":
    """The published or YAML definition of this name, if there is one."""
    from lmops_lab.icl.catalog import CATALOG
    from lmops_lab.icl.definitions import read_definition

    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return read_definition(path)
    return CATALOG.get(name)


def _split(splits: Mapping[str, Rows], split: str, name: str) -> Rows:
    if split not in splits:
        raise ValueError(
            f"{name!r} has no split {split!r}; it has {sorted(splits)}: name one as train_split/test_split"
        )
    return splits[split]


def _examples(rows: Rows, columns: Sequence[str], name: str) -> tuple[Example, ...]:
    *fields, label_column = columns
    examples = []
    for where, row in rows:
        missing = [column for column in columns if row.get(column) is None or row[column] == ""]
        if missing:
            raise ValueError(
                f"{where}: no value for {missing}; the columns are {list(row)}. Correct the row, or name other columns "
                f"in template= and label_column= (data {name!r})"
            )
        examples.append(Example({field: str(row[field]) for field in fields}, str(row[label_column])))
    return tuple(examples)
