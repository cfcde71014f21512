import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.widgets.fallbacks import WIDGETS, end_a_job
from widgets.html import page

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs") / "job"
    end_a_job(folder)
    return folder


def test_two_processes_give_the_same_pages(job):
    """Two hash seeds: nothing may depend on the order of a set, on an address or on the time."""
    printed = [
        subprocess.run(
            [sys.executable, "-m", "tests.widgets.fallbacks", str(job)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert [line.split()[0] for line in printed[0].splitlines()] == list(WIDGETS)
    assert printed[0] == printed[1]


@pytest.mark.parametrize("name", WIDGETS)
def test_hostile_text_is_shown_as_text(name, job, tmp_path):
    widget = WIDGETS[name](job)
    written = widget.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    frame = page(type(widget).__name__, "")
    for text in (widget.fallback(), written):
        inside = text.replace(frame[: frame.index("<body")], "")
        assert not re.search(r"<(script|i|b)>(alert|seed|score|who|name|a\b|m\b|x\b)", inside)
        assert "<img src=x" not in inside
        assert inside.count("</style") == inside.count("<style")
        assert not re.search(r"\"\s+onmouseover", inside)
        assert "\0" not in inside
    assert "&lt;script&gt;" in written
    assert "&lt;/style&gt;" in written
    assert "\u05d0\u05e8\u05e0\u05d1" in written  # right-to-left text is there
    assert written.count("word ") >= 40  # so is the long one, or what the widget shows of it
    json.dumps(
        {key: value for key, value in widget.get_state().items() if not isinstance(value, bytes | memoryview)},
        ensure_ascii=False,
        default=lambda _: "",
    ).encode()  # what the kernel sends


@pytest.mark.parametrize("name", WIDGETS)
def test_nothing_synced_names_an_address_or_a_path(name, job):
    widget = WIDGETS[name](job)
    data, _ = widget._repr_mimebundle_()
    assert data["text/html"] == widget.fallback()
    assert not re.search(r"0x[0-9a-f]{6}", data["text/plain"])
    texts = [value for key, value in widget.get_state().items() if not key.startswith("_")]
    assert str(job.parent) not in str(texts)
