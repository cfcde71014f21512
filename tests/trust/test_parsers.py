"""Broken files that the fuzzer found, kept so that each stays refused with one clear error."""

import contextlib
import json
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from lmops_lab.generation.png import CHUNK, provenance
from lmops_lab.icl.loaders import read_rows
from lmops_lab.icl.published import read_published
from lmops_lab.rewriting.content import split_prompt
from lmops_lab.rewriting.corpus import Corpus, read_prompts
from lmops_lab.rewriting.loading import Card
from lmops_lab.runs.parameters import parse_value, read_parameters


def refused(read, path, message):
    """The error is a plain ValueError with this message, not one of a library's own."""
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert type(caught.value) is ValueError


@pytest.mark.parametrize("keep", [30, 200, -30])
def test_a_broken_parquet_file(tmp_path, keep):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"] * 50, "label": ["b"] * 50}), path)
    data = path.read_bytes()
    path.write_bytes(data[:keep] if keep > 0 else data[:20] + b"\xff" * 40 + data[60:])
    refused(read_rows, path, "a.parquet is not a readable Parquet file")
    with pytest.raises(FileNotFoundError):
        read_rows(tmp_path / "none.parquet")


@pytest.mark.parametrize(
    "content",
    ['"text"', "[" * 50_000, "{}", '{"cells": [{"cell_type": "code"}], "nbformat": 4}', "\ud800", '{"cells": 1}'],
)
def test_a_broken_notebook(tmp_path, content):
    path = tmp_path / "a.ipynb"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    refused(read_parameters, path, "a.ipynb is not a notebook")


@pytest.mark.parametrize("source", ["k = (", "k = \x00", "(" * 500 + ")" * 500])
def test_a_parameters_cell_that_is_not_python(tmp_path, source):
    code = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "outputs": [], "source": source, "id": "a"}
    notebook = {"cells": [{**code, "execution_count": None}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(notebook))
    refused(read_parameters, path, "the parameters cell of a.ipynb is not Python|not a literal value")


def test_a_value_that_is_nearly_a_literal_is_text():
    for text in ("{[]: 1}", "(" * 500, "1 +", "-" * 5000 + "1", "\x00"):
        assert parse_value(text) == text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" ",
        b"\xff",
        b"source,method,k,accuracy\na,b,1,1,1,1\n",
        b'a,"b\n',
        b"source,k\na,1,1\n",
        b"k\n" + b"a," * 50_000,
    ],
)
def test_broken_published_curves(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    refused(
        read_published, path, "a.csv is not (UTF-8 text|a table in CSV)|columns|more cells than the header|a line of"
    )


@pytest.mark.parametrize("line", ["true", "1", "[{}]", "[" * 50_000, "\xff", '{"prompt": 1}', "9" * 5000])
def test_broken_prompts(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_bytes(line.encode("latin-1"))
    refused(read_prompts, path, "a.jsonl")
    (tmp_path / "a.txt").write_bytes(b"a cat\n\xff")
    refused(read_prompts, tmp_path / "a.txt", "a.txt is not UTF-8 text")


@pytest.mark.parametrize(
    "line", ["[]", '{"a": ' * 20_000, '{"source": 1, "target": "", "kind": "", "subject": ""}', "\xff"]
)
def test_a_broken_corpus(tmp_path, line):
    path = tmp_path / "c.jsonl"
    path.write_bytes(line.encode("latin-1"))
    refused(Corpus.load, path, "c.jsonl")


@pytest.mark.parametrize("text", ["[]", "{", '{"decoding": 1}', '{"base": 1, "decoding": {}}', "[" * 50_000])
def test_a_broken_rewriter_card(tmp_path, text):
    (tmp_path / "rewriter.json").write_text(text)
    refused(Card.read, tmp_path, "is no rewriter card")


@pytest.mark.parametrize(
    "changed",
    [
        *({"seed": "1"}, {"revision": ["local-"]}, {"prompt": None}, {"versions": "1"}, {"steps": True}, {"width": {}}),
        *({"guidance_end": float("inf")}, {"guidance_end": float("nan")}, {"guidance_end": 0, "steps": 10**400}),
        *({"guidance_end": 0.5, "steps": 10**400}, {"guidance_end": -1}, {"seed": -1}),
    ],
)
def test_a_recipe_with_values_that_no_picture_has(tmp_path, changed):
    recipe = {"prompt": "a", "negative_prompt": "", "seed": 1, "pipeline": "p", "revision": "r", "scheduler": "s"}
    recipe |= {"steps": 2, "guidance": 7.5, "width": 8, "height": 8, "dtype": "float32", "versions": {}}
    for about in (
        {"format": "lmops-lab picture 1", "flagged": None, "pixels": "", "recipe": recipe | changed},
        {"format": "lmops-lab picture 1", "flagged": None, "pixels": [], "recipe": recipe},
        {"format": "lmops-lab picture 1", "flagged": 0, "pixels": "", "recipe": recipe},
        [],
    ):
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text(CHUNK, json.dumps(about))
        Image.new("RGB", (2, 2)).save(tmp_path / "a.png", pnginfo=chunks)
        refused(provenance, tmp_path / "a.png", "the recipe in .* cannot be read")


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "a fox" + "{" * 200_000, "([{" * 60_000, "(a" * 20_000, "(" + ":1" * 20_000]
)
def test_a_prompt_of_brackets_is_split_at_once(text):
    start = time.process_time()
    with contextlib.suppress(ValueError):
        split_prompt(f"{text} fox")
    assert time.process_time() - start < 2
