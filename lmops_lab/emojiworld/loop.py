"""One training loop for every stage: seeded by step, averaged weights, checkpoints that continue exactly.

Everything random in a step comes from a generator seeded with (seed, stage, step). So a checkpoint needs no state of a
generator, and training that was interrupted gives bit for bit what uninterrupted training gives.
"""

import math
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lmops_lab.digests import check_sealed, seal_zip
from lmops_lab.emojiworld.recipe import Length
from lmops_lab.files import atomic_file

LossFunction = Callable[[torch.Generator], Tensor]
_SAVE_EVERY_SECONDS = 120.0
_WARM_UP, _LONGEST_WARM_UP, _LAST_RATE = 0.02, 100, 0.05
_EMA_DECAY = 0.999


@dataclass
class Progress:
    """How far a stage has come.

    Attributes:
        step: steps taken, over all runs.
        steps: steps wanted.
        losses: loss of every step.
        seconds: training time, over all runs.
    """

    step: int
    steps: int
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether all wanted steps are taken."""
        return self.step >= self.steps


def learning_rate(step: int, length: Length) -> float:
    """Rises linearly over the first 2 % of the steps (at most 100), then falls along a cosine to 5 % of its height.

    >>> [round(learning_rate(step, Length(100, 1, 1.0)), 3) for step in (0, 1, 2, 51, 100)]
    [0.5, 1.0, 1.0, 0.525, 0.05]
    """
    warm_up = max(1, min(_LONGEST_WARM_UP, round(_WARM_UP * length.steps)))
    if step < warm_up:
        return length.rate * (step + 1) / warm_up
    done = (step - warm_up) / max(1, length.steps - warm_up)
    return length.rate * (_LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * done)) / 2)


def step_generator(seed: int, stage: str, step: int) -> torch.Generator:
    """The generator of one step of one stage."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed}/{stage}/{step}".encode()) + (seed << 32))


def train_stage(
    model: nn.Module,
    loss: LossFunction,
    length: Length,
    *,
    path: Path,
    fingerprint: str,
    seed: int,
    minutes: float = math.inf,
    ema: bool = True,
    progress: bool = True,
) -> Progress:
    """Train `model` in place until its steps or this run's minutes are used up, and leave it with its averaged weights.

    A checkpoint at `path` is continued. It is written every two minutes, at the end, and after Ctrl-C (which ends the
    step at hand first; a second one ends at once and leaves the checkpoint before).

    Args:
        loss: the loss of one batch, everything random drawn from the generator it is given.
        fingerprint: of the recipe; a checkpoint of another is refused.
        minutes: of this run; what is missing is left to the next.
        ema: whether the averaged weights are put into the model in the end (or the last ones).

    Raises:
        ValueError: the checkpoint belongs to another recipe or is damaged, or the minutes are not positive.
        FloatingPointError: the loss is not finite.
        KeyboardInterrupt: after Ctrl-C, when the checkpoint is written.
    """
    if not minutes > 0:
        raise ValueError(f"minutes={minutes} must be positive")
    name = path.stem
    optimiser = torch.optim.AdamW(model.parameters(), lr=length.rate, betas=(0.9, 0.99), weight_decay=0.01)
    average = {key: value.detach().clone() for key, value in model.state_dict().items()}
    state = Progress(0, length.steps)
    if path.is_file():
        state, average = _load(path, model, optimiser, fingerprint)
        state.steps = length.steps
    started = saved = time.monotonic()
    before = state.seconds
    bar = tqdm(total=length.steps, initial=state.step, desc=name, unit="step", disable=not progress)
    model.train()
    with bar, _interruptible() as interrupted:
        while not state.finished:
            value = _step(
                model, optimiser, loss, learning_rate(state.step, length), step_generator(seed, name, state.step)
            )
            state.losses.append(value)
            state.step += 1
            _update_average(average, model, state.step)
            now = time.monotonic()
            state.seconds = before + now - started
            bar.update()
            bar.set_postfix(loss=f"{sum(state.losses[-50:]) / len(state.losses[-50:]):.4f}")
            out_of_time = now - started >= 60 * minutes
            if now - saved >= _SAVE_EVERY_SECONDS or out_of_time or interrupted.is_set() or state.finished:
                _save(path, model, optimiser, average, state, fingerprint)
                saved = now
            if interrupted.is_set():
                raise KeyboardInterrupt(f"stage {name} is saved after step {state.step}; the same command continues")
            if out_of_time:
                break
    if ema:
        model.load_state_dict(average)
    model.eval()
    return state


