import json

import pytest

pytestmark = pytest.mark.browser

CODE = """
import json
from pathlib import Path
import numpy as np
from widgets import GroupAttention

rng = np.random.default_rng(0)
mass = rng.gamma(0.6, size=(30, 9, 25))
mass[..., -1] = mass[..., :-1].sum(-1) * np.linspace(1, 0.3, 30)[:, None] ** 2 * 2
mass[:, :, 7] *= np.linspace(1, 4, 30)[:, None]
mass /= mass.sum(-1, keepdims=True)
reviews = [("a joy from start to end", "positive"), ("two hours I will not get back", "negative"),
           ("quiet, clever and kind", "positive"), ("loud and empty", "negative")]
texts = [[f"Review: {text}, scene {g + 1}\\nSentiment: {label}" for text, label in reviews] for g in range(24)]
w = GroupAttention(mass, demonstrations=texts,
    demonstration_mass=[rng.dirichlet([1, 1, 1, 1], (30, 9)) * mass[:, :, g : g + 1] for g in range(24)])
def keep(_):
    Path("attention.json").write_text(json.dumps({"selected": w.selected, "own": w.own, "by_head": w.by_head}))
w.observe(keep)
w.to_html("attention.html")
w
"""


def test_cells_are_chosen_by_click_and_key_and_tell_their_demonstrations(open_notebook, open_offline):
    opened = open_notebook("attention", CODE)
    page = opened.page
    canvas = page.locator(".ll-heat canvas")
    box = canvas.bounding_box()
    tall = int(canvas.get_attribute("data-tall"))
    canvas.click(position={"x": 34 + 7.5 * (box["width"] - 36) / 25, "y": 18 + 22.5 * tall})
    opened.kernel_wrote("attention.json", '"selected": [22, 7]')
    page.wait_for_selector(".ll-demo")
    assert "scene 8" in page.locator(".ll-demo").first.inner_text()
    opened.both_themes("group_attention")
    opened.theme("Light")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    assert page.locator(".ll-reading").inner_text().startswith("layer 22, group 9, mean of heads: 0.")
    page.keyboard.press("Enter")
    opened.kernel_wrote("attention.json", '"selected": [21, 8]')
    page.locator(".ll-own").click()
    opened.kernel_wrote("attention.json", '"own": false')
    page.get_by_label("columns").select_option("heads")
    kept = json.loads(opened.kernel_wrote("attention.json", '"by_head": true'))
    assert kept["selected"] == [21, 8]
    assert "to group 9" in page.locator(".ll-reading").inner_text()
    exported = open_offline(opened.folder / "attention.html")
    assert "layers by groups" in exported.locator("body").inner_text()
