"""How soon the widgets are seen in JupyterLab, how much they send, and whether a busy kernel stops the scrolling.

    python benchmarks/browser.py

Needs Chromium and playwright. Every widget is made by a kernel that has imported what it needs, as in a notebook's
later cells; the seconds count from the moment the cell is run to the moment the widget's first element stands in the
page and the browser has painted.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from common import report

sys.path.append(str(Path(__file__).parents[1]))  # the browser tests' JupyterLab is this one's too

from tests.browser.lab import CHROMIUM, open_page, running_browser, running_lab

IMPORTS = """
import json, time
import numpy as np
from tests.icl.synthetic import synthetic_curve
from tests.widgets.samples import grid, landscape
from tests.widgets.fallbacks import end_a_job
from dataclasses import replace
from pathlib import Path
from widgets import *
from lmops_lab.icl.curve import ICLCurve
base = [landscape(i, 512, hue=i) for i in range(25)]
pictures = [[base[(7 * i + j) % 25] for j in range(100)] for i in range(5)]
votes = {name: [f"{name} answers question {i} in a sentence or two" for i in range(200)] for name in "abc"}
small = synthetic_curve("one", ks=(8,), seeds=2, queries=20, methods=("structured",))
model = [cell for cell in small.cells if cell.method == "structured"]
cells = tuple(replace(cell, method=f"m{m}", k=k) for m in range(100) for k in range(1, 51) for cell in model)
many = ICLCurve(cells, small.labels, small.about)
curves = [synthetic_curve("reviews"), synthetic_curve("questions", number=2)]
shares = np.random.default_rng(0).dirichlet(np.ones(65), (30, 9))
end_a_job(Path("job"))
def size(w):
    sent = {k: v for k, v in w.get_state().items() if k not in ("_esm", "_css")}
    return len(json.dumps(sent, default=lambda b: "." * len(b)))
"""
# What is shown: the code that makes it.
SHOWN = {
    "PromptComparison, 3 x 6 pictures": "w = PromptComparison(['a', 'b', 'c'], [row[:6] for row in pictures[:3]])",
    "PromptComparison, 500 pictures": "w = PromptComparison([f'prompt {i}' for i in range(5)], pictures)",
    "BlindVote, 600 texts": "w = BlindVote(votes, 'votes.jsonl')",
    "ICLCurveExplorer, two tasks": "w = ICLCurveExplorer(curves)",
    "ICLCurveExplorer, 10,000 cells": "w = ICLCurveExplorer(many)",
    "GroupAttention, 30 x 9 x 64": "w = GroupAttention(shares, [f'group {i}' for i in range(64)])",
    "SweepMonitor": "w = SweepMonitor('job', root='.', every=0)",
}
RUN = """async ([source]) => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const done = kernel.requestExecute({code: source});
  await done.done;
}"""
SCROLL = """async () => {
  const box = document.querySelector('.ll-scroll'), begin = performance.now();
  let longest = 0, last = begin;
  for (let i = 0; i < 40; i++) {
    box.scrollLeft += 300;
    await new Promise(requestAnimationFrame);
    longest = Math.max(longest, performance.now() - last);
    last = performance.now();
  }
  return [(performance.now() - begin) / 1000, longest / 1000, box.scrollLeft];
}"""


def main() -> None:
    if CHROMIUM is None:
        sys.exit("there is no Chromium on the path: apt install chromium")
    rows, figures = [("widget", "first paint, s", "MB sent")], {"first_paint_s": {}, "message_mb": {}}
    with tempfile.TemporaryDirectory() as folder:
        work, settings = Path(folder) / "work", Path(folder) / "settings"
        work.mkdir()
        settings.mkdir()
        with running_lab(work, settings) as lab, running_browser() as browser:
            for number, (name, code) in enumerate(SHOWN.items()):
                source = f"{code}\nPath('size.txt').write_text(str(size(w)))\nw"
                context, opened = open_page(lab, browser, work, f"book{number}", source)
                opened.page.evaluate(RUN, [IMPORTS])
                seconds = first_paint(opened.page)
                opened.kernel_wrote("size.txt", "")
                megabytes = int((work / "size.txt").read_text()) / 1e6
                rows.append((name, f"{seconds:.2f}", f"{megabytes:.2f}"))
                figures["first_paint_s"][name], figures["message_mb"][name] = round(seconds, 2), round(megabytes, 2)
                if "500" in name:
                    figures.update(scrolled(opened.page))
                context.close()
    rows.append(
        (f"40 scrolls over 500 pictures, kernel busy: longest frame {figures['longest_frame_s']:.2f} s", "", "")
    )
    report(rows, figures)


def first_paint(page: Any) -> float:
    """Seconds from running the cell until its widget is in the page and painted."""
    return page.evaluate(
        """async () => {
          const begin = performance.now();
          window.jupyterapp.commands.execute('notebook:run-all-cells');
          while (!document.querySelector('.jp-OutputArea-output .ll .ll-body > *')) {
            await new Promise(requestAnimationFrame);
            if (performance.now() - begin > 120000) throw new Error('the widget never came');
          }
          await new Promise(requestAnimationFrame);
          await new Promise(requestAnimationFrame);
          return (performance.now() - begin) / 1000;
        }"""
    )


def scrolled(page: Any) -> dict[str, float]:
    """Scroll through the pictures while the kernel sleeps, then ask the kernel for an answer while scrolling."""
    page.evaluate(
        "() => { window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
        ".requestExecute({code: 'time.sleep(5)'}); }"
    )
    seconds, longest, moved = page.evaluate(SCROLL)
    if moved < 3000:
        raise RuntimeError(f"the grid scrolled by {moved} pixels only: what was measured is no scrolling")
    answer = page.evaluate(
        """async () => {
          const box = document.querySelector('.ll-scroll');
          const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
          await kernel.requestExecute({code: '1'}).done;
          let on = true;
          const step = async () => { while (on) { box.scrollLeft -= 60; await new Promise(requestAnimationFrame); } };
          const scroll = step();
          const begin = performance.now();
          for (let i = 0; i < 10; i++) await kernel.requestExecute({code: '1'}).done;
          const each = (performance.now() - begin) / 10000;
          on = false;
          await scroll;
          return each;
        }"""
    )
    return {"scroll_s": round(seconds, 2), "longest_frame_s": round(longest, 3), "kernel_answer_s": round(answer, 3)}


if __name__ == "__main__":
    main()
