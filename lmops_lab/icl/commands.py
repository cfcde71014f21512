"""The subcommands `lmops-lab sweep` and `lmops-lab results`."""

import argparse
from pathlib import Path


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare both subcommands; `options.answer` is then the function that runs one and returns what to print."""
    sweep = commands.add_parser("sweep", help="run every cell of a grid that its folder does not hold yet")
    sweep.add_argument("grid", type=Path, help="YAML or JSON file with the grid, or the folder of an earlier sweep")
    sweep.add_argument("--folder", type=Path, help="where cells go; default runs/sweeps/<name of the grid file>")
    sweep.add_argument(
        "--only-missing",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep finished cells (default), or compute all anew",
    )
    sweep.add_argument("--dry-run", action="store_true", help="say what is to do, how long and how large; do nothing")
    sweep.add_argument("--status", action="store_true", help="say what a sweep's folder is doing; do nothing")
    sweep.add_argument("--background", action="store_true", help="run in a process that outlives this terminal")
    sweep.add_argument("--executor", default="local", help="local (default) or dask")
    sweep.add_argument("--scheduler", help="address of a Dask scheduler; default: a cluster on this machine")
    sweep.add_argument("--workers", type=int, default=2, help="processes of a Dask cluster on this machine")
    sweep.add_argument("--threads", type=int, help="threads of one model")
    sweep.add_argument("--quiet", action="store_true", help="no progress bar")
    sweep.set_defaults(answer=answer_sweep)
    results = commands.add_parser("results", help="ask finished cells in SQL (views: cells, scores, answers)")
    results.add_argument("sql", help="such as: select method, k, avg(correct::int) from answers group by all")
    results.add_argument("--folder", type=Path, action="append", help="may be repeated; default runs")
    results.add_argument("--format", default="text", help="text (default), csv or json")
    results.set_defaults(answer=answer_results)


def answer_sweep(options: argparse.Namespace) -> str:
    """`lmops-lab sweep`.

    Raises:
        ValueError, OSError: anything that cannot be run.
    """
    from lmops_lab.icl.grid import Grid
    from lmops_lab.icl.results import Sweep
    from lmops_lab.runs.jobs import Job, stop_on_signals

    executor = "dask" if options.scheduler else options.executor
    earlier = options.grid.is_dir()
    folder = options.folder or (options.grid if earlier else Path("runs") / "sweeps" / options.grid.stem)
    if options.status:
        return str(Job(folder).status())
    grid = Sweep(options.grid).grid if earlier else Grid.load(options.grid)
    if options.dry_run:
        from lmops_lab.icl.estimate import estimate
        from lmops_lab.icl.results import check_folder
        from lmops_lab.icl.sweep import plan_sweep

        check_folder(folder)
        plan = plan_sweep(grid)
        skipped = [f"skipped: {m}, {task}, {method}, k = {k}: {why}" for m, task, method, k, why in plan.skipped]
        return "\n".join([estimate(plan, folder).report(options.workers if executor == "dask" else 1), *skipped])
    from lmops_lab.icl.sweep import run_sweep, start_sweep

    if options.background:
        start_sweep(grid, folder, _again(options))
        return f"started in {folder}; watch it with: lmops-lab sweep {folder} --status"
    stop_on_signals()
    done = run_sweep(
        grid,
        folder,
        executor=executor,
        scheduler=options.scheduler,
        workers=options.workers,
        threads=options.threads,
        only_missing=options.only_missing,
        progress=not options.quiet,
    )
    return f"finished; the table is {done.folder / 'table.csv'}"


def _again(options: argparse.Namespace) -> list[str]:
    """The options of this call for the process that does the work."""
    arguments = ["--executor", options.executor, "--workers", str(options.workers)]
    arguments += ["--scheduler", options.scheduler] if options.scheduler else []
    arguments += ["--threads", str(options.threads)] if options.threads else []
    return [*arguments, "--only-missing" if options.only_missing else "--no-only-missing"]


def answer_results(options: argparse.Namespace) -> str:
    """`lmops-lab results`.

    Raises:
        ValueError, FileNotFoundError: SQL that is refused, or no finished cells.
    """
    from lmops_lab.icl.query import format_results

    return format_results(options.sql, options.folder or [Path("runs")], options.format)
