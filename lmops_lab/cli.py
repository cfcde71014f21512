"""The command line: `lmops-lab run 01 -p k=[0,16,256]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from papermill.exceptions import PapermillExecutionError

from lmops_lab.icl.commands import add_commands
from lmops_lab.runs.notebook import find_notebook, next_folder, run_notebook
from lmops_lab.runs.parameters import check_parameters, parse_value, read_parameters


def main(arguments: Sequence[str] | None = None) -> int:  # noqa: PLR0911 - one a way to end
    """Parse the command line and run it; errors of use end with one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="lmops-lab", description="Prompt research in notebooks.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run a notebook with parameters and keep everything it makes")
    run.add_argument("notebook", help="path, or the beginning of a name in notebooks/ such as 01")
    run.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
    run.add_argument("--folder", type=Path, help="where the run goes; default runs/<notebook>/<number>")
    run.add_argument("--quiet", action="store_true", help="no progress bar")
    show = commands.add_parser("parameters", help="list a notebook's parameters and their defaults")
    show.add_argument("notebook")
    add_commands(commands)
    options = parser.parse_args(arguments)
    try:
        if hasattr(options, "answer"):
            print(options.answer(options))
            return 0
        notebook = find_notebook(options.notebook)
        if options.command == "parameters":
            for name, parameter in read_parameters(notebook).items():
                print(f"{name} = {parameter.default!r}")
            return 0
        given = dict(_parse(text) for text in options.parameter)
        check_parameters(read_parameters(notebook), given)
        folder = options.folder or next_folder(Path("runs"), notebook, given)
        done = run_notebook(notebook, given, folder, progress=not options.quiet)
    except (ValueError, OSError) as error:
        print(f"lmops-lab: {error}", file=sys.stderr)
        return 2
    except PapermillExecutionError as error:
        print(
            f"lmops-lab: {error.ename} in cell {error.exec_count} of {notebook.name}: {error.evalue}", file=sys.stderr
        )
        print(f"  the notebook up to there is in {folder}; the same command continues", file=sys.stderr)
        return 1
    except RuntimeError as error:
        print(f"lmops-lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nlmops-lab: stopped; finished points are kept, the same command continues", file=sys.stderr)
        return 130
    print(done.report())
    return 0


def _parse(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"parameter {text!r} is not of the form NAME=VALUE")
    return name, parse_value(value)


if __name__ == "__main__":
    sys.exit(main())
