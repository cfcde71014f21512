"""Schedulers by name: those of diffusers that fit a pipeline and draw their noise from each picture's own generator."""

from typing import Any

import diffusers

SHORT_NAMES = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "pndm": "PNDMScheduler",
    "lms": "LMSDiscreteScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "lcm": "LCMScheduler",
}

# Its noise is one Brownian path for the whole batch, whatever the pictures' generators are.
_BATCH_NOISE = ("DPMSolverSDEScheduler",)


def scheduler_class(pipeline: Any, name: str | None) -> Any:
    """The diffusers class of a scheduler.

    Args:
        pipeline: a diffusers pipeline.
        name: one of `SHORT_NAMES`, or a class name of diffusers; None is the pipeline's own.

    Raises:
        ValueError: an unknown scheduler, one that does not fit the pipeline, or one whose noise depends on the batch.
    """
    own = pipeline.scheduler
    wanted = type(own).__name__ if name is None else SHORT_NAMES.get(name, name)
    if wanted in _BATCH_NOISE:
        raise ValueError(
            f"scheduler {wanted!r} draws one noise for a whole batch, so a picture would depend on its neighbours; "
            "use 'dpm++' or 'euler-a'"
        )
    if wanted == type(own).__name__:
        return type(own)
    fitting = {kind.__name__: kind for kind in own.compatibles}
    if "EulerDiscreteScheduler" in fitting:  # LCM reads the same schedule but does not list itself
        fitting["LCMScheduler"] = diffusers.LCMScheduler
    if wanted not in fitting:
        names = [short for short, kind in SHORT_NAMES.items() if kind in (*fitting, type(own).__name__)]
        raise ValueError(
            f"scheduler {name!r} is unknown or does not fit {type(pipeline).__name__} with {type(own).__name__}; "
            f"choose one of {', '.join(names or [type(own).__name__])}"
        )
    return fitting[wanted]


def make_scheduler(pipeline: Any, name: str) -> Any:
    """A fresh scheduler with the noise schedule of the pipeline's own; errors as for `scheduler_class`."""
    return scheduler_class(pipeline, name).from_config(pipeline.scheduler.config)
