"""environment.yml, pyproject.toml and constraints.txt agree, and every import is declared."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES, EXTRAS = PROJECT["dependencies"], PROJECT["optional-dependencies"]
PINS = dict(
    line.strip().lower().split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line[:1] not in ("", "#")
)
CONDA_NAMES = {"pytorch": "torch"}
# The only package of a test, benchmark or notebook that is not in the index: installed by the Makefile.
OURS = {"lmops_lab", "widgets", "tests", "common"}


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def conda():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    return environment, {CONDA_NAMES.get(n, n): v for n, _, v in (entry.partition("=") for entry in plain)}


def imports(path):
    if path.suffix == ".ipynb":
        import nbformat

        cells = nbformat.read(path, as_version=4).cells
        lines = "\n".join(c.source for c in cells if c.cell_type == "code").splitlines()
        text = "\n".join(line for line in lines if not line.startswith("%"))
    else:
        text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def distributions(folders):
    found = {}
    for folder in folders:
        for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.ipynb")]:
            for name in imports(path):
                if name not in sys.stdlib_module_names and name not in OURS:
                    found.setdefault(name, path.relative_to(ROOT))
    return found


def test_every_dependency_is_pinned_exactly():
    declared = {canonical(name) for name in [*DEPENDENCIES, *sum(EXTRAS.values(), [])]}
    assert declared <= {canonical(name) for name in PINS}
    assert all(re.fullmatch(r"[a-z0-9.!+]+", pin) for pin in PINS.values())


def test_conda_names_the_same_packages_and_versions():
    environment, packages = conda()
    python = packages.pop("python")
    packages.pop("pip")
    assert PROJECT["requires-python"] == f">={python}"
    assert {canonical(n) for n in packages} == {canonical(n) for n in [*DEPENDENCIES, *EXTRAS["test"]]}
    assert packages == {name: PINS[name.lower()] for name in packages}
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    assert environment["dependencies"][-1] == {"pip": ["-e ."]}


@pytest.mark.parametrize(
    ("folders", "extras"),
    [
        (("lmops_lab", "widgets", "notebooks"), ("dask", "rl")),  # imported late, with the install line in the error
        (("tests", "benchmarks"), ("test", "bench")),
    ],
)
def test_every_import_is_declared(folders, extras):
    allowed = {canonical(name) for name in [*DEPENDENCIES, *sum((EXTRAS[e] for e in extras), [])]}
    allowed |= {"tokenizers", "huggingface-hub", "dask"}  # parts of transformers and distributed
    providers = packages_distributions()
    for name, where in distributions(folders).items():
        assert {canonical(n) for n in providers.get(name, [name])} & allowed, f"{where} imports {name}: undeclared"


def test_the_card_is_a_real_dependency_each():
    card = {"jupyterlab", "ipywidgets", "torch", "transformers", "diffusers", "matplotlib", "papermill", "nbval"}
    assert card <= set(DEPENDENCIES)


def test_this_environment_is_the_pinned_one():
    for name in [*DEPENDENCIES, *EXTRAS["test"]]:
        assert version(name).partition("+")[0] == PINS[name.lower()], name


def test_every_pin_runs_on_the_oldest_python_that_is_promised():
    """Debian 12 has Python 3.11.2; a package that asks for 3.11.5 would leave its users without an installation."""
    oldest = PROJECT["requires-python"].removeprefix(">=") + ".0"
    # get(), as the finder of the importlib_metadata package, where it is installed, answers [] for a missing field with
    # an error.
    asked = {canonical(found.name): found.metadata.get("Requires-Python") for found in metadata.distributions()}
    asked = {name: asks for name, asks in asked.items() if name in PINS and asks}
    assert len(asked) > 100
    assert {name: asks for name, asks in asked.items() if not SpecifierSet(asks).contains(oldest)} == {}
