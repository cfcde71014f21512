"""Text-classification tasks: a template, label words, examples to demonstrate with and examples to ask."""

import functools
import hashlib
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from lmops_lab.icl.loaders import Rows, load_hub_splits, load_local_splits


class Example(NamedTuple):
    """One labelled item: the fields that the template names, and a label of the verbalizer."""

    fields: Mapping[str, str]
    label: str


@dataclass(frozen=True, eq=False)
class Task:
    """A classification task as prompts.

    A demonstration reads `template` filled in, a space, the label's words, `separator`. A query is the filled template.

    Attributes:
        name: short name for tables and figures.
        template: for instance "Review: {text}\\nSentiment:"; must not end in a space.
        verbalizer: label of the data -> words the model is asked for, in a fixed order.
        train: examples that demonstrations are drawn from.
        test: examples that queries are drawn from.
        separator: text after each demonstration.
    """

    name: str
    template: str
    verbalizer: Mapping[str, str]
    train: Sequence[Example]
    test: Sequence[Example]
    separator: str = "\n\n"

    def __post_init__(self) -> None:
        fields = template_fields(self.template)
        if self.template != self.template.rstrip():
            raise ValueError(f"template {self.template!r} ends in white space; the label's space is added by itself")
        if len(self.verbalizer) < 2:
            raise ValueError(f"task {self.name!r} has {len(self.verbalizer)} labels; a classification needs 2 or more")
        words = list(self.verbalizer.values())
        for word in words:
            if not word.strip() or word != word.strip() or words.count(word) > 1:
                raise ValueError(f"label words {words}: {word!r} is empty, has outer spaces or stands twice")
        for split, examples in (("train", self.train), ("test", self.test)):
            if not examples:
                raise ValueError(f"task {self.name!r} has no {split} examples; check the data file or the split name")
            for number, example in enumerate(examples):
                if example.label not in self.verbalizer:
                    raise ValueError(
                        f"{split} example {number} of task {self.name!r} has label {example.label!r}, which is not in "
                        f"the verbalizer {list(self.verbalizer)}; add it or correct the data"
                    )
                missing = [name for name in fields if name not in example.fields]
                if missing:
                    raise ValueError(
                        f"{split} example {number} of task {self.name!r} lacks {missing}, which the template names; "
                        f"it has {list(example.fields)}"
                    )

    def __repr__(self) -> str:
        return (
            f"Task({self.name!r}: {len(self.verbalizer)} labels, {len(self.train)} train and {len(self.test)} test "
            f"examples)"
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in the order of every score matrix."""
        return tuple(self.verbalizer)

    def query(self, fields: Mapping[str, str]) -> str:
        """The prompt that asks for a label."""
        return self.template.format(**fields)

    def fill(self, text: str) -> str:
        """The template with the same text in every field (content-free inputs of contextual calibration)."""
        return self.query(dict.fromkeys(template_fields(self.template), text))

    def demonstration(self, example: Example) -> str:
        """A labelled prompt, as text."""
        return f"{self.query(example.fields)} {self.verbalizer[example.label]}{self.separator}"

    @functools.cached_property
    def fingerprint(self) -> str:
        """Content hash of everything that a score depends on."""
        what = [
            self.template,
            self.separator,
            list(self.verbalizer.items()),
            [[sorted(e.fields.items()), e.label] for split in (self.train, self.test) for e in split],
        ]
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
    label_column: str = "label",
    config: str | None = None,
    train_split: str = "train",
    test_split: str | None = None,
) -> Task:
    """A task by name, from local files, or from any dataset of the `datasets` library.

    Args:
        name: "reviews", "headlines" or "questions" (embedded); a .jsonl, .csv or .parquet file; a folder with one such
            file a split; or a dataset's name such as "SetFit/sst5".
        template: prompt with column names in braces; default "Input: {text}\\nLabel:".
        labels: label -> words, or just the labels in order; default: the labels of the training data, as words.
        label_column: column that holds the label.
        config: configuration of a `datasets` dataset ("sst2" of "glue").
        train_split: split that demonstrations come from.
        test_split: split that queries come from; default "test", else "validation".

    Raises:
        ValueError: an unknown name, a malformed file (with its line), a missing column, or labels that do not match.
        FileNotFoundError: a path that does not exist.
    """
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
        raise ValueError(
            f"task {name!r} is unknown; embedded tasks are {', '.join(EMBEDDED_TASKS)}. For other data give a path, or "
            "the name of a `datasets` dataset together with template="
        )
    elif name.startswith((".", "/", "~")) or Path(name).suffix in (".jsonl", ".csv", ".parquet"):
        raise FileNotFoundError(f"there is no data at {name!r}; give an existing file or folder")
    else:
        splits = load_hub_splits(name, config)
    template = template or "Input: {text}\nLabel:"
    test_split = test_split or ("test" if "test" in splits else "validation")
    train_rows, test_rows = (_split(splits, split, name) for split in (train_split, test_split))
    columns = [*template_fields(template), label_column]
    train, test = (_examples(rows, columns, name) for rows in (train_rows, test_rows))
    if labels is None:
        labels = sorted({example.label for example in train})
    verbalizer = dict(labels) if isinstance(labels, Mapping) else {label: label for label in labels}
    short = Path(name).stem if Path(name).exists() else name
    return Task(short, template, verbalizer, train, test, "\n\n" if "\n" in template else "\n")


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
