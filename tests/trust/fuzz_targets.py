"""The parsers of outside files, each with valid content and the errors that its docstring names."""

import io
import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from PIL import Image, PngImagePlugin
from safetensors.torch import load

from lmops_lab.attention.context import GroupedContext
from lmops_lab.attention.files import load_context, save_context, tensors_digest
from lmops_lab.cli import _parse
from lmops_lab.digests import DamagedRecordError, _text, digest_of, read_record
from lmops_lab.generation.pictures import ImageGrid
from lmops_lab.generation.png import CHUNK, provenance, write_picture
from lmops_lab.generation.recipe import FORMAT as PICTURE
from lmops_lab.generation.recipe import Recipe
from lmops_lab.generation.sources import RECOMMENDED, read_recommended
from lmops_lab.icl.choices import ChoiceScores
from lmops_lab.icl.choices import _digest as choices_digest
from lmops_lab.icl.curve import ICLCurve
from lmops_lab.icl.definitions import read_definition
from lmops_lab.icl.grid import Grid
from lmops_lab.icl.loaders import read_rows
from lmops_lab.icl.published import read_published
from lmops_lab.icl.results import FORMAT as SWEEP
from lmops_lab.icl.results import read_manifest
from lmops_lab.icl.scores import StoredScores
from lmops_lab.icl.tasks import load_task, template_fields
from lmops_lab.rewriting.content import split_prompt
from lmops_lab.rewriting.corpus import Corpus, build_corpus, read_prompts
from lmops_lab.rewriting.loading import CARD, Card
from lmops_lab.runs.grid import read_grid
from lmops_lab.runs.jobs import FORMAT as JOB
from lmops_lab.runs.jobs import STATUS, read_status
from lmops_lab.runs.parameters import check_parameters, read_parameters
from lmops_lab.runs.regression import METRICS, read_baseline, read_metrics
from tests.icl.synthetic import synthetic_curve
from widgets.prompt_text import word_diff
from widgets.vote_file import FORMAT as VOTES
from widgets.vote_file import OtherVoteError, VoteFile, _line

Errors = tuple[type[BaseException], ...]
REFUSED: Errors = (ValueError, FileNotFoundError, DamagedRecordError)


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        file: name of the file it reads.
        trees: valid contents as plain values.
        pack: plain values as the file's bytes; may raise anything where they cannot be packed.
        read: the parser; called with the file's path.
        errors: exactly these types are documented, no subclass of them.
    """

    name: str
    file: str
    trees: tuple[Any, ...]
    pack: Callable[[Any], bytes]
    read: Callable[[Path], object]
    errors: Errors = REFUSED


def packed_json(tree: Any) -> bytes:
    """One JSON document."""
    return json.dumps(tree).encode()


def packed_lines(tree: Any) -> bytes:
    """A JSON document a line."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in tree)


def packed_record(tree: Any) -> bytes:
    """A record with its right digest: whoever edits a file on purpose can compute it."""
    return _text(tree).encode()


def packed_votes(tree: Any) -> bytes:
    """A vote file in which every line checks the one before."""
    lines = [b""]
    for entry in tree:
        lines.append(_line(entry, lines[-1].rstrip(b"\n")))
    return b"".join(lines)


def packed_yaml(tree: Any) -> bytes:
    """YAML without aliases for what merely occurs twice."""
    return yaml.safe_dump(json.loads(json.dumps(tree)), allow_unicode=True).encode("utf-8", "surrogatepass")


def packed_text(tree: Any) -> bytes:
    """Lines of text."""
    return "\n".join(map(str, tree)).encode("utf-8", "surrogatepass")


def packed_table(tree: Any) -> bytes:
    """A Parquet file of {"columns": {name: values}, "about": metadata}."""
    table = pa.table({name: pa.array(values) for name, values in tree["columns"].items()})
    about = tree.get("about")
    if isinstance(about, str):
        table = table.replace_schema_metadata({"lmops_lab": about, "digest": choices_digest(table)})
    elif about is not None:
        table = table.replace_schema_metadata({"lmops_lab": json.dumps(about), "digest": digest_of(about)})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def packed_csv(tree: Any) -> bytes:
    """Rows of cells, quoted where they have to be."""
    lines = [
        ",".join(str(c) if str(c).isalnum() else '"' + str(c).replace('"', '""') + '"' for c in row) for row in tree
    ]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


