import json

import pytest

pytestmark = pytest.mark.browser

CODE = """
from pathlib import Path
from tests.widgets.samples import landscape
from widgets import BlindVote
names = ("painter-red", "painter-blue")
pictures = {name: [landscape(s, 384, hue=i) for s in range(6)] for i, name in enumerate(names)}
w = BlindVote(pictures, "votes.jsonl", prompts=[f"a valley, view {s}" for s in range(6)], repeats=0.3)
def keep(_):
    if w.finished: w.to_html("vote.html")
w.observe(keep, names="done")
w
"""


def test_votes_by_key_and_click_reach_the_disk_and_identities_come_last(open_notebook, open_offline):
    opened = open_notebook("vote", CODE)
    page = opened.page
    opened.both_themes("blind_vote")
    opened.theme("Light")
    lines = lambda: (opened.folder / "votes.jsonl").read_text().splitlines()  # noqa: E731
    page.locator('.ll-choice[data-choice="left"]').click()
    page.wait_for_function("() => document.querySelector('.ll-done').textContent === '1 of 8'")
    assert json.loads(lines()[-1])["choice"] == "left"
    page.locator(".ll-vote").focus()
    for key, done in (("2", 2), ("3", 3), ("u", 2), ("4", 3)):
        page.keyboard.press(key)
        page.wait_for_function(f"() => document.querySelector('.ll-done').textContent === '{done} of 8'")
    choices = [json.loads(line).get("choice", "undo") for line in lines()[1:]]
    assert choices == ["left", "right", "tie", "undo", "bad"]
    assert "painter-" not in page.locator(".ll-vote").inner_html()
    for done in range(4, 9):
        page.keyboard.press("1" if done % 2 else "2")
        page.wait_for_function(f"() => document.querySelector('.ll-done').textContent === '{done} of 8'")
    page.wait_for_selector(".ll-rates")
    assert "painter-blue against painter-red" in page.locator(".ll-rates").inner_text()
    opened.both_themes("blind_vote_results")
    exported = open_offline(opened.folder / "vote.html")
    assert "Bradley-Terry" in exported.locator("body").inner_text()
    # JupyterLab's own keys stayed out: no cell was added, cut or turned into another kind.
    assert page.locator(".jp-Notebook .jp-Cell").count() == 1
