"""Papermill's own command line runs every notebook: nothing in them needs this project's runner."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from safetensors.torch import save_file

from lmops_lab import origins
from lmops_lab.rewards.aesthetic import AestheticHead
from lmops_lab.runs.parameters import check_parameters, parse_value, read_parameters
from tests.rewriting.tiny_rewriters import byte_gpt2_folder
from tests.tiny import tiny_tokenizer_folder
from tests.tiny_pictures import tiny_clip_folder, tiny_pipeline_folder

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"

# The least that exercises every cell. The model is a random one of three layers, whose tokens are bytes; only 02 needs
# labels that begin with different tokens.
TINY = {
    "01_icl_accuracy_curve": "k=[0,2,4] seeds=1 queries=6 group_size=2",
    "02_structured_prompting": "model=smollm2-135m groups=[1,2] group_size=2 lengths=[64,128] group_tokens=32",
    "03_label_bias_and_calibration": "k=2 seeds=1 queries=12 batch_sizes=[1,4] repeats=5",
    "04_methods_compared": "k=[0,2,4] seeds=2 queries=6 group_size=2 own_weights=[1,'groups']",
    "05_rewriting_prompts": "candidates=2 seeds=2 steps=2 prompts=2 prompt_seeds=2 recogniser=null",
    "06_training_a_rewriter": "shipped=null sft_steps=4 sft_batch=2 steps=2 prompts_a_step=2 samples=2 hack_steps=2 "
    "new_tokens=8 picture_steps=2 prompts=2 prompt_seeds=2 recogniser=null",
    "07_long_documents": "counts=[1,20] per_kind=2 candidates=2 generated=2 new_tokens=3",
}
# These draw pictures; their language model is this parameter.
PICTURES = {"05_rewriting_prompts": "rewriter", "06_training_a_rewriter": "base"}
DEFAULT_TIER = "03_label_bias_and_calibration"


def parameters(stem):
    return dict(text.split("=", 1) for text in TINY[stem].split(" "))


def tiny_model(folder):
    model = tiny_tokenizer_folder(folder / "models", "llama", max_position_embeddings=8192)
    return {"model": str(model), "dtype": "float32"}


def tiny_pictures(folder, language_model):
    """Random models in the formats of the real ones: a language model, a pipeline, CLIP, aesthetic head."""
    save_file(AestheticHead(16).state_dict(), folder / "head.safetensors")
    return {
        language_model: str(byte_gpt2_folder(folder / "language", spread=0.1)),
        "generator": str(tiny_pipeline_folder(folder)),
        "clip": str(tiny_clip_folder(folder, side=28, projection=16)),
        "head": str(folder / "head.safetensors"),
    }


def test_every_notebook_has_tiny_parameters_that_it_knows():
    assert sorted(TINY) == sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    for stem in TINY:
        given = {name: parse_value(value) for name, value in parameters(stem).items()}
        check_parameters(read_parameters(NOTEBOOKS / f"{stem}.ipynb"), given)


@pytest.mark.parametrize(
    "stem", [pytest.param(stem, marks=() if stem == DEFAULT_TIER else pytest.mark.nightly) for stem in TINY]
)
def test_papermill_runs_it(stem, tmp_path):
    models = tiny_pictures(tmp_path, PICTURES[stem]) if stem in PICTURES else tiny_model(tmp_path)
    given = {"output": str(tmp_path / "results"), **models, **parameters(stem)}
    if given.get("model") == origins.EMBEDDED and origins.embedded_gguf() is None:
        pytest.skip(f"the embedded model is not installed: {origins.INSTALL_EMBEDDED}")
    (tmp_path / "results").mkdir()
    options = []
    for name, value in given.items():  # papermill's -p takes plain values alone, its -y takes YAML
        options += ["-y", f"{name}: {value}"] if value[0] == "[" or value == "null" else ["-p", name, value]
    made = tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", str(NOTEBOOKS / f"{stem}.ipynb"), str(made), *options]
    environment = {**os.environ, "LMOPS_LAB_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = [cell for cell in nbformat.read(made, as_version=4).cells if cell.cell_type == "code"]
    asked = next(cell.source for cell in cells if "injected-parameters" in cell.metadata.get("tags", ()))
    assert all(value in asked for name, value in given.items() if name in models)
    assert all(cell.execution_count for cell in cells)
    assert list((tmp_path / "results").glob("*.svg"))
    assert list((tmp_path / "results").glob("*.json"))