def packed_tensors(whole: bytes) -> Callable[[Any], bytes]:
    """A safetensors file with another header, its `lmops_lab` entry being JSON."""
    (size,) = struct.unpack("<Q", whole[:8])
    rest = whole[8 + size :]

    def pack(tree: Any) -> bytes:
        about = {name: value for name, value in tree["__metadata__"].items() if name != "digest"}
        tree = {**tree, "__metadata__": {**about, "digest": tensors_digest(load(whole), about)}}
        header = {**tree, "__metadata__": {"lmops_lab": json.dumps(tree["__metadata__"])}}
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + rest

    return pack


def unpacked_tensors(whole: bytes) -> Any:
    """The header of a safetensors file as plain values."""
    (size,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + size])
    return {**header, "__metadata__": json.loads(header["__metadata__"]["lmops_lab"])}


def packed_picture(tree: Any) -> bytes:
    """A PNG that carries this recipe."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(CHUNK, json.dumps(tree))
    sink = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(sink, format="PNG", pnginfo=chunks)
    return sink.getvalue()


def _words(read: Callable[[str], object]) -> Callable[[Path], object]:
    """A parser of text, given as the command line gives it: bytes that are no UTF-8 arrive as lone surrogates."""
    return lambda path: read(path.read_bytes().decode("utf-8", "surrogateescape"))


def targets(folder: Path) -> list[Target]:
    """All parsers; `folder` takes the files that some of them read beside the fuzzed one."""
    folder.mkdir(parents=True)
    data = folder / "rows.jsonl"
    rows = [{"text": f"a {word} day", "label": "good" if n % 2 else "bad"} for n, word in enumerate("abcdefgh")]
    data.write_bytes(packed_lines(rows))
    notebook = _notebook(["k = [0, 8]\n", "weight: float | str = 1.0\n", "name = 'a'\n", "seeds: int | None = None"])
    (folder / "01_a.ipynb").write_bytes(packed_json(notebook))
    known = read_parameters(folder / "01_a.ipynb")
    return [
        *_tasks(data, rows),
        *_stores(folder),
        Target("vote file", "v.jsonl", (_VOTES,), packed_votes, _votes, (OtherVoteError,)),
        Target("job status", STATUS, (_STATUS,), packed_record, lambda path: read_status(path.parent), ()),
        Target("sweep manifest", "sweep.json", (_SWEEP,), packed_record, lambda path: read_manifest(path.parent)),
        Target("sweep grid", "grid.yaml", (_GRID,), packed_yaml, Grid.load),
        Target("run grid", "runs.yaml", (_RUNS,), packed_yaml, lambda path: read_grid(path, folder)),
        Target("notebook", "n.ipynb", (notebook,), packed_json, read_parameters),
        Target(
            "run parameters",
            "p.txt",
            (["k=[0, [{'a': None}]]"], ["weight='a'"], ["k=(0, 8)"], ["seeds=None"]),
            packed_text,
            _words(lambda text: check_parameters(known, dict([_parse(text)]))),
        ),
        Target("metrics", METRICS, (_METRICS,), packed_json, lambda path: read_metrics(path.parent)),
        Target("baseline", "baseline.yaml", (_BASELINE,), packed_yaml, lambda path: read_baseline(path.parent)),
        Target("published curves", "c.csv", (_CURVES,), packed_csv, read_published),
        Target("prompts", "p.jsonl", ([{"prompt": "a cat, 8k"}, "a dog, oil painting"],), packed_lines, read_prompts),
        Target("prompt texts", "p.txt", (["a cat, 8k", "a dog by Van Gogh"],), packed_text, read_prompts),
        Target("corpus", "c.jsonl", (_PAIRS,), packed_lines, Corpus.load),
        Target(
            "one prompt", "t.txt", (["a cat, digital art, 8k"], ["a fox -- by X"]), packed_text, _words(split_prompt)
        ),
        Target("a corpus of prompts", "q.txt", (["a cat, 8k\na dog, oil painting"],), packed_text, _words(_corpus)),
        Target("two prompts", "d.txt", (["a cat|a white cat"],), packed_text, _words(_difference)),
        Target("template", "t.txt", (["Review: {text}\nSentiment:"],), packed_text, _words(template_fields)),
        Target("rewriter card", CARD, (_CARD,), packed_json, lambda path: Card.read(path.parent)),
    ]


def _tasks(data: Path, rows: list[Any]) -> list[Target]:
    classes = {"template": "A: {text}\nB:", "data": str(data), "labels": {"good": "yes", "bad": "no"}, "test_limit": 2}
    choices = {"template": "{text}", "data": str(data), "kind": "multiple-choice", "choices": ["text", "label"]}
    answers = {"template": "{text}", "data": str(data), "kind": "generation", "answers": "label", "separator": "\n"}
    columns = {"columns": {name: [row[name] for row in rows] for name in ("text", "label")}}
    cells = [["text", "label"], *([row["text"], row["label"]] for row in rows)]

    def task(path: Path) -> object:
        definition = read_definition(path)
        # Another name would be looked for on the Hub.
        return definition.load() if Path(definition.data).is_file() else None

    def both(path: Path) -> object:
        read_rows(path)
        return load_task(str(path))

    return [
        Target("task YAML", "t.yaml", (classes, {**choices, "label_column": "text"}, answers), packed_yaml, task),
        Target("JSON lines", "d.jsonl", (rows,), packed_lines, both),
        Target("CSV", "d.csv", (cells,), packed_csv, both),
        Target("Parquet", "d.parquet", (columns,), packed_table, both),
    ]


def _stores(folder: Path) -> list[Target]:
    generator = torch.Generator().manual_seed(0)
    layers = [torch.randn(2, 7, 4, generator=generator) for _ in range(4)]
    context = GroupedContext(tuple(layers[:2]), tuple(layers[2:]), 1, (2, 4), (1, 1), 6, "shared", "m", (2, 4))
    whole = save_context(context, folder / "c.safetensors").read_bytes()
    scores = StoredScores(("a", "b"), np.array([1, 2]), np.zeros((3, 2)), np.array([0, 1, 0]), np.ones((1, 2)))
    choices = ChoiceScores(*np.arange(1.0, 25.0).reshape(4, 3, 2), np.array([0, 1, 0]))
    recipe = Recipe("a cat", "", 1, "p", "local-0", "PNDM", 2, 7.5, 8, 8, "float32", {"torch": "1"})
    write_picture(folder / "p.png", recipe, Image.new("RGB", (4, 4), "red"), None)
    made = provenance(folder / "p.png")
    about = {"format": PICTURE, "key": made.key, "flagged": None, "pixels": made.pixels}
    name = f"{made.key}.png"
    grid = {"axes": [{"name": "prompt", "points": ["a cat"]}, {"name": "seed", "points": [1]}], "pictures": [name]}

    synthetic_curve(ks=(2, 4), seeds=2, queries=6).save(folder / "curve")
    manifest = read_record(folder / "curve" / "manifest.json")

    def saved_curve(path: Path) -> object:
        for other in ("results.parquet", "summary.parquet"):
            shutil.copyfile(folder / "curve" / other, path.parent / other)
        curve = ICLCurve.load(path.parent)
        return curve.points(), curve.to_frame()

    def grid_at(path: Path) -> object:
        (path.parent / name).write_bytes((folder / "p.png").read_bytes())
        return ImageGrid.load(path.parent)

    return [
        Target(
            "context",
            "c.safetensors",
            (unpacked_tensors(whole),),
            packed_tensors(whole),
            lambda path: load_context(path, "m"),
        ),
        Target(
            "stored scores",
            "s.parquet",
            (_table(scores.save(folder / "s.parquet")),),
            packed_table,
            StoredScores.load,
        ),
        Target(
            "stored choices",
            "o.parquet",
            (_table(choices.save(folder / "o.parquet")),),
            packed_table,
            ChoiceScores.load,
        ),
        Target("picture", "p.png", ({**about, "recipe": recipe.to_dict()},), packed_picture, provenance),
        Target("picture grid", "grid.json", (grid,), packed_record, grid_at),
        Target("saved curve", "manifest.json", (manifest,), packed_record, saved_curve),
        Target(
            "recommended settings",
            RECOMMENDED,
            ({"steps": 20, "guidance": 4.0, "scheduler": "ddim"},),
            packed_json,
            lambda path: read_recommended(path.parent),
        ),
    ]


def _table(path: Path) -> Any:
    table = pq.read_table(path)
    text = table.schema.metadata[b"lmops_lab"].decode()
    about = json.loads(text) if text.startswith("{") else text
    return {"columns": {name: table[name].to_pylist() for name in table.column_names}, "about": about}


def _notebook(source: list[str]) -> Any:
    code = {"cell_type": "code", "id": "a", "execution_count": None, "outputs": [], "source": source}
    code["metadata"] = {"tags": ["parameters"]}
    text = {"cell_type": "markdown", "id": "b", "metadata": {}, "source": ["# Title"]}
    return {"cells": [text, code], "metadata": {"kernelspec": {"name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}


def _votes(path: Path) -> object:
    for aside in path.parent.glob(f"{path.name}.*"):
        aside.unlink()
    return VoteFile(path, "s").read(9)


def _corpus(text: str) -> object:
    return build_corpus(text.splitlines()).statistics()


def _difference(text: str) -> object:
    before, _, after = text.partition("|")
    pieces = word_diff(before[:2000], after[:2000])
    if "".join(words for kind, words in pieces if kind != "removed") != after[:2000]:
        raise AssertionError("kept and added pieces do not give the second text")
    return pieces


_VOTES = [
    {"format": VOTES, "schedule": "s"},
    {"pair": 0, "choice": "left", "seconds": 1.5},
    {"pair": 1, "choice": "tie", "seconds": 0},
    {"undo": True},
    {"pair": 1, "choice": "bad", "seconds": 2},
    {"end": True},
]
_STATUS = {
    "format": JOB,
    "state": "running",
    "done": 1,
    "total": 3,
    "process": 1,
    "host": "h",
    "birth": "",
}
_GRID = {"k": [0, 8], "task": ["reviews", {"name": "x.jsonl", "labels": ["a", "b"]}], "own_weight": [1, "groups"]}
_GRID |= {"balanced": [True, False], "seed": [1, 2], "queries": 10, "dtype": "float32", "method": "structured"}
_RUNS = {
    "notebook": "01",
    "fixed": {"name": "b"},
    "grid": {"k": [[0], [8]], "weight": [1, "a"]},
    "points": [{"seeds": 1}],
}
_SWEEP = {"format": SWEEP, "versions": ["0"], "cell_format": "c", "grid": {"k": [0]}}
_SWEEP |= {"cells": {"a": {"k": 0}}, "labels": {"t": ["a"]}}
_METRICS = {"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}, "loss": {"value": 1.0}}
_BASELINE = {
    "parameters": {"k": [0]},
    "metrics": {"a": {"value": 0.5, "absolute": 0.1}, "b": {"value": 1, "low": 0, "high": 2, "statistical": True}},
}
_CURVES = [
    ["source", "method", "k", "accuracy", "low"],
    ["paper", "structured", "8", "0.5", ""],
    ["b", "c", "0", "1", "0"],
]
_PAIRS = [
    {"source": "a cat", "target": "a cat, 8k", "kind": "content", "subject": "a cat"},
    {"source": "a dog", "target": "a dog, oil painting", "kind": "shuffled", "subject": "a dog"},
]
_CARD = {
    "base": "",
    "base_revision": "",
    "marker": " Rephrase:",
    "decoding": {"method": "beam", "beams": 8},
    "trained": "",
}
