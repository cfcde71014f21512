"""What is shipped: stock folders that load in a plain process, small, with cards."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lmops_lab.emojiworld import export as exporting
from lmops_lab.emojiworld.aesthetic import AestheticHead
from lmops_lab.emojiworld.export import build_pipeline, export
from lmops_lab.emojiworld.recipe import SMOKE
from lmops_lab.emojiworld.recogniser import load_recogniser, recognise
from lmops_lab.emojiworld.train import UnfinishedError, Workshop
from lmops_lab.generation.images import ImageGenerator
from lmops_lab.rewards.relevance import Relevance

PLAIN_PROCESS = """
import json, sys
import numpy as np, torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPModel, CLIPProcessor

folder = sys.argv[1]
pipeline = StableDiffusionPipeline.from_pretrained(folder + "/pipeline")
pipeline.set_progress_bar_config(disable=True)
generator = torch.Generator().manual_seed(0)
picture = pipeline("a rabbit in space", num_inference_steps=2, guidance_scale=4.0, generator=generator).images[0]
clip, processor = CLIPModel.from_pretrained(folder + "/clip"), CLIPProcessor.from_pretrained(folder + "/clip")
inputs = processor(text=["a cat", "a dog"], images=[picture], return_tensors="pt", padding=True)
print(json.dumps({
    "size": picture.size,
    "pixels": np.asarray(picture).tolist(),
    "logits": clip(**inputs).logits_per_image.tolist(),
    "dtypes": [str(part.dtype) for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, clip)],
    "ours": [name for name in sys.modules if name.startswith("lmops_lab")],
}))
"""


@pytest.fixture(scope="module")
def exported(workshop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "world"
    export(workshop, folder, evaluation={"clip_top1_of_20": 0.5, "relevant_cosine": 0.613})
    return folder


def test_the_folders_load_with_the_stock_classes_in_a_plain_process(workshop, exported, tmp_path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PLAIN_PROCESS, str(exported)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["size"] == [64, 64]
    assert seen["ours"] == []
    assert seen["dtypes"] == ["torch.float32"] * 4
    # The same picture as from the parts that were trained, up to the rounding of the stored weights.
    pipeline = build_pipeline(workshop)
    pipeline.set_progress_bar_config(disable=True)
    ours = pipeline(
        "a rabbit in space", num_inference_steps=2, guidance_scale=4.0, generator=torch.Generator().manual_seed(0)
    ).images[0]
    assert np.abs(np.asarray(ours).astype(int) - np.array(seen["pixels"])).max() <= 8
    assert len(seen["logits"][0]) == 2


def test_weights_are_16_bit_safetensors_that_anyone_may_read(exported):
    files = list(exported.rglob("*.safetensors"))
    assert len(files) == 6
    for file in files:
        assert {t.dtype for t in load_file(file).values() if t.is_floating_point()} == {torch.float16}
    assert not [f for f in exported.rglob("*") if f.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert {oct(f.stat().st_mode & 0o777) for f in exported.rglob("*") if f.is_file()} == {"0o644"}


def test_the_generator_draws_as_the_pipeline_recommends(exported):
    generator = ImageGenerator.load(str(exported / "pipeline"), store=None)
    recipe = generator.recipe("a cat", 1)
    assert (recipe.steps, recipe.guidance) == (20, 4.0)


def test_the_reward_finds_the_cosine_from_which_pictures_count_as_relevant(exported):
    assert Relevance.load(str(exported / "clip")).threshold == 0.61


def test_head_and_recogniser_answer_as_they_were_trained(workshop, exported):
    head = AestheticHead(workshop.recipe.width).eval()
    head.load_state_dict(
        {name: weight.float() for name, weight in load_file(exported / "aesthetic.safetensors").items()}
    )
    features = torch.nn.functional.normalize(torch.randn(5, workshop.recipe.width), dim=-1)
    assert torch.allclose(head(features), workshop.judges()[1](features), atol=0.02)
    images = workshop.scenes.images[:8]
    before, after = (
        recognise(workshop.recogniser(), images),
        recognise(load_recogniser(exported / "recogniser"), images),
    )
    assert [r.setting for r in before] == [r.setting for r in after]


def test_the_cards_tell_licence_source_training_and_limits(exported):
    cards = {path.relative_to(exported).as_posix(): path.read_text() for path in exported.rglob("README.md")}
    assert set(cards) == {"README.md", "pipeline/README.md", "clip/README.md", "recogniser/README.md"}
    for text in cards.values():
        for word in ("Noto Color Emoji", "Apache License", "Open Font License", "## Training", "## Limits"):
            assert word in text
    assert "clip_top1_of_20".replace("_", " ") in cards["README.md"]
    training = json.loads((exported / "training.json").read_text())
    assert training["stages"]["diffusion"]["step"] == 16
    assert training["recipe"]["scenes"] == 96


def test_an_export_replaces_an_export_and_nothing_else(workshop, tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("do not lose me")
    with pytest.raises(ValueError, match="mine is not an export"):
        export(workshop, mine)
    assert (mine / "thesis.txt").exists()
    target = tmp_path / "pictures"
    export(workshop, target)
    (target / "old").write_text("old")
    monkeypatch.setattr(exporting, "LARGEST_MB", 0.1)
    with pytest.raises(ValueError, match=r"MB, more than the 0 MB"):
        export(workshop, target)
    assert (target / "old").exists()
    monkeypatch.undo()
    export(workshop, target)
    assert not (target / "old").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "pictures"]


def test_nothing_trained_is_nothing_exported(tmp_path):
    with pytest.raises(UnfinishedError, match="stage recogniser has not been trained"):
        export(Workshop(tmp_path / "empty", SMOKE, progress=False), tmp_path / "out")
