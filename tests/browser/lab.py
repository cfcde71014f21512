"""A real JupyterLab and a real browser, as context managers: for the tests and for the benchmark of the widgets."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

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


@contextmanager
def running_lab(folder: Path, settings: Path) -> Iterator[Lab]:
    """JupyterLab on a free port of this machine, serving `folder`; `settings` is an empty folder."""
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


@contextmanager
def running_browser() -> Iterator[object]:
    """Debian's Chromium, headless."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


def open_page(lab: Lab, browser: object, artefacts: Path, name: str, code: str) -> tuple[object, Opened]:
    """Open a notebook with one cell in a context of its own, without running it: the context and the page."""
    context = browser.new_context(viewport={"width": 1500, "height": 1300}, device_scale_factor=1)
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
    return context, opened
