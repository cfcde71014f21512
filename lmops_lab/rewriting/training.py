"""What every training on transformers' Trainer needs here: settings, checkpoints that are whole, curves, the result."""

import errno
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerState
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

from lmops_lab.digests import check_files, file_digests, read_record, write_record
from lmops_lab.files import atomic_file
from lmops_lab.rewriting.rewriter import Rewriter

COMPLETE = "complete"
_ADAPTER, _WHOLE = "adapter_model.safetensors", "model.safetensors"
# How the libraries that write checkpoints say that the disk took no more, each in its own words.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_WORDS = ("No space left", "File too large", "quota exceeded", "PytorchStreamWriter failed", "unexpected pos")


@dataclass(frozen=True)
class Lora:
    """A LoRA adapter's size.

    Attributes:
        rank, alpha: updates are alpha / rank * B A.
        modules: names of the layers that get one; "all-linear" for every linear layer but the output's.
    """

    rank: int = 8
    alpha: int = 16
    modules: str | tuple[str, ...] = "all-linear"
    dropout: float = 0.0

    def config(self) -> Any:
        """As PEFT's configuration."""
        LoraConfig = libraries()[1].LoraConfig  # noqa: N806 - the library's own name

        modules = self.modules if isinstance(self.modules, str) else list(self.modules)
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=modules,
            lora_dropout=self.dropout,
            task_type="CAUSAL_LM",
        )


@dataclass(frozen=True)
class Trained:
    """What a training left behind.

    Attributes:
        folder: the run; `rewriter` is the folder inside that `Rewriter.load` takes.
        curve: one row a logged step.
        steps: steps done in all.
    """

    folder: Path
    rewriter: Path
    curve: pd.DataFrame
    steps: int

    def load(self) -> Rewriter:
        """The trained rewriter."""
        return Rewriter.load(str(self.rewriter))


def libraries() -> tuple[Any, Any]:
    """The modules trl and peft.

    Raises:
        ImportError: they are not installed.
    """
    try:
        import peft
        import trl
    except ImportError as error:
        raise ImportError("training a rewriter needs trl and peft: pip install 'lmops-lab[rl]'") from error
    return trl, peft


class MarkComplete(TrainerCallback):  # type: ignore[misc]
    """Marks a checkpoint once all of it is written: a write that died half-way is never resumed from."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called after a checkpoint was written."""
        del control
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
        write_record(folder / COMPLETE, {"files": file_digests(files)})


class SeedEveryStep(TrainerCallback):  # type: ignore[misc]
    """Makes what a step samples depend on the seed and the step alone, so that a resumed run repeats it."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called before a step draws its samples."""
        del control
        torch.manual_seed(args.seed * 1_000_003 + state.global_step)


class Bar(ProgressCallback):  # type: ignore[misc]
    """A progress bar alone: the numbers of every step are in the curve, so none are printed."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Called with a step's numbers, which the parent class would print."""
        del args, state, control, logs


def last_checkpoint(folder: Path, record: str = COMPLETE) -> Path | None:
    """The latest checkpoint that was written to its end and is undamaged; damaged ones are passed over with a warning.

    Args:
        record: file of a checkpoint that holds the digests of its `files`; checkpoints are named `<word>-<step>`.
    """
    complete = [path.parent for path in folder.glob(f"*-*/{record}")]
    for checkpoint in sorted(complete, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        try:
            check_files(checkpoint, read_record(checkpoint / record)["files"])
        except (OSError, ValueError, KeyError) as error:
            warnings.warn(f"checkpoint {checkpoint.name} is passed over: {error}", stacklevel=2)
        else:
            return checkpoint
    return None


def trainer_settings(folder: Path, steps: int, save_every: int, seed: int) -> dict[str, Any]:
    """Settings that trl's trainers share, with those of its defaults undone that bite on a laptop.

    bfloat16 and gradient checkpointing are on by default there; on a processor both only cost time.
    """
    return {
        "output_dir": str(folder),
        "max_steps": steps,
        "save_steps": save_every,
        "save_total_limit": 2,
        "logging_steps": 1,
        "seed": seed,
        "data_seed": seed,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "dataloader_pin_memory": False,
        "lr_scheduler_type": "constant",
        # Without it, a run that goes on forgets how long it has not improved, and stops later than one in one piece.
        "restore_callback_states_from_checkpoint": True,
    }


def train_on(trainer: Any, folder: Path) -> pd.DataFrame:
    """Train, going on from the last whole checkpoint in `folder`; returns the logged rows.

    A training that has come to its end is loaded, not trained: transformers would take one more step.

    Raises:
        OSError: the disk is full; the last whole checkpoint stays and the same call goes on from it.
    """
    for printing in (DEFAULT_PROGRESS_CALLBACK, ProgressCallback, PrinterCallback):
        trainer.remove_callback(printing)
    trainer.add_callback(Bar())
    trainer.add_callback(MarkComplete())
    last = last_checkpoint(folder)
    state = TrainerState.load_from_json(str(last / "trainer_state.json")) if last else None
    if last and state and _ended(state, trainer.args.max_steps):
        _load_weights(trainer.model, folder, state, last)
        trainer.state = state
    else:
        with explained(folder, lambda: last_checkpoint(folder)):
            trainer.train(resume_from_checkpoint=str(last) if last else None)
    rows = [row for row in trainer.state.log_history if "train_runtime" not in row]  # the last one sums a call up
    return pd.DataFrame(rows)


def write_curve(curve: pd.DataFrame, path: Path) -> None:
    """Keep a learning curve as CSV."""
    with atomic_file(path) as temporary:
        curve.to_csv(temporary, index=False)


@contextmanager
def explained(folder: Path, last: Callable[[], Path | None]) -> Iterator[None]:
    """Say of a full disk that it is one, which checkpoint stays, and what to do.

    Args:
        last: the last whole checkpoint, asked for when the disk is full.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        full = getattr(error, "errno", None) in _FULL or any(words in str(error) for words in _FULL_WORDS)
        if not full:
            raise
        kept = last()
        where = f"the last whole checkpoint is {kept.name!r}" if kept else "no checkpoint was written yet"
        raise OSError(
            errno.ENOSPC, f"the disk is full; {where}. Make room and run the same call again: it goes on", str(folder)
        ) from error


def _ended(state: TrainerState, steps: int) -> bool:
    """Whether a training took all its steps, or has not improved for as long as it may."""
    callbacks: Any = state.stateful_callbacks or {}
    early = callbacks.get("EarlyStoppingCallback")
    if isinstance(early, dict):
        waited = early["attributes"]["early_stopping_patience_counter"]
        if waited >= early["args"]["early_stopping_patience"]:
            return True
    return int(state.global_step) >= steps


def _load_weights(model: Any, folder: Path, state: TrainerState, last: Path) -> None:
    """The weights that the end of the training left: the best ones where it looked for them."""
    best = folder / Path(state.best_model_checkpoint).name if state.best_model_checkpoint else last
    if (best / _ADAPTER).is_file():
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model, load_file(best / _ADAPTER))
    else:  # weights that are tied to others are not stored
        model.load_state_dict(load_file(best / _WHOLE), strict=False)
