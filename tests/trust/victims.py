"""Small real jobs that are killed: each does work that lasts about a second, keeps what is finished, and can go on.

A job gets two folders: `home`, made once, with the models and data it needs, and the one that it works in.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import torch
from torch import nn

from lmops_lab import encode_groups, icl_curve, load_model, load_task
from lmops_lab.emojiworld import loop
from lmops_lab.emojiworld.recipe import Length
from lmops_lab.files import file_hash
from lmops_lab.generation.images import ImageGenerator
from lmops_lab.generation.store import ImageStore
from lmops_lab.icl.cells import CellStore
from lmops_lab.icl.results import CELLS, Sweep
from lmops_lab.icl.sweep import run_sweep
from lmops_lab.rewards.cache import RewardCache
from lmops_lab.runs.grid import run_grid
from tests.tiny import tiny_tokenizer_folder
from tests.tiny_pictures import tiny_pipeline_folder
from widgets.vote_file import VoteFile
from widgets.votes import Vote

PAIRS, CONTEXTS, SCORES, STEPS = 150, 20, 60, 300


@dataclass(frozen=True)
class Victim:
    """A job to kill.

    Attributes:
        run: does the work, or what is left of it.
        pieces: name -> identity of each finished piece; done again, it would have another identity.
        result: what came out, in plain values that two runs of the same work share to the last bit.
        slow: minutes with its imports, so for the nightly tier.
    """

    name: str
    run: Callable[[Path, Path], None]
    pieces: Callable[[Path], dict[str, str]]
    result: Callable[[Path], Any]
    slow: bool = False


def prepare(home: Path) -> None:
    """Write the models and data that the jobs read."""
    tiny_tokenizer_folder(home, "llama")
    tiny_pipeline_folder(home)
    random = np.random.default_rng(0)
    (home / "letters").mkdir()
    for split in ("train", "test"):
        rows = [{"text": "".join(random.choice(list("abcd "), 6)), "label": ("no", "yes")[i % 2]} for i in range(40)]
        (home / "letters" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    node = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    node.cells = [
        nbformat.v4.new_code_cell("number = 2\noutput = None", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("import json, time\nfor i in range(9):\n    time.sleep(0.04)\n    print(number**i)"),
        nbformat.v4.new_code_cell("with open(f'{output}/metrics.json', 'w') as f: json.dump({'a': {'value': 4}}, f)"),
    ]
    nbformat.write(node, home / "07_powers.ipynb")


def _files(folder: Path, pattern: str) -> dict[str, str]:
    """Finished files by name: inode and content. A file that is written again is another one of the same content."""
    found = [path for path in folder.glob(pattern) if not path.name.startswith(".")]
    return {str(path.relative_to(folder)): f"{path.stat().st_ino} {file_hash(path)}" for path in found}


def _hash(*tensors: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def sweep(home: Path, folder: Path) -> None:
    """A grid of two methods on a tiny model."""
    grid = {"model": str(home / "llama"), "dtype": "float32", "task": str(home / "letters"), "k": [0, 2, 4, 8]}
    run_sweep({**grid, "seed": [1, 2, 3], "queries": 20, "group_size": 4}, folder, threads=1, progress=False)


def sweep_result(folder: Path) -> Any:
    """All scores, and the table that the sweep wrote."""
    store = CellStore(folder / CELLS)
    scores = {name: store.read(name).scores.tolist() for name, _, _ in Sweep(folder).cells()}
    return scores, (folder / "table.csv").read_text()


def curve(home: Path, folder: Path) -> None:
    """An accuracy curve with its finished points kept."""
    lm = load_model(str(home / "llama"), dtype="float32", device="cpu")
    made = icl_curve(
        lm, load_task(str(home / "letters")), k=[0, 2, 8], seeds=4, queries=20, group_size=4, folder=folder / "cells",
        progress=False,
    )  # fmt: skip
    made.save(folder / "curve")


def curve_result(folder: Path) -> Any:
    """The curve's scores and figure; its manifest also holds how long everything took."""
    return file_hash(folder / "curve" / "results.parquet"), file_hash(folder / "curve" / "curve.svg")


def contexts(home: Path, folder: Path) -> None:
    """Encode once, then save one context after another (a few megabytes each)."""
    lm = load_model(str(home / "llama"), dtype="float32", device="cpu")
    encoded = encode_groups(lm, ["ab ab ab ab " * 8] * 64, group_size=4, progress=False)
    for number in range(CONTEXTS):
        path = folder / f"{number}.safetensors"
        if path.exists():
            lm.load_context(path)
        else:
            encoded.save(path)


def contexts_result(folder: Path) -> Any:
    """Hashes of all files: a context depends on nothing but its demonstrations."""
    return [file_hash(folder / f"{number}.safetensors") for number in range(CONTEXTS)]


def pictures(home: Path, folder: Path) -> None:
    """A grid of pictures from a random pipeline."""
    store = ImageStore(folder)
    generator = ImageGenerator.load(str(home / "stable-diffusion"), dtype="float32", device="cpu", store=store)
    generator.generate(["a cat", "the dog"], seeds=6, steps=2, batch_size=1, progress=False)


def pictures_result(folder: Path) -> Any:
    """Hashes of all picture files."""
    return sorted((path.name, file_hash(path)) for path in folder.glob("??/*.png"))


