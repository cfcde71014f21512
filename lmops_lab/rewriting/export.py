"""Trained adapters as they are shipped: float16, no path of the machine that trained them, with a card."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from lmops_lab.digests import read_record
from lmops_lab.files import atomic_folder, write_text
from lmops_lab.rewriting.loading import ADAPTER, CARD, Card

STAGES = ("supervised", "reinforced")
LARGEST_MB = 12.0
_WEIGHTS = "adapter_model.safetensors"
_TRAINING = "training.json"
_TEXT = """\
---
license: apache-2.0
base_model: {base}
library_name: peft
---
# A prompt rewriter for the emoji world ({trained})

A LoRA adapter on `{base}`. It continues "`<text>{marker}`" with a prompt for the emoji world's pictures:

```python
from lmops_lab import Rewriter

print(Rewriter.load("{name}").rewrite("a rabbit in space"))
```

## Training

{training}
Made by `lmops-lab train-rewriter`; settings, steps and versions are in `training.json`, the curve in `curve.csv`.

## Limits

It has met prompts about emoji scenes only, and copies people's habits, useless and harmful words included, as far as
reinforcement has not unlearned them. It shows how methods behave offline; for Stable Diffusion load `promptist`.
"""


def export_rewriters(folder: Path, target: Path) -> float:
    """Write the finished adapters of a training folder below `target`, replacing those there; returns their megabytes.

    Raises:
        FileNotFoundError: no training of the folder has come to its end.
        ValueError: weights instead of an adapter, or adapters that take more than 12 MB together.
    """
    found = [stage for stage in STAGES if (folder / stage / "rewriter" / CARD).is_file()]
    if not found:
        raise FileNotFoundError(f"nothing to export: no training in {str(folder)!r} has come to its end")
    whole = [stage for stage in found if not (folder / stage / "rewriter" / ADAPTER).is_file()]
    if whole:
        raise ValueError(
            f"the {whole[0]} rewriter in {str(folder)!r} is no adapter but whole weights: too large to ship"
        )
    halves = {stage: _halves(folder / stage / "rewriter") for stage in found}
    size = sum(value.nbytes for tensors in halves.values() for value in tensors.values()) / 1e6
    if size > LARGEST_MB:
        raise ValueError(f"the adapters take {size:.1f} MB, more than {LARGEST_MB:.0f} MB; use lower --ranks")
    for stage in found:
        with atomic_folder(target / stage, replace=True) as temporary:
            save_file(halves[stage], temporary / _WEIGHTS, metadata={"format": "pt"})
            (temporary / _WEIGHTS).chmod(0o644)  # safetensors keeps what it writes to its owner
            _describe(folder, stage, temporary)
    return size


def _halves(rewriter: Path) -> dict[str, torch.Tensor]:
    return {name: value.to(torch.float16) for name, value in load_file(rewriter / _WEIGHTS).items()}


def _describe(folder: Path, stage: str, out: Path) -> None:
    """Configuration, card, curve and training record beside the weights."""
    rewriter, out_card = folder / stage / "rewriter", Card.read(folder / stage / "rewriter")
    config = json.loads((rewriter / ADAPTER).read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": out_card.base, "target_modules": sorted(config["target_modules"])}
    write_text(out / ADAPTER, json.dumps(config, indent=1) + "\n")
    out_card.write(out)
    curve = pd.read_csv(folder / stage / "curve.csv")
    write_text(out / "curve.csv", curve.round(5).to_csv(index=False))
    told: dict[str, Any] = {
        "settings": _without_paths(read_record(folder / "settings.json")),
        "steps": int(curve["step"].max()),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
    }
    write_text(out / _TRAINING, json.dumps(told, indent=1) + "\n")
    column = "loss" if stage == "supervised" else "reward"
    values = curve[column].dropna()
    few = max(1, len(values) // 10)
    training = (
        f"{told['steps']} steps; mean {column} of the first tenth {values.iloc[:few].mean():.3f}, of the last "
        f"{values.iloc[-few:].mean():.3f}.\n"
    )
    name = "emoji" if stage == "reinforced" else "emoji-sft"
    facts = {"base": out_card.base, "trained": out_card.trained, "marker": out_card.marker, "name": name}
    write_text(out / "README.md", _TEXT.format(training=training, **facts))


def _without_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the names of files alone: where they lay on the machine that trained concerns nobody."""
    return {
        name: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for name, value in settings.items()
    }
