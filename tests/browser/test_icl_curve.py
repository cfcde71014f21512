import pytest

pytestmark = pytest.mark.browser

CODE = """
from pathlib import Path
from tests.icl.synthetic import synthetic_curve
from widgets import ICLCurveExplorer
reviews = synthetic_curve("reviews", skill=.22, number=1)
questions = synthetic_curve(
    "questions", labels=("who", "where", "when"), skill=.4, number=2, methods=("structured", "sequential", "ensemble")
)
w = ICLCurveExplorer([reviews, questions], "batch")
w.left, w.right = 1, 2
def keep(_):
    Path("selected.txt").write_text(f"{w.selected} {w.methods} {w.left} {w.detail.get('title', '')}")
    w.to_html("curve.html")
w.observe(keep, names=["selected", "methods", "left"])
w
"""


def middle(page, point, act):
    """Move or click in the middle of a point's mark, whatever lies over it."""
    ring = page.locator(f'[data-point="{point}"] .ll-ring')
    ring.scroll_into_view_if_needed()
    box = ring.bounding_box()
    act(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def test_lines_values_differences_and_points_by_mouse_and_keyboard(open_notebook, open_offline):
    opened = open_notebook("curve", CODE)
    page = opened.page
    assert page.locator(".ll-point").count() == 14
    # Another line's mark covers part of this one: the mouse is to find the one whose middle is nearer.
    middle(page, "1:8", page.mouse.move)
    assert page.locator(".ll-tip").inner_text().startswith("reviews, structured, batch\nk = 8")
    middle(page, "5:8", page.mouse.move)
    assert page.locator(".ll-tip").inner_text().startswith("questions, sequential, batch\nk = 8")
    middle(page, "1:8", page.mouse.click)
    opened.kernel_wrote("selected.txt", "[1, 8]")
    page.wait_for_selector(".ll-matrix")
    opened.both_themes("icl_curve")
    opened.theme("Light")
    page.locator('[data-point="1:8"]').focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    opened.kernel_wrote("selected.txt", "[1, 64]")
    page.wait_for_function("() => document.querySelector('.ll-inside h3').textContent.includes('k = 64')")
    page.locator('input[data-name="ensemble"]').uncheck()
    opened.kernel_wrote("selected.txt", "['zero-shot', 'structured', 'sequential']")
    page.wait_for_function("() => document.querySelectorAll('.ll-point').length === 12")
    page.get_by_label("of", exact=True).select_option("2")
    opened.kernel_wrote("selected.txt", " 2 ")
    exported = open_offline(opened.folder / "curve.html")
    assert exported.locator("svg").count() == 1
    assert "missed by a seed or more" in exported.locator("body").inner_text()
    assert page.locator(".jp-Notebook .jp-Cell").count() == 1
