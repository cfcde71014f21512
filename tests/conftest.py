"""Shared fixtures; every array shape that a signature names is checked while the tests run."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("MPLBACKEND", "agg")

from tests import network

os.environ.update(network.CHILDREN)

from jaxtyping import install_import_hook

_hook = install_import_hook("lmops_lab", "beartype.beartype")

import json
from pathlib import Path

import pytest
import torch

from lmops_lab import origins
from lmops_lab.models import LanguageModel, load_model
from tests.tiny import tiny_tokenizer_folder

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Tests never touch the user's cache, except for the embedded model's converted weights."""
    if origins.embedded_gguf():
        origins.locate(origins.EMBEDDED)
        converted = Path(origins.locate(origins.EMBEDDED).path)
        home = tmp_path_factory.mktemp("cache")
        (home / "weights").mkdir()
        (home / "weights" / converted.name).symlink_to(converted)
    else:
        home = tmp_path_factory.mktemp("cache")
    before = os.environ.get("LMOPS_LAB_CACHE")
    os.environ["LMOPS_LAB_CACHE"] = str(home)
    yield home
    if before is None:
        del os.environ["LMOPS_LAB_CACHE"]
    else:
        os.environ["LMOPS_LAB_CACHE"] = before


@pytest.fixture(scope="session")
def embedded() -> LanguageModel:
    """The embedded model in float32."""
    if origins.embedded_gguf() is None:
        pytest.skip(f"the embedded model is not installed: {origins.INSTALL_EMBEDDED}")
    return load_model(dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> LanguageModel:
    """A random three-layer Llama with grouped-query attention and a real byte-level tokenizer."""
    return load_model(str(tiny_tokenizer_folder(tmp_path_factory.mktemp("models"), "llama")), dtype="float32")


@pytest.fixture
def write_jsonl(tmp_path):
    """Write rows to a JSONL file and return its path."""

    def write(name: str, rows: list) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def real_data() -> Path:
    """Folder of real data sets that lie beside some checkouts; most users do not have it."""
    if not REAL_DATA.is_dir():
        pytest.skip("the folder of real data sets is not beside this checkout")
    return REAL_DATA


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded generator."""
    return torch.Generator().manual_seed(0)
