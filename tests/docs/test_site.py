"""The documentation site builds, every link in it leads somewhere, and its examples run."""

import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from lmops_lab.runs.grid import read_grid
from lmops_lab.runs.notebook import find_notebook
from lmops_lab.runs.parameters import check_parameters, parse_value, read_parameters

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "docs" / "recipes").glob("*.md"))


class Page(HTMLParser):
    """The ids of a page, where its links go and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag in ("script", "img", "iframe", "source") and given.get("src"):
            self.loads.append(given["src"])
        if tag == "link" and given.get("href") and given.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    # strict: a warning of mkdocs (a missing page, anchor or docstring target) ends the build.
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return {path.relative_to(folder).as_posix(): Page(path) for path in folder.rglob("*.html")}, folder


def test_every_link_leads_to_a_file_and_its_anchor(site):
    pages, folder = site
    dead = []
    for name, page in pages.items():
        if name == "404.html":  # served for any address, so its links are absolute
            continue
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (folder / name).parent / unquote(parts.path) if parts.path else folder / name
            target = target.resolve() / "index.html" if target.is_dir() else target.resolve()
            anchors = pages.get(target.relative_to(folder.resolve()).as_posix())
            if not target.is_file() or (
                parts.fragment and anchors and unquote(parts.fragment) not in anchors.ids | {"__skip"}
            ):
                dead.append(f"{name}: {link}")
    assert dead == []


def test_pages_load_nothing_from_the_network(site):
    pages, folder = site
    loads = [load for page in pages.values() for load in page.loads]
    assert loads
    assert [load for load in loads if urlsplit(load).netloc] == []
    styles = "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.css"))
    assert not re.search(r"""(?:url\(|@import )["']?(?:https?:)?//""", styles)


def test_the_reference_holds_every_module(site):
    pages, _ = site
    ids = set().union(*(page.ids for name, page in pages.items() if name.startswith("reference/")))
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "lmops_lab").rglob("*.py")
        if not path.name.startswith("_")
    }
    assert modules <= ids
    assert {"lmops_lab.attention.partial.merge_parts", "lmops_lab.icl.experiment.icl_curve"} <= ids


def test_equations_are_pictures_with_words(site):
    _, folder = site
    text = (folder / "concepts" / "structured-prompting.html").read_text(encoding="utf-8")
    assert len(re.findall(r'<svg role="img" aria-label="[^"]*\\[a-z]+[^"]*" fill="currentColor"', text)) >= 6
    assert "```math" not in text


def blocks(language):
    found = [
        (path.name, i, text)
        for path in RECIPES
        for i, text in enumerate(re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE))
    ]
    return [pytest.param(text, id=f"{name}-{i}") for name, i, text in found]


@pytest.mark.parametrize("text", blocks("python"))
def test_python_blocks_run(text, embedded, write_jsonl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 8), ("test", 4)):
        write_jsonl(f"my_folder/{split}.jsonl", [{"text": f"item {i}", "label": i % 2} for i in range(count)])
    exec(compile(text, "a block of the documentation", "exec"), {})


def test_the_grid_of_the_recipe_is_one(tmp_path):
    text = (ROOT / "docs" / "recipes" / "cluster.md").read_text()
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "runs.yaml").write_text(block)
    assert len(read_grid(tmp_path / "runs.yaml", ROOT / "notebooks")) == 3 * 3 + 1


def test_commands_name_real_notebooks_and_parameters():
    lines = [
        line
        for path in RECIPES
        for line in re.findall(r"^ *(?:srun )?(lmops-lab run .*)$", path.read_text(), re.MULTILINE)
    ]
    assert lines
    for line in lines:
        words = shlex.split(line.partition(" #")[0])
        given = dict(words[i + 1].split("=", 1) for i, word in enumerate(words) if word == "-p")
        if given:
            notebook = find_notebook(words[2], ROOT / "notebooks")
            check_parameters(read_parameters(notebook), {name: parse_value(value) for name, value in given.items()})


def test_the_citation_names_both_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    papers = {reference["identifiers"][0]["value"]: reference for reference in citation["references"]}
    assert set(papers) == {"arXiv:2212.06713", "arXiv:2212.09611"}
    assert all({"type", "title", "authors", "year", "url"} <= set(paper) for paper in papers.values())
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert citation["version"] == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_containers_build_from_the_one_environment():
    import json

    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    name = yaml.safe_load((ROOT / "environment.yml").read_text())["name"]
    assert f"conda env create -f environment.yml && bash postBuild {name}" == container["postCreateCommand"]
    assert f"/envs/{name}/" in container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    # Binder reads environment.yml at the root unless such a folder exists, and runs postBuild where it is executable.
    assert not any((ROOT / folder).exists() for folder in ("binder", ".binder"))
    assert (ROOT / "postBuild").stat().st_mode & 0o111
    model = re.search(r"EMBEDDED_MODEL := (\S+)", (ROOT / "Makefile").read_text())[1]
    assert model in (ROOT / "postBuild").read_text()