def read_curve(path: Path, window: int = 50) -> pd.DataFrame:
    """The loss curve of a checkpoint, averaged over windows of steps: columns step and loss."""
    losses = pd.Series(_read(path)["losses"])
    means = losses.groupby(losses.index // window).mean()
    return pd.DataFrame({"step": (means.index + 1) * window, "loss": means.to_numpy()})


def read_progress(path: Path, steps: int) -> Progress:
    """How far the checkpoint at `path` has come towards `steps`; step 0 where there is none."""
    if not path.is_file():
        return Progress(0, steps)
    content = _read(path)
    return Progress(content["step"], steps, content["losses"], content["seconds"])


def load_average(path: Path, model: nn.Module | None, fingerprint: str = "") -> None:
    """Put a checkpoint's averaged weights into `model`; with a fingerprint, check that it is the checkpoint's.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: the checkpoint belongs to another recipe.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}: stage {path.stem} has not been trained")
    content = _read(path)
    if fingerprint:
        _check(path, content["fingerprint"], fingerprint)
    if model is not None:
        model.load_state_dict(content["average"])


def _read(path: Path, *, mmap: bool = True) -> dict[str, Any]:
    """What a checkpoint holds; torch itself checks no sum. What is trained further must not stay in the file."""
    check_sealed(path, "delete it to begin this stage again, or put back a copy")
    return cast("dict[str, Any]", torch.load(path, weights_only=True, map_location="cpu", mmap=mmap))


def _check(path: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise ValueError(
            f"the checkpoint {path} was trained with settings or on models {found}, not {wanted}; "
            "use another folder, or delete the checkpoint to begin this stage again"
        )


def _step(
    model: nn.Module, optimiser: torch.optim.AdamW, loss: LossFunction, rate: float, generator: torch.Generator
) -> float:
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad(set_to_none=True)
    value = loss(generator)
    number = float(value.detach())
    if not math.isfinite(number):
        raise FloatingPointError(
            f"the loss became {number}; start this stage again with a lower learning rate than {rate:.1e}"
        )
    value.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return number


@torch.no_grad()
def _update_average(average: dict[str, Tensor], model: nn.Module, step: int) -> None:
    # Short memory in the beginning, where old weights are worth little.
    decay = min(_EMA_DECAY, (1 + step) / (10 + step))
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            average[key].lerp_(value, 1 - decay)
        else:
            average[key].copy_(value)


def _save(
    path: Path,
    model: nn.Module,
    optimiser: torch.optim.AdamW,
    average: dict[str, Tensor],
    state: Progress,
    fingerprint: str,
) -> None:
    content = {
        "fingerprint": fingerprint,
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "average": average,
        "step": state.step,
        "losses": state.losses,
        "seconds": state.seconds,
    }
    with atomic_file(path) as temporary:
        torch.save(content, temporary)
        seal_zip(temporary)


def _load(
    path: Path, model: nn.Module, optimiser: torch.optim.AdamW, fingerprint: str
) -> tuple[Progress, dict[str, Tensor]]:
    content = _read(path, mmap=False)
    _check(path, content["fingerprint"], fingerprint)
    model.load_state_dict(content["model"])
    optimiser.load_state_dict(content["optimiser"])
    return Progress(content["step"], content["step"], content["losses"], content["seconds"]), content["average"]


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C sets the event the first time; the second time it interrupts as usual."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    usual = signal.getsignal(signal.SIGINT)

    def stop(_number: int, _frame: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, stop)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, usual)
