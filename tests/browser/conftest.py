"""A real JupyterLab and a real browser: one server for all tests, one notebook and one page for each."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# JupyterLab's own complaints; anything else fails a test.
OWN_NOISE = ("favicon", "api/contents/", "jupyterlab/api/news", "lsp", "ResizeObserver loop", "sourceMappingURL")


@dataclass
class Lab:
    """A running server and its folder."""

    folder: Path
    url: str
    token: str

    def notebook(self, name: str, code: str) -> str:
        """Write a notebook with one cell and return its address."""
        book = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(code)],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        )
        nbformat.write(book, self.folder / f"{name}.ipynb")
        return f"{self.url}/doc/tree/{name}.ipynb?token={self.token}&reset"


@dataclass
class Opened:
    """A notebook in the browser: the page, what the browser complained about, where the pictures go."""

    page: object
    folder: Path
    artefacts: Path
    complaints: list = field(default_factory=list)

    def shot(self, name: str) -> None:
        """Keep a screenshot of the widget."""
        self.page.locator(".ll").first.screenshot(path=self.artefacts / f"{name}.png", animations="disabled")

    def theme(self, name: str) -> None:
        """Switch JupyterLab's theme ("Light" or "Dark")."""
        self.page.evaluate(
            "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: `JupyterLab ${name}`})", name
        )
        light = "true" if name == "Light" else "false"
        self.page.wait_for_selector(f'body[data-jp-theme-light="{light}"]', state="attached")
        self.page.wait_for_timeout(800)

    def both_themes(self, name: str) -> None:
        """Keep the widget as it looks in the light and in the dark theme."""
        for theme in ("Light", "Dark"):
            self.theme(theme)
            self.shot(f"{name}_{theme.lower()}")

    def kernel_wrote(self, name: str, wanted: str, seconds: float = 30) -> str:
        """Wait until a file that the kernel writes holds a text."""
        path, end, text = self.folder / name, time.monotonic() + seconds, ""
        while time.monotonic() < end:
            text = path.read_text() if path.exists() else ""
            if wanted in text:
                return text
            self.page.wait_for_timeout(100)
        raise AssertionError(f"{name} never held {wanted!r}; it holds {text[:500]!r}")


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
        pytest.skip("no Chromium on the path: apt install chromium")
    folder, settings = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("settings")
    quiet = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JUPYTER_CONFIG_DIR": str(settings),
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(settings / "workspaces"),
    }
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"),
        *(f"--port={port}", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"),
        *("--ServerApp.port_retries=0", "--LabApp.expose_app_in_browser=True"),
    ]
    with (settings / "log.txt").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    lab = Lab(folder, f"http://127.0.0.1:{port}", token)
    try:
        _wait(f"{lab.url}/api/status?token={token}", server, settings / "log.txt")
        yield lab
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(url: str, server: subprocess.Popen, log: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on the path: apt install chromium")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_notebook(lab, browser, artefacts):
    """Open a notebook with one cell, run it, wait for its widget; a browser that complained fails the test."""
    contexts, notebooks = [], []

    def open_it(name: str, code: str) -> Opened:
        context = browser.new_context(viewport={"width": 1500, "height": 1300}, device_scale_factor=1)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(90_000)
        opened = Opened(page, lab.folder, artefacts)
        page.on("pageerror", lambda error: opened.complaints.append(f"error: {error}"))
        page.on("console", lambda m: opened.complaints.append(f"{m.text} {m.location}") if m.type == "error" else None)
        page.goto(lab.notebook(name, code))
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        # Running cells before the kernel is there makes JupyterLab ask which kernel to use.
        page.wait_for_function(
            "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        )
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
