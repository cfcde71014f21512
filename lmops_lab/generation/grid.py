"""Grids over any axes: prompts, negative prompts, seeds, steps, guidance, schedulers and models."""

import itertools
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from lmops_lab.generation.images import ImageGenerator
from lmops_lab.generation.pictures import Axis, ImageGrid, Picture
from lmops_lab.generation.seeds import seed_axis

AXES = ("model", "prompt", "negative_prompt", "scheduler", "steps", "guidance", "guidance_end", "seed")


def draw_grid(
    generator: ImageGenerator | None,
    axes: Mapping[str, Sequence[Any]],
    *,
    batch_size: int | None = None,
    progress: bool = True,
    cancel: threading.Event | None = None,
    **fixed: Any,
) -> ImageGrid:
    """Draw every combination of the axes' points.

    Only what the store lacks is drawn: a longer axis, another axis order or a fresh sheet costs the new pictures alone.

    Args:
        generator: what draws; None where "model" is an axis.
        axes: points by name (see `AXES`), in the order of the grid, the last running fastest: {"prompt": [...],
            "guidance": [1, 4, 8], "seed": [1, 2]}. Points of "model" are `ImageGenerator`s, of "scheduler" names or
            None for the pipeline's own.
        batch_size, progress, cancel: see `ImageGenerator.generate`.
        fixed: the other arguments of `ImageGenerator.recipe`: prompt, seed (default 1), steps, guidance,
            guidance_end, scheduler, negative_prompt, size.

    Raises:
        ValueError: an unknown or empty axis, a point twice, or a value that cannot be drawn; before any slow work.
    """
    _check(generator, axes, fixed)
    points = {name: list(values) for name, values in axes.items()}
    if "seed" in points:
        points["seed"] = list(seed_axis(points["seed"], 1)[0].points)
    models: list[ImageGenerator] = points.get("model") or [generator]
    names = model_names(models)
    jobs: list[tuple[ImageGenerator, int, Any]] = []
    for place, combination in enumerate(itertools.product(*points.values())):
        settings = {"seed": 1, **fixed, **dict(zip(points, combination, strict=True))}
        model = settings.pop("model", generator)
        jobs.append((model, place, model.recipe(settings.pop("prompt"), settings.pop("seed"), **settings)))
    pictures: dict[int, Picture] = {}
    for model in models:
        own = [(place, recipe) for who, place, recipe in jobs if who is model]
        drawn = model.stream([recipe for _, recipe in own], batch_size=batch_size, progress=progress, cancel=cancel)
        for at, picture in drawn:
            pictures[own[at][0]] = picture
    shown = points | ({"model": names} if "model" in points else {})
    if "scheduler" in shown:
        shown["scheduler"] = [name or "own" for name in shown["scheduler"]]
    return ImageGrid(
        tuple(Axis(name, tuple(values)) for name, values in shown.items()),
        tuple(pictures[place] for place in range(len(jobs))),
    )


def model_names(models: Sequence[ImageGenerator]) -> list[str]:
    """Names that tell models apart: with their revision or number format where the name alone does not."""
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        names = [f"{model.name} ({model.revision})" for model in models]
    if len(set(names)) < len(names):
        names = [f"{model.name} ({model.revision}, {model.number_format.dtype})" for model in models]
    return names


def _check(generator: ImageGenerator | None, axes: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any]) -> None:
    unknown = [name for name in axes if name not in AXES]
    if unknown or not axes:
        raise ValueError(f"axes {list(axes)}: {unknown or 'none given'}; choose among {', '.join(AXES)}")
    known = {*AXES, "size"} - {"model"}
    surplus = [name for name in fixed if name not in known]
    if surplus:
        raise ValueError(f"{surplus} cannot be fixed; choose among {', '.join(sorted(known))}")
    for name, values in axes.items():
        _check_axis(name, values)
        if name in fixed:
            raise ValueError(f"{name!r} is an axis and fixed to {fixed[name]!r}; give it once")
    if ("model" in axes) == (generator is not None):
        raise ValueError("give either a generator or an axis 'model' of generators, not both or none of them")
    if "prompt" not in axes and "prompt" not in fixed:
        raise ValueError("there is no prompt: make it an axis, or fix it with prompt='...'")


def _check_axis(name: str, values: Sequence[Any]) -> None:
    if isinstance(values, str) or not hasattr(values, "__len__") or not len(values):
        raise ValueError(f"axis {name!r} is {values!r}; give a list with at least one point")
    for value in values:
        if list(values).count(value) > 1:
            raise ValueError(f"axis {name!r} has the point {value!r} twice; give each once")
        if name == "model" and not isinstance(value, ImageGenerator):
            raise ValueError(f"axis 'model' has the point {value!r}; give ImageGenerator objects")
