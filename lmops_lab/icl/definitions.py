"""Declarative task definitions: which data, which template, which answers - in Python or in a YAML file."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from lmops_lab.icl.loaders import Rows, drawn_rows, load_data, nearest
from lmops_lab.icl.tasks import CLASSIFICATION, GENERATION, KINDS, MULTIPLE_CHOICE, Example, Task, template_fields
from lmops_lab.outside import read_yaml

Prepare = Callable[[Mapping[str, Any]], Mapping[str, Any]]

# Of data with a single split, this share of rows (drawn with a fixed seed) becomes queries.
_TEST_SHARE = 0.25


@dataclass(frozen=True)
class TaskDefinition:
    """How rows of a data set become a `Task`.

    Columns inside a column are named with dots ("answers.text").

    Attributes:
        name: short name for tables and figures.
        template: prompt with column names in braces; a multiple-choice one may name {choice} (see `Task`).
        data: a dataset's name for the `datasets` library, or a local file or folder.
        config: configuration of the dataset ("sst2" of "glue").
        train: split that demonstrations come from.
        test: split that queries come from; None: "test", else "validation", else a quarter of the train rows.
        kind: "classification", "multiple-choice" or "generation".
        labels: label of the data -> words. None: the data's class names, underscores as spaces. Where the data has
            class names, labels stand in their order, whatever the order here.
        label_column: column of the label, or of the right choice.
        choices: columns of a multiple-choice item's candidates, or the one column that lists them.
        choice_keys: what `label_column` says for each choice: fixed values, or the column that lists them; default
            "0", "1", ... The text of a choice is understood as well.
        continuation: what is scored after the query of a multiple-choice item.
        answers: column of the accepted answers of an open question (a text or a list).
        separator: text after each demonstration; default an empty line where the template has line breaks, else a
            line break.
        train_limit, test_limit: keep at most so many rows of a split, drawn with seed 1.
        prepare: columns of a row to add or replace before everything else (not in YAML).
    """

    name: str
    template: str
    data: str = ""
    config: str | None = None
    train: str = "train"
    test: str | None = None
    kind: str = CLASSIFICATION
    labels: Mapping[str, str] | Sequence[str] | None = None
    label_column: str = "label"
    choices: Sequence[str] | str = ()
    choice_keys: Sequence[str] | str = ()
    continuation: str = "{choice}"
    answers: str = ""
    separator: str | None = None
    train_limit: int | None = None
    test_limit: int | None = None
    prepare: Prepare | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            hint = nearest(self.kind, KINDS)
            raise ValueError(f"task {self.name!r} is of kind {self.kind!r}; kinds are {', '.join(KINDS)}{hint}")
        template_fields(self.template)
        if isinstance(self.labels, str):
            raise ValueError(f"labels of task {self.name!r} is one text, {self.labels!r}; give a list or a mapping")  # noqa: TRY004
        given = {"labels": self.labels, "choices": self.choices, "answers": self.answers}
        needs = {CLASSIFICATION: None, MULTIPLE_CHOICE: "choices", GENERATION: "answers"}[self.kind]
        if needs and not given[needs]:
            raise ValueError(f"task {self.name!r} is of kind {self.kind!r} and names no {needs}; give the column")
        extra = [what for what, value in given.items() if value and what not in (needs, "labels" * (needs is None))]
        if extra:
            raise ValueError(
                f"task {self.name!r} is of kind {self.kind!r}, which has no {' or '.join(extra)}; remove it or set kind"
            )
        for what, limit in (("train_limit", self.train_limit), ("test_limit", self.test_limit)):
            if limit is not None and limit < 1:
                raise ValueError(f"{what} of task {self.name!r} is {limit}; keep at least 1 row, or leave it out")

    def load(self, data: Path | str | None = None) -> Task:
        """The task, from its data or from the same columns elsewhere (a local copy, another dataset's name).

        Raises:
            ValueError: data that cannot be loaded, a missing split or column, an empty split, or a label that the
                definition does not know.
            FileNotFoundError: a path that does not exist.
        """
        where = data or self.data
        if not where:
            raise ValueError(f"task {self.name!r} names no data; give a dataset's name or a path")
        many = 2**62
        limits = {self.train: self.train_limit or many, self.test: self.test_limit or many} if self.test else None
        loaded = load_data(where, None if Path(where).is_file() else self.config, limits=limits)
        for split in (self.train, self.test):
            if split is not None and split not in loaded.splits:
                raise ValueError(
                    f"{str(where)!r} has no split {split!r}; it has {sorted(loaded.splits)}: name one as train or test"
                    f"{nearest(split, loaded.splits)}"
                )
        train, test = loaded.splits[self.train], self.test
        if test is None:
            test = next((split for split in ("test", "validation") if split in loaded.splits), None)
        if test is None:
            order = np.random.default_rng(0).permutation(len(train)).tolist()
            held_out = set(order[: round(_TEST_SHARE * len(train))])
            asked = [row for i, row in enumerate(train) if i in held_out]
            train = [row for i, row in enumerate(train) if i not in held_out]
        else:
            asked = loaded.splits[test]
        if limits is None:
            train, asked = (
                [rows[i] for i in drawn_rows(len(rows), limit or many)]
                for rows, limit in ((train, self.train_limit), (asked, self.test_limit))
            )
        return self._task(train, asked, loaded.class_names)

    def from_rows(self, train: Iterable[Mapping[str, Any]], test: Iterable[Mapping[str, Any]]) -> Task:
        """The task from rows in memory (a list of dictionaries, a `datasets.Dataset`, `frame.to_dict("records")`).

        >>> shapes = TaskDefinition("shapes", "Object: {text}\\nShape:", labels=["round", "square"])
        >>> rows = [{"text": "a ball", "label": "round"}, {"text": "a box", "label": "square"}]
        >>> shapes.from_rows(rows, rows).demonstration(Example({"text": "a coin"}, "round"))
        'Object: a coin\\nShape: round\\n\\n'
        """
        to_show: Rows = [(f"train row {i}", row) for i, row in enumerate(train, 1)]
        to_ask: Rows = [(f"test row {i}", row) for i, row in enumerate(test, 1)]
        return self._task(to_show, to_ask, {})

    def _task(self, train: Rows, test: Rows, class_names: Mapping[str, Sequence[str]]) -> Task:
        for split, rows in (("train", train), ("test", test)):
            if not rows:
                raise ValueError(f"the {split} split of task {self.name!r} is empty; check the data or name another")
        verbalizer: dict[str, str] = {}
        if self.kind == CLASSIFICATION:
            verbalizer = self._verbalizer(train, class_names.get(self.label_column, ()))
        shown, asked = (tuple(self._example(where, row, verbalizer) for where, row in rows) for rows in (train, test))
        separator = self.separator
        if separator is None:
            separator = "\n\n" if "\n" in self.template else "\n"
        return Task(
            self.name,
            self.template,
            verbalizer,
            shown,
            asked,
            separator,
            kind=self.kind,
            continuation=self.continuation,
        )

    def _verbalizer(self, train: Rows, class_names: Sequence[str]) -> dict[str, str]:
        """Label -> words in the order of the data's class names, so that a word can never meet another's label."""
        if self.labels is None:
            found = class_names or sorted({str(self._column(where, row, self.label_column)) for where, row in train})
            return {name: name.replace("_", " ") for name in found}
        words = dict(self.labels) if isinstance(self.labels, Mapping) else {word: word for word in self.labels}
        if not class_names:
            return words
        missing = [name for name in class_names if name not in words]
        unknown = [label for label in words if label not in class_names]
        if missing or unknown:
            raise ValueError(
                f"labels of task {self.name!r}: the data's classes are {list(class_names)}; without words: {missing}; "
                f"not in the data: {unknown}{nearest(unknown[0], class_names) if unknown else ''}"
            )
        return {name: words[name] for name in class_names}

    def _example(self, where: str, row: Mapping[str, Any], verbalizer: Mapping[str, str]) -> Example:
        added: Mapping[str, Any] = {}
        if self.prepare is not None:
            try:
                added = self.prepare(row)
            except KeyError as error:
                raise ValueError(f"{where} has no column {error}; its columns are {list(row)}") from error
            row = {**row, **added}
        names = template_fields(self.template)
        if self.kind == MULTIPLE_CHOICE:
            names = [name for name in {**dict.fromkeys(names + template_fields(self.continuation))} if name != "choice"]
        filled = {}
        for name in names:
            value = self._column(where, row, name)
            if value is None or (value == "" and name not in added):
                raise ValueError(f"{where}: no value for {name!r}; correct the row or the template {self.template!r}")
            filled[name] = str(value) if name in added else str(value).strip()
        if self.kind == GENERATION:
            value = self._column(where, row, self.answers)
            aliases = [str(alias) for alias in ([value] if isinstance(value, str) else value or ()) if str(alias)]
            if not aliases:
                raise ValueError(f"{where}: no accepted answer in {self.answers!r}; correct or remove the row")
            return Example(filled, aliases[0], answers=tuple(dict.fromkeys(aliases)))
        label = str(self._column(where, row, self.label_column))
        if self.kind == MULTIPLE_CHOICE:
            choices, right = self._choices(where, row, label)
            return Example(filled, str(right), choices)
        if label not in verbalizer:
            hidden = " (a hidden test label: name another split)" if label in ("-1", "None", "") else ""
            raise ValueError(
                f"{where} has label {label!r}{hidden}, but the labels of task {self.name!r} are {list(verbalizer)}; "
                f"add it or correct the data{nearest(label, verbalizer)}"
            )
        return Example(filled, label)

    def _choices(self, where: str, row: Mapping[str, Any], label: str) -> tuple[tuple[str, ...], int]:
        """Candidate texts and the right one's index; empty cells of a table are no candidates."""
        if isinstance(self.choices, str):
            texts = [str(text) for text in self._column(where, row, self.choices)]
        else:
            texts = ["" if (cell := self._column(where, row, name)) is None else str(cell) for name in self.choices]
        if isinstance(self.choice_keys, str):
            keys = [str(key) for key in self._column(where, row, self.choice_keys)]
        else:
            keys = list(self.choice_keys) or [str(i) for i in range(len(texts))]
        candidates = [(key, text.strip()) for key, text in zip(keys, texts, strict=False) if text.strip()]
        kept = tuple(text for _, text in candidates)
        for known in ([key for key, _ in candidates], list(kept)):
            if label in known:
                return kept, known.index(label)
        raise ValueError(
            f"{where} says that {label!r} is right ({self.label_column!r}), but its choices are "
            f"{dict(candidates)}; set choice_keys to what stands there, or name a split with answers"
        )

    def _column(self, where: str, row: Mapping[str, Any], path: str) -> Any:
        value: Any = row
        for part in path.split("."):
            if not isinstance(value, Mapping) or part not in value:
                columns = list(row)
                raise ValueError(
                    f"{where} has no column {path!r}, which task {self.name!r} needs; its columns are {columns}"
                    f"{nearest(path, columns)}"
                )
            value = value[part]
        return value


_LONGEST = 200  # bytes of one part of a path; most systems take 255
_TEXT_LIST = "a text or a list of texts"
_YAML_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(("name", "template", "data", "config", "train", "test", "kind"), ((str,), "a text")),
    **dict.fromkeys(("label_column", "continuation", "answers", "separator"), ((str,), "a text")),
    **dict.fromkeys(("choices", "choice_keys"), ((str, list), _TEXT_LIST)),
    **dict.fromkeys(("train_limit", "test_limit"), ((int,), "a whole number")),
    "labels": ((dict, list), "a list, or a mapping from label to words"),
}


