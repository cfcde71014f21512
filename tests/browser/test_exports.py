"""Every committed notebook as a page, opened with the network off: all figures and all static forms of widgets show."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

from lmops_lab.runs.notebook import export_html, freeze_widgets

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Pictures and drawings that a reader sees, closed parts of the page opened first: how many, and how many are empty.
SEEN = """() => {
  for (const part of document.querySelectorAll("details")) part.open = true;
  const pictures = [...document.images].filter(i => i.closest(".jp-OutputArea"));
  const drawings = [...document.querySelectorAll(".jp-OutputArea svg")];
  const flat = box => box.width < 8 || box.height < 8;
  return {
    pictures: pictures.length,
    drawings: drawings.length,
    empty: pictures.filter(i => !i.naturalWidth || flat(i.getBoundingClientRect())).length
      + drawings.filter(d => flat(d.getBoundingClientRect())).length,
    text: document.body.innerText.replace(/\\s+/g, " "),
  };
}"""


def stored(notebook):
    """What the outputs hold: pictures, drawings, and the visible words of everything that is HTML."""
    pictures, drawings, words = 0, 0, []
    for cell in nbformat.read(notebook, as_version=4).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data:
                soup = BeautifulSoup(data["text/html"], "html.parser")
                pictures += len(soup.find_all("img"))
                drawings += len(soup.find_all("svg"))
                for part in soup.find_all(["style", "svg", "script"]):
                    part.decompose()
                words += [" ".join(text.split()) for text in soup.find_all(string=True) if text.strip()]
            elif "image/svg+xml" in data:
                drawings += 1
            elif "image/png" in data:
                pictures += 1
    return pictures, drawings, words


def check(page, notebook):
    pictures, drawings, words = stored(notebook)
    assert pictures + drawings, "a notebook without a figure"
    seen = page.evaluate(SEEN)
    assert (seen["pictures"], seen["drawings"], seen["empty"]) == (pictures, drawings, 0)
    missing = [text for text in words if text not in seen["text"]]
    assert not missing, missing[:5]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem[:2])
def test_the_runners_page_shows_everything(notebook, tmp_path, open_offline):
    copy = tmp_path / notebook.name
    copy.write_bytes(notebook.read_bytes())
    freeze_widgets(copy)
    check(open_offline(export_html(copy)), copy)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem[:2])
def test_nbconverts_own_page_shows_everything(notebook, tmp_path, browser):
    """It asks a CDN for formulas and widgets, in vain; what this project shows needs neither."""
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--output-dir", tmp_path, notebook]
    subprocess.run(command, check=True, capture_output=True)
    context = browser.new_context(offline=True)
    try:
        page = context.new_page()
        page.goto((tmp_path / f"{notebook.stem}.html").as_uri())
        check(page, notebook)
    finally:
        context.close()
