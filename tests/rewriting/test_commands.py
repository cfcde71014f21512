"""The command that trains a rewriter, from the corpus to the joined adapter, on tiny models in the stock formats."""

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from lmops_lab import cli
from lmops_lab.rewards.aesthetic import AestheticHead
from lmops_lab.rewriting.rewriter import Rewriter
from tests.rewriting.tiny_rewriters import byte_gpt2_folder
from tests.tiny_pictures import tiny_clip_folder, tiny_pipeline_folder

PROMPTS = [
    f"a {thing} {place}, highly detailed, sharp focus, vivid colors"
    for thing in ("cat", "dog", "boat", "house")
    for place in ("in space", "at sunset", "in the snow")
]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    save_file(AestheticHead(16).state_dict(), folder / "head.safetensors")
    return {
        "--base": byte_gpt2_folder(folder / "base", spread=0.1),
        "--prompts": folder / "prompts.txt",
        "--pictures": tiny_pipeline_folder(folder),
        "--clip": tiny_clip_folder(folder, side=28, projection=16),
        "--head": folder / "head.safetensors",
        "--ranks": "2 2",
        "--picture-steps": 2,
        "--seeds": 1,
        "--guidance-end": 0.5,
        "--prompts-a-step": 2,
        "--max-new-tokens": 12,
    }


def train(parts, folder, **more):
    words = ["train-rewriter", "--folder", str(folder)]
    for name, value in {**parts, **more}.items():
        words += [name, *str(value).split()] if name == "--ranks" else [name, str(value)]
    return cli.main(words)


def test_both_trainings_run_once_and_go_on(parts, tmp_path, capsys, monkeypatch):
    short = {"--supervised-steps": 2, "--steps": 1}
    assert train(parts, tmp_path, **short) == 0
    said = capsys.readouterr().out
    assert "supervised  finished, 2 steps" in said
    assert "reinforced  finished, 1 steps" in said
    rewriter = Rewriter.load(str(tmp_path / "reinforced" / "rewriter"))
    assert rewriter.loaded.card.trained == "rloo"
    assert rewriter.decoding.max_new_tokens == 12
    weights = load_file(tmp_path / "reinforced" / "rewriter" / "adapter_model.safetensors")
    assert {value.shape[0] for name, value in weights.items() if ".lora_A." in name} == {4}  # ranks 2 + 2
    assert train(parts, tmp_path, **{**short, "--steps": 2}) == 0
    curve = pd.read_csv(tmp_path / "reinforced" / "curve.csv")
    assert curve["step"].max() == 2
    assert cli.main(["train-rewriter", "--folder", str(tmp_path), "--status"]) == 0
    assert "reinforced  finished, 2 steps" in capsys.readouterr().out
    assert cli.main(["train-rewriter", "--folder", str(tmp_path), "--export", str(tmp_path / "shipped")]) == 0
    for stage, trained in (("supervised", "sft"), ("reinforced", "rloo")):
        shipped, own = tmp_path / "shipped" / stage, tmp_path / stage / "rewriter"
        weights, before = (load_file(folder / "adapter_model.safetensors") for folder in (shipped, own))
        assert {str(value.dtype) for value in weights.values()} == {"torch.float16"}
        assert all(torch.allclose(weights[name].float(), before[name].float(), atol=1e-3) for name in before)
        assert Rewriter.load(str(shipped)).loaded.card.trained == trained
        assert str(tmp_path) not in "".join(path.read_text() for path in shipped.glob("*.json"))
        assert "## Limits" in (shipped / "README.md").read_text()
    assert train(parts, tmp_path, **{**short, "--kl": 0.1}) == 2
    assert "(kl was 0.05 and is 0.1); use another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--steps", -1, "--steps is -1; give at least 1"),
        ("--supervised-steps", 0, "--supervised-steps is 0; give at least 1"),
        ("--export", "/nowhere", "no training in"),
        ("--mode", "rlo", "--mode is 'rlo'; choose rloo, grpo, ppo"),
        ("--kl", 0, "more than 0"),
        ("--samples", 1, "--samples is 1; rewrites of a text are compared: at least 2"),
        ("--prompts-a-step", 0, "--prompts-a-step is 0; give at least 1"),
        ("--max-new-tokens", 0, "--max-new-tokens is 0; give at least 1"),
        ("--guidance-end", 40, "guidance_end is 40.0; give the share of the steps"),
        ("--threshold", 28, "--threshold is 28.0; cosines lie between -1 and 1"),
        ("--ranks", "0 2", "both start at 1"),
        ("--pictures", "/nowhere", "/nowhere"),
        ("--head", "/nowhere.pth", "no aesthetic head at '/nowhere.pth'"),
        ("--prompts", "/nowhere.txt", "/nowhere.txt"),
    ],
)
def test_bad_settings_are_named_before_any_training(parts, tmp_path, capsys, option, value, message):
    assert train(parts, tmp_path, **{option: value}) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "supervised").exists()
    assert not (tmp_path / "settings.json").exists()  # nothing was begun, so nothing binds the corrected command
