"""`lmops-lab train-emoji-world`: draw the scenes, train the stages in as many runs as needed, measure, export."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lmops_lab.emojiworld.recipe import RECIPES, STAGES, Recipe, with_steps

if TYPE_CHECKING:
    from lmops_lab.emojiworld.train import Workshop

_FOLDER = Path("runs/emoji-world")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is not trained yet; errors of use end with one line and exit code 2, Ctrl-C with 130."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (ValueError, FileNotFoundError, RuntimeError, FloatingPointError) as error:
        print(f"train-emoji-world: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt as stop:
        print(f"\ntrain-emoji-world: stopped; {str(stop) or 'the last checkpoint is kept'}", file=sys.stderr)  # noqa: T201
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lmops-lab train-emoji-world", description=__doc__)
    parser.add_argument("--folder", type=Path, default=_FOLDER, help=f"where training is kept; default {_FOLDER}")
    parser.add_argument("--recipe", default="full", help="full, or smoke: seconds, for trying out the way")
    parser.add_argument("--length", type=float, default=1.0, help="times the recipe's steps; default 1")
    parser.add_argument("--scenes", type=int, help="number of training scenes; default the recipe's")
    parser.add_argument("--minutes", type=float, default=math.inf, help="of this run, for each stage; default no limit")
    parser.add_argument("--stages", nargs="+", help="only these; default all")
    parser.add_argument("--threads", type=int, help="processor threads; default torch's choice")
    parser.add_argument("--status", action="store_true", help="say how far the stages have come, train nothing")
    parser.add_argument("--export", type=Path, help="write the models into this folder, trained to the end or not")
    parser.add_argument("--curves", type=Path, help="write the loss curves into this .png or .svg file")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def _run(options: argparse.Namespace) -> int:
    recipe = _checked_recipe(options)
    # After the checks: torch takes seconds to load.
    import torch

    from lmops_lab.emojiworld.train import Workshop, train_world
    from lmops_lab.machine import keep_freed_memory

    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    workshop = Workshop(options.folder, recipe, progress=not options.quiet)
    if not options.status:
        train_world(workshop, options.stages or STAGES, options.minutes)
    status = workshop.status()
    for stage, done in status.items():
        print(f"{stage:12} step {done.step:6} of {done.steps:6}   {done.seconds / 3600:6.2f} h")  # noqa: T201
    if options.export or options.curves:
        _finish(workshop, options)
    elif not all(done.finished for done in status.values()):
        print("not finished: the same command continues")  # noqa: T201
    return 0


def _checked_recipe(options: argparse.Namespace) -> Recipe:
    if options.recipe not in RECIPES:
        raise ValueError(f"there is no recipe {options.recipe!r}; choose one of {', '.join(RECIPES)}")
    if not options.minutes > 0:
        raise ValueError(f"--minutes {options.minutes:g} must be positive")
    if options.threads is not None and options.threads < 1:
        raise ValueError(f"--threads {options.threads} must be at least 1")
    unknown = [stage for stage in options.stages or () if stage not in STAGES]
    if unknown:
        raise ValueError(f"there is no stage {unknown[0]!r}; the stages are {', '.join(STAGES)}")
    recipe = with_steps(RECIPES[options.recipe], options.length)
    return recipe if options.scenes is None else replace(recipe, scenes=options.scenes)


def _finish(workshop: "Workshop", options: argparse.Namespace) -> None:
    from lmops_lab.emojiworld.evaluate import measure, save_curves
    from lmops_lab.emojiworld.export import check_exportable, export

    if options.export:
        check_exportable(workshop, options.export)
    if options.curves:
        save_curves(workshop, options.curves)
    if options.export:
        figures = measure(workshop)
        size = export(workshop, options.export, evaluation=figures)
        print(json.dumps({**{name: round(value, 4) for name, value in figures.items()}, "weights_mb": round(size, 2)}))  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