def read_definition(path: Path) -> TaskDefinition:
    """The task definition in a YAML file: the fields of `TaskDefinition`, `data` relative to the file.

    Raises:
        ValueError: no YAML mapping, an unknown field (the nearest known one is named), a missing one, or a value of
            another type; yes, no, true and false as label words have to be quoted.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds a {type(content).__name__}, not fields such as 'template: ...'")  # noqa: TRY004
    allowed = [field.name for field in fields(TaskDefinition) if field.name in _YAML_TYPES]
    for field, value in content.items():
        if field not in allowed:
            close = difflib.get_close_matches(str(field), allowed, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"fields are {', '.join(allowed)}"
            raise ValueError(f"{path.name} has an unknown field {field!r}; {hint}")
        types, meant = _YAML_TYPES[field]
        if not isinstance(value, types) or isinstance(value, bool):
            raise ValueError(f"{path.name}: {field} is {value!r}; it has to be {meant}")  # noqa: TRY004
    missing = [field for field in ("template", "data") if field not in content]
    if missing:
        raise ValueError(f"{path.name} lacks {missing}; a task needs at least a template and data")
    for field in ("labels", "choices", "choice_keys"):
        if field in content:
            content[field] = _texts(content[field], f"{path.name}: {field}")
    longest = max(map(len, content["data"].encode("utf-8", "replace").split(b"/")))
    if longest > _LONGEST or not content["data"].isprintable():
        raise ValueError(f"{path.name}: data is {content['data'][:80]!r}; give a path or a dataset's name")
    beside = path.parent / content["data"]
    if beside.exists():
        content["data"] = str(beside)
    return TaskDefinition(**{"name": path.stem, **content})


def _texts(value: Any, where: str) -> Any:
    """The same list or mapping with numbers as text; YAML's yes and no, which it reads as truth values, are refused."""
    if isinstance(value, dict):
        return {_as_text(label, where): _as_text(words, where) for label, words in value.items()}
    return [_as_text(item, where) for item in value] if isinstance(value, list) else _as_text(value, where)


def _as_text(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"{where} holds {value!r}, which YAML does not read as text; put quotes around it")  # noqa: TRY004
    return str(value)
