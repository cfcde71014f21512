"""Loading a diffusers pipeline and running it once, with a generator of its own for every picture."""

import contextlib
import inspect
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import diffusers
import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from tqdm.auto import tqdm

from lmops_lab.generation.recipe import Recipe
from lmops_lab.generation.schedulers import make_scheduler
from lmops_lab.generation.sources import PipelineSource, unavailable

_TEXTS = "prompt_embeds"

Pixels = Float[np.ndarray, "pictures height width 3"]


class GenerationCancelledError(RuntimeError):
    """Somebody set the `cancel` event; finished pictures are in the store."""


def load_pipeline(name: str, source: PipelineSource, dtype: torch.dtype) -> Any:
    """The text-to-image pipeline at a source, on the CPU. Only safetensors are read.

    Raises:
        FileNotFoundError: it cannot be loaded.
        ValueError: it does not draw from text.
    """
    with quiet():
        try:
            return diffusers.AutoPipelineForText2Image.from_pretrained(
                source.path,
                revision=source.hub_revision,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=source.weight_bytes is not None,
            )
        except ValueError as error:
            if "AutoPipeline" not in str(error):
                raise FileNotFoundError(unavailable(name, error)) from error
            raise ValueError(f"pipeline {name!r} does not draw pictures from text: {error}") from error
        except (OSError, SafetensorError, RuntimeError) as error:
            raise FileNotFoundError(unavailable(name, error)) from error


def run_pipeline(
    pipeline: Any,
    batch: Sequence[Recipe],
    cancel: threading.Event | None = None,
    bar: "tqdm[Any] | None" = None,
) -> tuple[Pixels, list[bool | None]]:
    """Draw recipes that differ in prompt, negative prompt and seed only, in one batch.

    After the guided steps the scale is 1 and every step one pass.

    Returns:
        Pixels between 0 and 1, before they are rounded to 8 bits, and the safety checker's verdicts (None: there is
        none).

    Raises:
        GenerationCancelledError: `cancel` was set.
    """
    first = batch[0]

    def after_step(_pipeline: Any, step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        stop_if(cancel)
        if bar is not None:
            bar.set_postfix_str(f"batch of {len(batch)}, step {step + 1}/{pipeline.num_timesteps}")
        if first.guidance > 1 and step + 1 == first.guided_steps < first.steps:
            # diffusers' own recipe for dynamic guidance: from here on only the half with the prompt goes on.
            values[_TEXTS] = values[_TEXTS].chunk(2)[1]
            pipeline._guidance_scale = 1.0
        return values

    stop_if(cancel)
    accepted = inspect.signature(pipeline.__call__).parameters
    options: dict[str, Any] = {
        "prompt": [one.prompt for one in batch],
        "generator": [torch.Generator().manual_seed(one.seed) for one in batch],
        "num_inference_steps": first.steps,
        "guidance_scale": first.guidance,
        "width": first.width,
        "height": first.height,
        "output_type": "np",
    }
    if "negative_prompt" in accepted:
        options["negative_prompt"] = [one.negative_prompt for one in batch]
    if "callback_on_step_end" in accepted:
        options["callback_on_step_end"] = after_step
        if first.guided_steps < first.steps:
            options["callback_on_step_end_tensor_inputs"] = ["latents", _TEXTS]
    own = pipeline.scheduler
    pipeline.scheduler = make_scheduler(pipeline, first.scheduler)
    try:
        with quiet(), _exact(pipeline.dtype):
            made = pipeline(**options)
    finally:
        pipeline.scheduler = own
    pixels = np.asarray(made.images, dtype=np.float32)
    verdicts = getattr(made, "nsfw_content_detected", None)
    return pixels, [None] * len(batch) if verdicts is None else [bool(verdict) for verdict in verdicts]


def can_end_guidance(pipeline: Any) -> bool:
    """Whether guidance can be switched off between two steps: the pipeline hands its texts out and reads the scale."""
    return (
        _TEXTS in getattr(pipeline, "_callback_tensor_inputs", ())
        and "negative_" + _TEXTS in pipeline._callback_tensor_inputs
        and isinstance(getattr(type(pipeline), "do_classifier_free_guidance", None), property)
        and not hasattr(pipeline, "text_encoder_2")  # whose pooled texts would have to be halved too
    )


def stop_if(cancel: threading.Event | None) -> None:
    """Stop here if the event is set.

    Raises:
        GenerationCancelledError: it is.
    """
    if cancel is not None and cancel.is_set():
        raise GenerationCancelledError("drawing was cancelled")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the libraries' bars and notes: this module says what matters, once."""
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    logs: tuple[Any, ...] = (diffusers_log, transformers_log)
    levels = [log.get_verbosity() for log in logs]
    shown = [log.is_progress_bar_enabled() for log in logs]
    for log in logs:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, level, bar in zip(logs, levels, shown, strict=True):
            log.set_verbosity(level)
            if bar:
                log.enable_progress_bar()


@contextlib.contextmanager
def _exact(dtype: torch.dtype) -> Iterator[None]:
    """Without TF32, whose rounding depends on the batch, where float32 was asked for."""
    if dtype != torch.float32 or not torch.cuda.is_available():
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
