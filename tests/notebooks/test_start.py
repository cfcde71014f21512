"""What is typed often starts at once: the command line loads notebooks' libraries for the commands that need them."""

import subprocess
import sys

HEAVY = ("nbformat", "papermill", "nbconvert", "torch", "transformers", "pandas", "pyarrow")
CODE = """
import sys
from lmops_lab import cli
try:
    cli.main({arguments})
except SystemExit:
    pass
print(",".join(name for name in {heavy} if name in sys.modules), file=sys.stderr)
"""


def loaded(*arguments):
    code = CODE.format(arguments=list(arguments), heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout, done.stderr.strip().splitlines()[-1:]


def test_help_names_every_command_and_loads_nothing_heavy():
    out, heavy = loaded("--help")
    for command in ("run", "regress", "notebooks", "parameters", "sweep", "results", "train-emoji-world"):
        assert f"\n    {command} " in out
    assert heavy in ([], [""])


def test_help_of_a_sweep_loads_nothing_heavy_either():
    _, heavy = loaded("sweep", "--help")
    assert heavy in ([], [""])


def test_a_command_that_runs_notebooks_still_has_its_options():
    out, _ = loaded("run", "--help")
    assert "--grid" in out
    assert "--hide-code" in out
