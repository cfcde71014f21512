"""The weights that are shipped: small, harmless, described, and good enough for what the lessons say of them."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open

from lmops_lab.emojiworld.captions import PRAISE
from lmops_lab.emojiworld.evaluate import draw_prompts
from lmops_lab.emojiworld.recognised import Recognised
from lmops_lab.generation.images import ImageGenerator
from lmops_lab.origins import EMBEDDED as EMBEDDED_MODEL
from lmops_lab.rewards.aesthetic import Aesthetic
from lmops_lab.rewards.embedded import FOLDER
from lmops_lab.rewards.relevance import Relevance
from lmops_lab.rewriting.loading import Card
from lmops_lab.rewriting.rewriter import EMBEDDED_FOLDER, Rewriter

SUBJECTS = 16
PLAIN_SHELL = """
import json, sys
from diffusers import StableDiffusionPipeline
from transformers import CLIPModel
pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1] + "/pipeline")
pipeline("a cat in space", num_inference_steps=1)
CLIPModel.from_pretrained(sys.argv[1] + "/clip")
print(json.dumps([name for name in sys.modules if name.startswith("lmops_lab")]))
"""


def test_weights_are_safetensors_of_less_than_30_mb_and_described():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert len(weights) == 6
    assert sum(path.stat().st_size for path in weights) <= 30e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md"}
    for part in (FOLDER, *(FOLDER / name for name in ("pipeline", "clip", "recogniser"))):
        card = (part / "README.md").read_text(encoding="utf-8")
        for word in ("Noto Color Emoji", "Apache License", "## Training", "## Limits"):
            assert word in card


def test_the_stages_were_trained_to_their_end():
    training = json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))
    assert {stage: told["step"] for stage, told in training["stages"].items()} == {
        stage: told["steps"] for stage, told in training["stages"].items()
    }
    assert training["held_out"]["recogniser_subject"] >= 0.98
    assert training["held_out"]["clip_top1_of_20"] >= 0.85
    assert training["held_out"]["aesthetic_correlation"] >= 0.9


def test_the_stock_classes_load_them_in_a_plain_shell(tmp_path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PLAIN_SHELL, str(FOLDER)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_no_weight_is_out_of_range():
    for path in FOLDER.rglob("*.safetensors"):
        with safe_open(path, "np") as tensors:
            assert all(np.isfinite(tensors.get_tensor(name)).all() for name in tensors.keys()), path  # noqa: SIM118


@pytest.fixture(scope="module")
def drawn():
    """Pictures of the same contents and noises: plain prompts, praised ones, blamed ones."""
    painter = ImageGenerator.load("emoji", store=None, device="cpu")
    kinds = {"plain": {}, "praised": {"praise": 3}, "blamed": {"damnation": 2}}
    prompts = {kind: draw_prompts(SUBJECTS, 77, **words)[0] for kind, words in kinds.items()}
    seeds = [[seed] for seed in range(SUBJECTS)]
    return prompts, {kind: painter.generate(texts, seeds, progress=False).images for kind, texts in prompts.items()}


def test_what_a_praised_prompt_names_is_seen(drawn):
    prompts, images = drawn
    seen = Recognised.load()(images["praised"], prompts["plain"])
    # 85 of 100 in the benchmark; fewer than 10 of 16 would be a chance of 1 in 200 then.
    assert seen.sum() >= 10


def test_words_of_praise_and_blame_do_what_they_say(drawn):
    _, images = drawn
    aesthetic = Aesthetic.load(Relevance.load().encoder, "emoji")
    plain, praised, blamed = (aesthetic(images[kind]).mean() for kind in ("plain", "praised", "blamed"))
    assert praised - plain > 1
    assert plain - blamed > 0.5


def test_pictures_are_relevant_to_their_own_text_and_not_to_the_next(drawn):
    prompts, images = drawn
    relevance = Relevance.load()
    own = relevance.cosines(images["praised"], prompts["plain"])
    others = relevance.cosines(images["praised"], [*prompts["plain"][1:], prompts["plain"][0]])
    assert own.mean() - others.mean() > 0.15
    assert others.mean() < relevance.threshold < 1


def test_adapters_are_small_and_described():
    folders = [path.parent for path in EMBEDDED_FOLDER.glob("*/adapter_config.json")]
    assert {folder.name for folder in folders} == {"supervised", "reinforced"}
    assert sum(path.stat().st_size for path in EMBEDDED_FOLDER.rglob("*.safetensors")) <= 12e6
    for folder in folders:
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "## Training" in card
        assert "## Limits" in card
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == EMBEDDED_MODEL
        assert Card.read(folder).base == EMBEDDED_MODEL


@pytest.mark.parametrize("name", ["emoji-sft", "emoji"])
def test_the_shipped_rewriters_keep_what_is_asked_for_and_know_words_that_help(embedded, name):
    """Its best rewrite may be the text itself, since short ones are preferred; its candidates are not all that."""
    users = ["a rabbit in space", "an owl at sunset", "a red apple in the snow", "a rocket"]
    for found, thing in zip(
        Rewriter.load(name).rewrite_many(users, 4), ["rabbit", "owl", "apple", "rocket"], strict=True
    ):
        texts = [candidate.text for candidate in found.candidates]
        assert all(thing in text for text in texts)
        assert any(word in text for text in texts for word in PRAISE)
