"""Seeds: the same for all prompts (common random numbers), or a list of its own for every prompt."""

from collections.abc import Sequence
from typing import Any

from lmops_lab.generation.pictures import Axis
from lmops_lab.generation.recipe import check_seed

Seeds = int | Sequence[int] | Sequence[Sequence[int]]


def seed_axis(seeds: Seeds, prompts: int) -> tuple[Axis, list[list[int]]]:
    """The seeds of every prompt, and the axis they make.

    Raises:
        ValueError: no seeds, a seed twice, a negative seed, lists of unequal length or not one list per prompt.
    """
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        if seeds < 1:
            raise ValueError(f"seeds is {seeds}; give how many (1, 2, ...) or a list of seeds")
        seeds = range(1, seeds + 1)
    if isinstance(seeds, bool | str) or not hasattr(seeds, "__len__"):
        raise ValueError(f"seeds is {seeds!r}; give how many (1, 2, ...) or a list of seeds")
    given: list[Any] = list(seeds)
    shared = not any(hasattr(seed, "__len__") for seed in given)
    if not shared and not all(hasattr(seed, "__len__") for seed in given):
        raise ValueError(f"seeds mixes numbers and lists, {given}; give one list for all prompts, or one per prompt")
    lists = [given] if shared else [list(row) for row in given]
    rows = [[check_seed(seed) for seed in row] for row in lists]
    for row in rows:
        if not row or len(set(row)) < len(row):
            raise ValueError(f"seeds are {row}; give at least one, each once")
    if shared:
        return Axis("seed", tuple(rows[0])), rows * prompts
    if len(rows) != prompts:
        raise ValueError(f"there are {len(rows)} lists of seeds for {prompts} prompts; give one list per prompt")
    lengths = [len(row) for row in rows]
    if len(set(lengths)) > 1:
        raise ValueError(f"the lists of seeds have unequal lengths, {lengths}; give every prompt as many")
    return Axis("draw", tuple(range(1, lengths[0] + 1))), rows
