"""Every kind of file that the package stores: how it is written, and what its reader makes of it."""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import torch
from PIL import Image
from torch import nn

from lmops_lab import origins
from lmops_lab.attention.cache import GroupCache
from lmops_lab.attention.context import GroupedContext
from lmops_lab.attention.files import load_context
from lmops_lab.digests import write_record
from lmops_lab.emojiworld import loop
from lmops_lab.emojiworld.recipe import Length
from lmops_lab.files import atomic_folder, write_text
from lmops_lab.generation.pictures import Axis, ImageGrid, Picture
from lmops_lab.generation.recipe import Recipe
from lmops_lab.generation.store import ImageStore
from lmops_lab.icl.cells import Cell, CellStore, Cost
from lmops_lab.icl.choices import ChoiceScores
from lmops_lab.icl.curve import ICLCurve
from lmops_lab.icl.results import FORMAT, MANIFEST, read_manifest
from lmops_lab.icl.scores import StoredScores
from lmops_lab.rewards.cache import RewardCache
from lmops_lab.rewriting.training import COMPLETE, MarkComplete, last_checkpoint
from lmops_lab.runs import notebook as runs
from lmops_lab.runs.jobs import STATUS, JobStatus, _write_status, read_status
from lmops_lab.runs.regression import Baseline, Expected, Metric, read_baseline, write_baseline
from tests.icl.synthetic import synthetic_curve
from widgets.vote_file import VoteFile
from widgets.votes import Vote

MISSING = "counts as missing"
Read = Callable[[Path], Any]


@dataclass(frozen=True)
class Kind:
    """A kind of stored file.

    Attributes:
        write: writes it into a folder, the same content every time.
        files: pattern of what is damaged.
        read: what it says, in plain values; MISSING where the reader counts it as missing and the work is done again.
        errors: how the reader may answer damage otherwise.
    """

    name: str
    write: Callable[[Path], object]
    files: str
    read: Read
    errors: tuple[type[Exception], ...] = (ValueError, FileNotFoundError)


