"""The command line: `lmops-lab run 01 -p k=[0,16,256]`.

What a command needs is imported when that command is asked for: notebooks' libraries take seconds to load, and
`lmops-lab --help`, `sweep` and `results` use none of them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmops_lab.icl.commands import add_commands

if TYPE_CHECKING:
    from lmops_lab.runs.notebook import Run


def _parser(asked: Sequence[str]) -> argparse.ArgumentParser:
    """All commands with a line of help each, and the options of the one asked for."""
    parser = argparse.ArgumentParser(prog="lmops-lab", description="Prompt research in notebooks.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run a notebook with parameters and keep everything it makes")
    regress = commands.add_parser("regress", help="run notebooks and compare their numbers with the baselines")
    notebooks = commands.add_parser("notebooks", help="check committed notebooks, or rebuild their outputs")
    show = commands.add_parser("parameters", help="list a notebook's parameters and their defaults")
    show.add_argument("notebook")
    add_commands(commands)
    rewriter = commands.add_parser("train-rewriter", help="train a prompt rewriter: supervised, then by reinforcement")
    if "train-rewriter" in asked:
        from lmops_lab.rewriting import commands as training

        training.add_arguments(rewriter)
    commands.add_parser("train-emoji-world", help="train the offline picture world's models", add_help=False)
    if "run" in asked:
        _add_run(run)
    if "regress" in asked:
        from lmops_lab.runs import report

        report.add_arguments(regress)
        regress.set_defaults(end=report.main)
    if "notebooks" in asked:
        from lmops_lab.runs import hygiene

        hygiene.add_arguments(notebooks)
        notebooks.set_defaults(end=hygiene.main)
    return parser


def _add_run(run: argparse.ArgumentParser) -> None:
    from lmops_lab.runs import grid

    run.add_argument("notebook", nargs="?", help="path, or the beginning of a name in notebooks/ such as 01")
    run.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
    run.add_argument("--folder", type=Path, help="where the run goes; default runs/<notebook>/<number>")
    run.add_argument("--quiet", action="store_true", help="no progress bar")
    run.add_argument("--force", action="store_true", help="run again what has been run before")
    run.add_argument("--hide-code", action="store_true", help="leave the code out of the HTML page")
    grid.add_arguments(run)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run it; errors of use end with one line and exit code 2."""
    try:
        return _answer(list(sys.argv[1:] if arguments is None else arguments))
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        print(f"lmops-lab: {error}", file=sys.stderr)
        return 1 if isinstance(error, RuntimeError) else 2
    except KeyboardInterrupt:
        print("\nlmops-lab: stopped; finished points are kept, the same command continues", file=sys.stderr)
        return 130


def _answer(arguments: list[str]) -> int:
    if arguments[:1] == ["train-emoji-world"]:  # its options are its own; torch is loaded only for it
        from lmops_lab.emojiworld.__main__ import main as train

        return train(arguments[1:])
    options = _parser(arguments[:1]).parse_args(arguments)
    if hasattr(options, "answer"):
        print(options.answer(options))
        return 0
    if hasattr(options, "end"):
        return int(options.end(options))
    if options.command == "run":
        return _run(options)
    from lmops_lab.runs.notebook import find_notebook
    from lmops_lab.runs.parameters import read_parameters

    for name, parameter in read_parameters(find_notebook(options.notebook)).items():
        print(f"{name} = {parameter.default!r}")
    return 0


def _run(options: argparse.Namespace) -> int:
    from papermill.exceptions import PapermillExecutionError

    from lmops_lab.runs import grid
    from lmops_lab.runs.notebook import find_notebook, next_folder, run_notebook, with_page
    from lmops_lab.runs.parameters import check_parameters, read_parameters

    if options.grid or not options.notebook:
        return grid.main(options)
    notebook = find_notebook(options.notebook)
    given = dict(_parse(text) for text in options.parameter)
    check_parameters(read_parameters(notebook), given)
    done = None if options.force else _before(notebook, given, options.folder)
    if done:
        done = with_page(done, show_code=not options.hide_code)
    else:
        folder = options.folder or next_folder(Path("runs"), notebook, given)
        try:
            done = run_notebook(notebook, given, folder, progress=not options.quiet, show_code=not options.hide_code)
        except PapermillExecutionError as error:
            where = f"{error.ename} in cell {error.exec_count} of {notebook.name}: {error.evalue}"
            print(f"lmops-lab: {where}", file=sys.stderr)
            print(f"  the notebook up to there is in {folder}; the same command continues", file=sys.stderr)
            return 1
    print(done.report())
    return 0


def _before(notebook: Path, given: dict[str, object], folder: Path | None) -> "Run | None":
    """The finished run of the same content: in the folder asked for, or else under runs/."""
    from lmops_lab.runs.notebook import finished_run, identity, run_in

    if folder is None:
        return finished_run(Path("runs"), notebook, given)
    return run_in(folder, notebook, identity(notebook, given))


def _parse(text: str) -> tuple[str, object]:
    from lmops_lab.runs.parameters import parse_value

    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"parameter {text!r} is not of the form NAME=VALUE")
    return name, parse_value(value)


if __name__ == "__main__":
    sys.exit(main())
