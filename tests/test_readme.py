"""What README shows runs as it stands."""

import json
import re
import shlex
from pathlib import Path

import pytest

from lmops_lab import cli
from lmops_lab.runs.notebook import find_notebook
from lmops_lab.runs.parameters import check_parameters, parse_value, read_parameters

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"^lmops-lab .*$", README, re.MULTILINE)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_blocks_run(number, embedded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_folder").mkdir()
    for split in ("train", "test"):
        rows = [json.dumps({"text": f"item {i}", "label": i % 2}) for i in range(4)]
        (tmp_path / "my_folder" / f"{split}.jsonl").write_text("\n".join(rows))
    names = {} if "import" in BLOCKS[number] else {"load_task": __import__("lmops_lab").load_task}
    exec(BLOCKS[number], names)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_lines_name_real_notebooks_and_parameters(command, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    _, verb, name, *rest = shlex.split(command)
    if verb == "parameters":
        assert cli.main([verb, name]) == 0
        assert "k = [" in capsys.readouterr().out
        return
    given = dict(text.split("=", 1) for flag, text in zip(rest[::2], rest[1::2], strict=True) if flag == "-p")
    assert given
    known = read_parameters(find_notebook(name))
    check_parameters(known, {key: parse_value(value) for key, value in given.items()})


def test_readme_names_the_make_targets_that_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"`?make ([a-z]+)", README):
        assert target in targets


def test_files_that_readme_links_exist():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("https://") or (ROOT / link).exists(), link