def _numbers(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def _context() -> GroupedContext:
    sides = [tuple(torch.from_numpy(_numbers(2, 20, 8)) + i for i in range(2)) for _ in range(2)]
    return GroupedContext(*sides, 0, (8, 12), (2, 3), 12, "none", "a-model", (4, 4, 4, 4, 4))


def _read_context(folder: Path) -> Any:
    context = load_context(folder / "a.safetensors", "a-model")
    facts = {name: value for name, value in vars(context).items() if not name.startswith(("key", "value"))}
    return facts, [t.tolist() for t in (*context.keys, *context.values)]


def _write_group(folder: Path) -> None:
    context = _context()
    GroupCache(folder).write("a.safetensors", context.keys, context.values, slice(3, 11))


def _read_group(folder: Path) -> Any:
    empty = [tuple(torch.zeros(2, 20, 8) for _ in range(2)) for _ in range(2)]
    found = GroupCache(folder).read("a.safetensors", empty[0], empty[1], slice(3, 11))
    return [t.tolist() for side in empty for t in side] if found else MISSING


def _write_cell(folder: Path) -> None:
    gold, asked = np.arange(9) % 2, np.arange(9)
    cell = Cell("structured", 4, 1, _numbers(9, 2), _numbers(3, 2), gold, asked, Cost(0.1, 0.2, 50, 999, 2))
    CellStore(folder).write("0" * 24, cell, {"model": "a"}, {"model": "a", "task": "b"}, ("no", "yes"))


def _read_cell(folder: Path) -> Any:
    stored = CellStore(folder).stored("0" * 24)
    return MISSING if stored is None else (repr(stored.cell), stored.table.to_pylist(), stored.about)


def _read_curve(folder: Path) -> Any:
    curve = ICLCurve.load(folder)
    return curve.to_long_frame().to_csv(), curve.to_frame().to_csv(), curve.about, curve.labels


def _write_manifest(folder: Path) -> None:
    grid = {"k": [0, 4], "task": ["reviews"], "queries": 20}
    cells = {"0" * 24: {"k": 4, "seed": 1}}
    about = {"format": FORMAT, "versions": ["1"], "cell_format": "x", "grid": grid, "cells": cells, "labels": {}}
    write_record(folder / MANIFEST, about)


def _write_scores(folder: Path) -> None:
    gold, tokens = np.arange(6) % 2, np.array([1, 2])
    StoredScores(("no", "yes"), tokens, _numbers(6, 2), gold, content_free=_numbers(3, 2)).save(folder / "a.parquet")


def _read_scores(folder: Path) -> Any:
    return [(name, np.asarray(v).tolist()) for name, v in vars(StoredScores.load(folder / "a.parquet")).items()]


def _write_choices(folder: Path) -> None:
    parts = [_numbers(5, 4).astype(float) for _ in range(4)]
    ChoiceScores(*parts, np.arange(5) % 4).save(folder / "a.parquet")


def _read_choices(folder: Path) -> Any:
    return [(name, np.asarray(v).tolist()) for name, v in vars(ChoiceScores.load(folder / "a.parquet")).items()]


def _write_job(folder: Path) -> None:
    _write_status(folder, JobStatus("finished", 4, 9, 2, host="here", process=7, birth="1", started=1.5, updated=2.5))


def _read_job(folder: Path) -> Any:
    status = read_status(folder)
    return MISSING if status is None else asdict(status)


def _write_votes(folder: Path) -> None:
    (folder / "votes.jsonl").unlink(missing_ok=True)
    file = VoteFile(folder / "votes.jsonl", "these pairs")
    for number, choice in enumerate(("left", "tie", "right", "bad")):
        file.add(Vote(number, choice, 1.25 * number))
    file.undo()


def _read_votes(folder: Path) -> Any:
    kept = VoteFile(folder / "votes.jsonl", "these pairs").read(9)
    aside = [*folder.glob("*.damaged-*")]
    return MISSING if kept.warning and aside else kept


def _recipe() -> Recipe:
    return Recipe("a cat", "", 3, "tiny", "local-1", "PNDM", 2, 7.5, 32, 32, "float32", {"torch": "2"})


def _image() -> Image.Image:
    return Image.fromarray((_numbers(32, 32, 3) * 40 + 120).astype(np.uint8))


def _read_picture(folder: Path) -> Any:
    found = ImageStore(folder).read(_recipe())
    return MISSING if found is None else (found.recipe.to_dict(), found.flagged, found.image.tobytes())


def _write_grid(folder: Path) -> None:
    made = ImageGrid((Axis("prompt", ("a cat",)), Axis("seed", (3,))), (Picture(_recipe(), _image(), None),))
    if not (folder / "grid").exists():
        made.save(folder / "grid")


def _read_grid(folder: Path) -> Any:
    found = ImageGrid.load(folder / "grid")
    return found.axes, [(p.recipe.to_dict(), p.flagged, p.image.tobytes()) for p in found.pictures]


def _read_rewards(folder: Path) -> Any:
    found = RewardCache(folder / "a.sqlite").read([str(n) for n in range(40)])
    whole = [n / 7 for n in range(40)]
    # Damaged scores count as missing; what is there has to be right.
    right = all(score is None or score == expected for score, expected in zip(found, whole, strict=True))
    return (MISSING if None in found else found) if right else ("wrong", found)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(8, 1)


def _write_checkpoint(folder: Path) -> None:
    model = _network()

    def loss(generator: torch.Generator) -> torch.Tensor:
        return model(torch.randn(4, 8, generator=generator)).square().mean()

    loop.train_stage(model, loss, Length(3, 4, 1e-2), path=folder / "a.pt", fingerprint="f", seed=1, progress=False)


def _read_checkpoint(folder: Path) -> Any:
    """As training goes on from it."""
    model = _network()
    optimiser = torch.optim.AdamW(model.parameters())
    state, average = loop._load(folder / "a.pt", model, optimiser, "f")
    kept = [value.tolist() for value in (*model.state_dict().values(), *average.values())]
    return kept, state.step, state.losses, state.seconds, repr(optimiser.state_dict())


def _write_weights(folder: Path) -> None:
    """A converted model's folder, as `origins._dequantised` leaves it (its own models have half a gigabyte)."""
    with atomic_folder(folder / "w", replace=True) as temporary:
        (temporary / "model.safetensors").write_bytes(bytes(range(256)) * 20)
        (temporary / "tokenizer.json").write_bytes(b'{"a": 1}' * 20)
        files = {path.name: origins._checksum(path) for path in sorted(temporary.iterdir())}
        write_record(temporary / origins._MADE, {"files": files})


def _read_weights(folder: Path) -> Any:
    origins._checksums.cache_clear()  # as a new process
    return "whole" if origins._whole(folder / "w") else MISSING


def _write_run(folder: Path) -> None:
    node = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1", outputs=[])])
    write_text(folder / "07_a.ipynb", nbformat.writes(node))
    write_text(folder / "07_a.html", "<html>2</html>" * 9)
    files = runs.file_digests({name: folder / name for name in ("07_a.ipynb", "07_a.html")})
    write_record(folder / runs.FINISHED, {"notebook": "07_a", "content": "c0", "seconds": 1.5, "files": files})


def _read_run(folder: Path) -> Any:
    found = runs.run_in(folder, Path("07_a.ipynb"), "c0")
    return MISSING if found is None else found.seconds


def _write_baseline(folder: Path) -> None:
    metrics = {"accuracy": Expected(Metric(0.8125, 0.75, 0.9), "statistical", 0.0)}
    write_baseline(folder, Baseline({}, metrics))


def _write_trainer(folder: Path) -> None:
    """A checkpoint of transformers' Trainer with the mark that this package adds."""
    inner = folder / "checkpoint-4"
    inner.mkdir(exist_ok=True)
    (inner / "adapter_model.safetensors").write_bytes(hashlib.sha512(b"weights").digest() * 40)
    (inner / "optimizer.pt").write_bytes(hashlib.sha512(b"moments").digest() * 40)

    class State:
        global_step = 4
        output_dir = str(folder)

    MarkComplete().on_save(State, State, None)


def _read_trainer(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = last_checkpoint(folder)
    return MISSING if found is None else found.name


KINDS = (
    Kind("context", lambda f: _context().save(f / "a.safetensors"), "a.safetensors", _read_context),
    Kind("encoded group", _write_group, "a.safetensors", _read_group),
    Kind("sweep cell", _write_cell, "*.parquet", _read_cell),
    Kind("curve's results", lambda f: synthetic_curve(queries=20, ks=(8, 64)).save(f), "*.parquet", _read_curve),
    Kind("curve's manifest", lambda f: synthetic_curve(queries=20, ks=(8, 64)).save(f), "*.json", _read_curve),
    Kind("sweep manifest", _write_manifest, MANIFEST, read_manifest),
    Kind("task scores", _write_scores, "a.parquet", _read_scores),
    Kind("choice scores", _write_choices, "a.parquet", _read_choices),
    Kind("job status", _write_job, STATUS, _read_job),
    Kind("vote file", _write_votes, "votes.jsonl", _read_votes),
    Kind("stored picture", lambda f: ImageStore(f).write(_recipe(), _image(), None), "??/*.png", _read_picture),
    Kind("picture grid", _write_grid, "grid/pictures/*.png", _read_grid),
    Kind("picture grid's list", _write_grid, "grid/grid.json", _read_grid),
    Kind("cached rewards", lambda f: RewardCache(f / "a.sqlite").write({str(n): n / 7 for n in range(40)}),
         "a.sqlite", _read_rewards),
    Kind("emoji checkpoint", _write_checkpoint, "a.pt", _read_checkpoint, (Exception,)),
    Kind("trainer checkpoint", _write_trainer, "checkpoint-4/*", _read_trainer),
    Kind("converted weights", _write_weights, "w/*", _read_weights),
    Kind("run record", _write_run, runs.FINISHED, _read_run),
    Kind("executed notebook", _write_run, "07_a.*", _read_run),
    Kind("baseline", _write_baseline, "baseline.yaml", lambda f: repr(read_baseline(f))),
)  # fmt: skip
assert COMPLETE  # its file is among those of "trainer checkpoint"
