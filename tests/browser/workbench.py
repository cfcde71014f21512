"""The picture of the workbench that README opens with: the shipped rewriter and painter in a live JupyterLab.

python -m tests.browser.workbench docs/screenshots/workbench.png
"""

import sys
import tempfile
from pathlib import Path

import nbformat

from tests.browser.lab import ROOT, open_page, running_browser, running_lab

TEXT = """## Is it better, and is it still a rabbit in space?

Three prompts over the same noises: what somebody typed, what the rewriter made of it, and a rival by hand."""
CODE = """import numpy as np
from lmops_lab import ImageGenerator, Rewriter
from lmops_lab.rewards.aesthetic import Aesthetic
from lmops_lab.rewards.relevance import Relevance
from widgets import PromptComparison

typed = "a rabbit in space"
prompts = {"as typed": typed, "rewritten": Rewriter.load()([typed])[0], "by hand": f"{typed}, wallpaper, blurry"}
painter, relevance = ImageGenerator.load(), Relevance.load()
grid = painter.generate(list(prompts.values()), seeds=5, progress=False)
cosines = relevance(grid.images, [typed] * 15).reshape(grid.shape)
ratings = Aesthetic.load(relevance.encoder, "emoji")(grid.images).reshape(grid.shape)
reward = ratings - ratings[0].mean() + np.minimum(0, 20 * (cosines - relevance.threshold))
PromptComparison(
    prompts,
    [grid.images[5 * row : 5 * row + 5] for row in range(3)],
    seeds=grid.seeds[0].tolist(),
    scores={"reward": reward, "aesthetics": ratings, "relevance": cosines},
    provenance={"generator": "emoji", "steps": 20},
)"""
SIZE = {"width": 1500, "height": 1000}


def main() -> None:
    """Write the picture to the path given."""
    target = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        work, settings = Path(folder) / "notebooks", Path(folder) / "settings"
        work.mkdir()
        settings.mkdir()
        for book in sorted((ROOT / "notebooks").glob("*.ipynb")):
            (work / book.name).write_bytes(book.read_bytes())
        with running_lab(work, settings) as lab, running_browser() as browser:
            _, opened = open_page(lab, browser, work, "my_prompts", CODE)
            page = opened.page
            book = nbformat.read(work / "my_prompts.ipynb", 4)
            book.cells.insert(0, nbformat.v4.new_markdown_cell(TEXT))
            book.cells[1].metadata["jupyter"] = {"source_hidden": True}
            nbformat.write(book, work / "my_prompts.ipynb")
            page.set_viewport_size(SIZE)
            page.goto(f"{lab.url}/lab/tree/my_prompts.ipynb?token={lab.token}&reset")
            page.wait_for_selector(".jp-Notebook .jp-CodeCell")
            page.wait_for_function(
                "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
            )
            page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
            page.wait_for_selector(".jp-OutputArea-output .ll .ll-cell img", timeout=300_000)
            page.wait_for_timeout(2000)
            page.screenshot(path=target, animations="disabled")


if __name__ == "__main__":
    main()
