import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.widgets.samples import HOSTILE, grid, landscape
from widgets import PromptComparison
from widgets.html import page

PROMPTS = {"original": "a rabbit in space", "rewritten": "a white rabbit in space, artstation"}


def send(widget, **content):
    widget._handle_custom_msg(content, [])


def state_size(widget):
    total = 0

    def count(data):
        nonlocal total
        total += len(data)

    return len(json.dumps(widget.get_state(), default=count)) + total


@pytest.fixture
def sent(monkeypatch):
    """Messages to the browser."""
    messages = []
    monkeypatch.setattr(PromptComparison, "send", lambda _, content, buffers=None: messages.append((content, buffers)))
    return messages


def test_state_holds_pictures_words_and_numbers():
    widget = PromptComparison(PROMPTS, grid(2, 3), seeds=[7, 8, 9], scores={"reward": [[1, 2, 3], [3, 2, 5]]})
    assert widget.seeds == ["7", "8", "9"]
    assert widget.rows[1]["diff"][:2] == [["same", "a"], ["added", " white"]]
    assert widget.rows[1]["summary"]["reward"]["mean"] == pytest.approx(10 / 3)
    assert widget.rows[1]["summary"]["reward"]["change"] == pytest.approx(4 / 3)
    first, last = widget.rows[0]["spans"][1]
    assert bytes(widget.thumbs[0])[first:last].startswith(b"\x89PNG")
    assert widget.orders["reward"] == {"rows": [1, 0], "seeds": [2, 0, 1]}
    assert widget.message == ""
    assert repr(widget) == "PromptComparison(2 prompts, 3 seeds)"


def test_equal_pictures_do_not_differ():
    same = landscape(0)
    widget = PromptComparison(PROMPTS, [[same, landscape(1)], [same.copy(), landscape(2)]])
    assert widget.differs == [[False, True], [False, True]]


def test_stars_come_back_as_pictures():
    pictures = grid(2, 2)
    widget = PromptComparison(PROMPTS, pictures)
    widget.set_state({"stars": [["p1", "0"]]})
    assert widget.starred() == [("rewritten", "0", pictures[1][0])]
    assert "seed 0 ★" in widget.fallback()


def test_full_pictures_travel_on_demand(sent):
    widget = PromptComparison(PROMPTS, grid(2, 2, size=300))
    send(widget, kind="picture", row="p1", seed="1")
    content, buffers = sent[0]
    assert content == {"kind": "picture", "key": widget.rows[1]["keys"][1]}
    assert buffers[0].startswith(b"\x89PNG")
    send(widget, kind="picture", row="p9", seed="1")
    assert widget.message == "no prompt 'p9'; known: p0, p1"


def test_an_edited_prompt_runs_for_all_seeds_and_replaces_its_row():
    drawn = []

    def generate(prompt, seed):
        drawn.append((prompt, seed))
        return landscape(seed + 50)

    score = lambda prompt, images: {"reward": [len(prompt)] * len(images)}  # noqa: E731
    widget = PromptComparison(
        PROMPTS, grid(2, 3), seeds=[4, 5, 6], scores={"reward": np.zeros((2, 3))}, generate=generate, score=score
    )
    assert widget.editable
    seen = []
    widget.observe(lambda change: seen.append((change.new["done"], change.new["state"])), names="progress")
    widget.run("p1", "a fox", wait=True)
    assert drawn == [("a fox", 4), ("a fox", 5), ("a fox", 6)]
    assert seen == [(0, "running"), (1, "running"), (2, "running"), (3, "running"), (3, "done")]
    assert [row["text"] for row in widget.rows] == ["a rabbit in space", "a fox"]
    assert widget.rows[1]["summary"]["reward"]["mean"] == 5.0
    widget.run("p0", "a hare", new=True, wait=True)
    assert [row["label"] for row in widget.rows] == ["original", "original, edited", "rewritten"]


def test_a_run_can_be_cancelled_and_a_failure_is_shown():
    def slow(prompt, seed):
        if prompt == "bad":
            raise RuntimeError("out of memory: <b>2 GiB</b>")
        time.sleep(0.05)
        return landscape(seed)

    widget = PromptComparison(PROMPTS, grid(2, 40, size=16), generate=slow)
    send(widget, kind="run", row="p0", text="a cat")
    send(widget, kind="run", row="p0", text="a dog")
    assert "running already" in widget.message
    send(widget, kind="cancel")
    widget._worker.join(10)
    assert widget.progress["state"] == "cancelled"
    assert widget.progress["done"] < 40
    assert widget.rows[0]["text"] == "a rabbit in space"
    widget.run("p0", "bad", wait=True)
    assert widget.progress["state"] == "failed"
    assert widget.message == "The run failed: RuntimeError: out of memory: <b>2 GiB</b>"
    assert "<b>2 GiB" not in widget.fallback()
    send(widget, kind="run", row="p0", text="  ")
    assert "the prompt is empty" in widget.message


