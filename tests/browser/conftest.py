"""One server and one browser for all tests, one notebook and one page for each."""

import os
from pathlib import Path

import pytest

from tests.browser.lab import CHROMIUM, OWN_NOISE, Opened, open_page, running_browser, running_lab

NO_CHROMIUM = "no Chromium on the path: apt install chromium"


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory) -> Path:
    """Where screenshots are kept: $LMOPS_LAB_ARTEFACTS, or pytest's temporary folder."""
    kept = os.environ.get("LMOPS_LAB_ARTEFACTS")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """JupyterLab on a free port of this machine."""
    if CHROMIUM is None:
        pytest.skip(NO_CHROMIUM)
    with running_lab(tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("settings")) as lab:
        yield lab


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium."""
    if CHROMIUM is None:
        pytest.skip(NO_CHROMIUM)
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    with running_browser() as browser:
        yield browser


@pytest.fixture
def open_notebook(lab, browser, artefacts):
    """Open a notebook with one cell, run it, wait for its widget; a browser that complained fails the test."""
    contexts, notebooks = [], []

    def open_it(name: str, code: str) -> Opened:
        context, opened = open_page(lab, browser, artefacts, name, code)
        contexts.append(context)
        page = opened.page
        # Not awaited: the command ends when the cell does, and a page that hangs should say so below.
        page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
        try:
            page.wait_for_selector(".jp-OutputArea-output .ll .ll-body > *", timeout=120_000)
        except Exception as error:
            page.screenshot(path=artefacts / f"{name}_failed.png")
            error.add_note(f"the page showed:\n{page.locator('body').inner_text()[-3000:]}\n{opened.complaints}")
            raise
        notebooks.append(opened)
        return opened

    yield open_it
    for context in contexts:
        context.close()
    for opened in notebooks:
        real = [text for text in opened.complaints if not any(noise in text for noise in OWN_NOISE)]
        assert not real, real


@pytest.fixture
def open_offline(browser):
    """Open an exported page with the network off and check that all its pictures show."""
    contexts = []

    def open_it(path: Path) -> object:
        context = browser.new_context(offline=True)
        contexts.append(context)
        page = context.new_page()
        asked, complaints = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(path.as_uri())
        assert all(url.startswith(("file:", "data:")) for url in asked)
        assert not complaints
        widths = page.evaluate("() => [...document.images].map(i => i.complete && i.naturalWidth)")
        assert all(widths), widths
        return page

    yield open_it
    for context in contexts:
        context.close()
