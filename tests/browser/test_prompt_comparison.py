import pytest

pytestmark = pytest.mark.browser

CODE = """
import json, time
from pathlib import Path
import numpy as np
from tests.widgets.samples import landscape
from widgets import PromptComparison

prompts = {
    "original": "a valley at noon",
    "rewritten": "a wide green valley at noon, soft light, highly detailed, trending on artstation",
    "hand-written": "a valley in late summer, oil on canvas",
}
rng = np.random.default_rng(0)
def generate(prompt, seed):
    time.sleep(0.2)
    return landscape(seed, 256, hue=len(prompt) % 3)
w = PromptComparison(
    prompts, [[landscape(s, 256, hue=i) for s in range(6)] for i in range(3)], seeds=range(6),
    scores={"reward": rng.normal([[0.1], [0.6], [0.4]], 0.15, (3, 6)),
            "aesthetics": rng.normal([[5.2], [5.9], [5.6]], 0.2, (3, 6)),
            "relevance": rng.normal([[0.27], [0.268], [0.25]], 0.01, (3, 6))},
    generate=generate, provenance={"model": "landscape painter", "steps": 20})
def keep(_):
    Path("comparison.json").write_text(json.dumps({
        "stars": w.stars, "sort_by": w.sort_by, "view": w.view,
        "texts": [r["text"] for r in w.rows], "state": w.progress.get("state")}))
w.observe(keep)
w.to_html("comparison.html")
w
"""


def test_pictures_are_sorted_enlarged_starred_and_drawn_anew(open_notebook, open_offline):
    opened = open_notebook("comparison", CODE)
    page = opened.page
    assert page.locator(".ll-cell img").count() == 18
    opened.both_themes("prompt_comparison")
    opened.theme("Light")

    page.get_by_label("sort by").select_option("reward")
    opened.kernel_wrote("comparison.json", '"sort_by": "reward"')
    assert page.locator(".ll-prompt .ll-label").first.inner_text() == "rewritten"

    # Keyboard only: move, star, enlarge, next picture, blend, close.
    page.locator('.ll-cell[tabindex="0"]').focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    here = page.evaluate("() => document.activeElement.dataset.seed")
    page.keyboard.press("s")
    opened.kernel_wrote("comparison.json", f'"{here}"]]')
    page.keyboard.press("Enter")
    page.wait_for_selector('dialog[open] img[data-full="yes"]')
    page.keyboard.press("ArrowDown")
    page.keyboard.press("3")
    page.wait_for_selector("dialog[open] .ll-blend img + img")
    page.locator("dialog[open]").screenshot(path=opened.artefacts / "prompt_comparison_blend.png")
    page.keyboard.press("4")
    page.wait_for_function("() => document.querySelectorAll('dialog[open] .ll-strip img').length === 12")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="detached")
    opened.kernel_wrote("comparison.json", '"view": {}')
    assert page.evaluate("() => document.activeElement.className") == "ll-cell"

    page.get_by_label("edit the prompt original").click()
    page.locator(".ll-editor").fill("a valley under <b>fog</b>")
    page.locator(".ll-run").click()
    page.wait_for_selector(".ll-cancel")
    opened.kernel_wrote("comparison.json", "a valley under <b>fog</b>")
    page.wait_for_selector(".ll-editor", state="detached")
    assert "<b>fog</b>" in page.locator(".ll-prompt .ll-text").all_inner_texts()[-1]

    with page.expect_download() as saved:
        page.get_by_label("export the grid as PNG").click()
    assert saved.value.suggested_filename == "comparison.png"
    exported = open_offline(opened.folder / "comparison.html")
    assert exported.locator("img").count() == 18


BIG = """
import time
from tests.widgets.samples import landscape
from widgets import PromptComparison
base = [landscape(i, 512, hue=i) for i in range(25)]
pictures = [[base[(7 * i + j) % 25] for j in range(100)] for i in range(5)]
w = PromptComparison([f"prompt {i}" for i in range(5)], pictures)
w
"""


def test_five_hundred_pictures_paint_and_scroll_while_the_kernel_is_busy(open_notebook):
    opened = open_notebook("big", BIG)
    page = opened.page
    assert page.locator(".ll-cell").count() == 500
    page.evaluate(
        "() => { const k = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;"
        " k.requestExecute({code: 'time.sleep(8)'}); }"
    )
    seconds = page.evaluate(
        """async () => {
          const box = document.querySelector('.ll-scroll'), begin = performance.now();
          for (let i = 0; i < 20; i++) { box.scrollLeft += 600; await new Promise(requestAnimationFrame); }
          const seen = [...document.querySelectorAll('.ll-cell img')].filter((img) => {
            const r = img.getBoundingClientRect(), b = box.getBoundingClientRect();
            return r.right > b.left && r.left < b.right; });
          await Promise.all(seen.map((img) => img.decode()));
          return [(performance.now() - begin) / 1000, box.scrollLeft, seen.length];
        }"""
    )
    assert seconds[0] < 6
    assert seconds[1] > 3000
    assert seconds[2] > 10