def test_running_needs_a_generator_and_whole_seeds():
    with pytest.raises(ValueError, match="give generate="):
        PromptComparison(PROMPTS, grid(2, 1)).run("p0", "x")
    with pytest.raises(ValueError, match="needs whole numbers as seeds, not \\['a'\\]"):
        PromptComparison(PROMPTS, grid(2, 1), seeds=["a"], generate=lambda _, seed: landscape(seed))


def test_exports_hold_pictures_words_and_provenance(tmp_path, sent):
    widget = PromptComparison(PROMPTS, grid(2, 2), provenance={"model": "tiny@1", "api_key": "secret-123"})
    with Image.open(widget.to_png(tmp_path / "grid.png")) as image:
        assert image.text["prompt: rewritten"] == PROMPTS["rewritten"]
        assert image.text["model"] == "tiny@1"
        assert "secret-123" not in str(image.text)
    text = widget.to_html(tmp_path / "grid.html").read_text()
    assert text.count("data:image/png;base64,") == 4
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert "secret-123" not in text + json.dumps(widget.get_state(), default=str)
    send(widget, kind="export", format="png")
    send(widget, kind="export", format="html")
    assert [content["name"] for content, _ in sent] == ["comparison.png", "comparison.html"]
    assert sent[0][1][0].startswith(b"\x89PNG")


def test_texts_and_label_probabilities_side_by_side(tmp_path):
    shares = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.4, 0.6]]])
    widget = PromptComparison(
        PROMPTS,
        outputs=[["yes it is", None], ["no", "maybe"]],
        seeds=["q1", "q2"],
        probabilities=shares,
        labels=["no", "yes"],
        gold=["no", "yes"],
    )
    assert widget.texts
    assert widget.rows[0]["outputs"] == ["yes it is", None]
    assert widget.rows[1]["probabilities"] == [[0.5, 0.5], [0.4, 0.6]]
    page = widget.fallback()
    assert "no 0.900, yes 0.100" in page
    assert "missing" in page
    with pytest.raises(ValueError, match="export texts with to_html"):
        widget.sheet()
    with pytest.raises(ValueError, match="images or outputs, not both"):
        PromptComparison(PROMPTS, grid(2, 1), outputs=[["a"], ["b"]])


def test_five_hundred_pictures_and_ten_thousand_rows_stay_light():
    pictures = [landscape(i, 256) for i in range(25)]
    cells = [[pictures[(7 * i + j) % 25] for j in range(100)] for i in range(5)]
    begin = time.process_time()
    widget = PromptComparison([f"p{i}" for i in range(5)], cells, scores={"r": np.zeros((5, 100))})
    assert time.process_time() - begin < 3
    assert state_size(widget) < 10_000_000
    assert len(widget.fallback()) < 4_000_000
    outputs = [[f"answer {i} " * 60 for i in range(10_000)] for _ in range(2)]
    begin = time.process_time()
    widget = PromptComparison(PROMPTS, outputs=outputs, probabilities=np.full((2, 10_000, 2), 0.5), labels=["a", "b"])
    assert time.process_time() - begin < 3
    assert state_size(widget) < 10_000_000
    assert "Outputs are shown up to 300 characters" in widget.message
    assert "9,800 more items are not shown here" in widget.fallback()


@pytest.mark.parametrize("prompts", [[], ["alone"]])
def test_nothing_to_show_is_said(prompts):
    widget = PromptComparison(prompts)
    assert widget.message
    assert widget.message in widget.fallback()


def test_hostile_text_stays_text(tmp_path):
    widget = PromptComparison(
        {f"{i}{text}": text for i, text in enumerate(HOSTILE)},
        grid(len(HOSTILE), 1),
        seeds=["<script>seed</script>"],
        scores={"<i>score": np.ones((len(HOSTILE), 1))},
        provenance={"<b>who": "</style><script>x</script>"},
    )
    json.dumps({k: v for k, v in widget.get_state().items() if k != "thumbs"}, ensure_ascii=False).encode()
    text = widget.fallback() + widget.to_html(tmp_path / "x.html").read_text().replace(page("PromptComparison", ""), "")
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "<i>score" not in text
    assert not re.search(r'"\s+onmouseover', text)
    assert "word word" in text
    assert "ארנב" in text


def test_the_fallback_is_the_same_in_two_processes():
    code = (
        "from tests.widgets.samples import grid; from widgets import PromptComparison as P;"
        f"print(P({PROMPTS!r}, grid(2, 2), scores={{'r': [[1, 2], [3, 5]]}}).fallback())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert PromptComparison(PROMPTS, grid(2, 2), scores={"r": [[1, 2], [3, 5]]}).fallback() + "\n" == other
    widget = PromptComparison(PROMPTS, grid(2, 2))
    data, _ = widget._repr_mimebundle_()
    assert not re.search(r"0x[0-9a-f]{6}", data["text/plain"])
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["text/html"] == widget.fallback()