def training(home: Path, folder: Path) -> None:
    """The emoji world's training loop on a small network, with a checkpoint ten times a second."""
    del home
    loop._SAVE_EVERY_SECONDS = 0.1
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))

    def loss(generator: torch.Generator) -> torch.Tensor:
        inputs = torch.randn(64, 64, generator=generator)
        return (model(inputs).squeeze(-1) - inputs.sum(-1)).square().mean()

    length = Length(STEPS, 64, 1e-2)
    loop.train_stage(model, loss, length, path=folder / "x.pt", fingerprint="one", seed=1, progress=False)


def training_pieces(folder: Path) -> dict[str, str]:
    """The checkpoint has to be whole at any moment; the steps in it are the finished pieces."""
    path = folder / "x.pt"
    losses = torch.load(path, weights_only=True)["losses"] if path.exists() else []
    return {str(step): repr(loss) for step, loss in enumerate(losses)}


def training_result(folder: Path) -> Any:
    """Averaged weights and the loss of every step."""
    content = torch.load(folder / "x.pt", weights_only=True)
    return _hash(*content["average"].values()), content["losses"], content["step"]


def notebook(home: Path, folder: Path) -> None:
    """A notebook run, as `lmops-lab run --grid` makes it."""
    outcomes = run_grid([(home / "07_powers.ipynb", {"number": 3})], folder)
    assert outcomes[0].run is not None, outcomes[0].error


def notebook_pieces(folder: Path) -> dict[str, str]:
    """A run is finished once its record is there."""
    return _files(folder, "*/*/run.json")


def notebook_result(folder: Path) -> Any:
    """Which runs there are, what they printed, their numbers."""
    made = []
    for path in sorted(folder.glob("*/*/07_powers.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        printed = [o.text for cell in cells if cell.cell_type == "code" for o in cell.outputs if "text" in o]
        made.append([path.parent.name, "".join(printed), (path.parent / "metrics.json").read_text()])
    return made


def votes(home: Path, folder: Path) -> None:
    """Vote after vote, each flushed to the disk."""
    del home
    file = VoteFile(folder / "votes.jsonl", "pairs")
    for number in range(len(file.read(PAIRS).votes), PAIRS):
        file.add(Vote(number, "left", number / 7))


def votes_pieces(folder: Path) -> dict[str, str]:
    """Whole lines."""
    path = folder / "votes.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return {str(number): line.decode() for number, line in enumerate(lines)}


def votes_result(folder: Path) -> Any:
    """What is read back."""
    return VoteFile(folder / "votes.jsonl", "pairs").read(PAIRS)


def rewards(home: Path, folder: Path) -> None:
    """Scores that are missing, one transaction each."""
    del home
    cache = RewardCache(folder / "rewards.sqlite")
    for number in range(SCORES):
        if cache.read([str(number)]) == [None]:
            cache.write({str(number): number / 7})


def rewards_pieces(folder: Path) -> dict[str, str]:
    """Scores that are there."""
    if not (folder / "rewards.sqlite").exists():
        return {}
    found = RewardCache(folder / "rewards.sqlite").read([str(n) for n in range(SCORES)])
    return {str(number): repr(score) for number, score in enumerate(found) if score is not None}


def supervised(home: Path, folder: Path) -> None:
    """Supervised training of a tiny rewriter, with a checkpoint every second step."""
    del home
    from lmops_lab.rewriting.corpus import Pair
    from lmops_lab.rewriting.decoding import Decoding
    from lmops_lab.rewriting.supervised import train_supervised
    from lmops_lab.rewriting.training import Lora
    from tests.rewriting.tiny_rewriters import byte_gpt2_folder

    base = folder / "base"
    if not (base / "tokenizer.json").exists():
        byte_gpt2_folder(base, spread=0.1)
    pairs = [Pair(c, f"{c}, 8k", "content", c) for c in "abcdefgh"]
    train_supervised(
        pairs, folder / "run", base=str(base), steps=12, batch=4, evaluate_every=2, lora=Lora(rank=4, alpha=8),
        decoding=Decoding(beams=2, max_new_tokens=8), learning_rate=1e-2,
    )  # fmt: skip


def supervised_result(folder: Path) -> Any:
    """Adapter weights and the losses."""
    from safetensors.torch import load_file

    weights = load_file(folder / "run" / "rewriter" / "adapter_model.safetensors")
    curve = (folder / "run" / "curve.csv").read_text().splitlines()
    column = curve[0].split(",").index("loss")
    return _hash(*weights.values()), [line.split(",")[column] for line in curve[1:-1]]


VICTIMS = {
    victim.name: victim
    for victim in (
        Victim("sweep", sweep, lambda folder: _files(folder, "cells/*.parquet"), sweep_result),
        Victim("curve with its cells", curve, lambda folder: _files(folder, "cells/*.parquet"), curve_result),
        Victim("context saves", contexts, lambda folder: _files(folder, "*.safetensors"), contexts_result),
        Victim("pictures into a store", pictures, lambda folder: _files(folder, "??/*.png"), pictures_result),
        Victim("training loop", training, training_pieces, training_result),
        Victim("notebook run", notebook, notebook_pieces, notebook_result),
        Victim("votes", votes, votes_pieces, votes_result),
        Victim("cached rewards", rewards, rewards_pieces, rewards_pieces),
        Victim("supervised training", supervised, lambda _: {}, supervised_result, slow=True),
    )
}


def run(name: str, home: str, folder: str) -> None:
    """What the child process does."""
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(Path(folder).with_suffix(".log"), "a")  # noqa: SIM115, PTH123 - to the end
    VICTIMS[name].run(Path(home), Path(folder))
