# ruff: noqa: INP001
"""What the site needs beyond Markdown: reference pages from the package's modules, and equations without JavaScript."""

import html
import io
import logging
import re
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[1] / "lmops_lab"


def rooms() -> dict[str, list[str]]:
    """Room of the package -> its modules, in the order of their names."""
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if not path.name.startswith("_") and "__pycache__" not in parts:
            found.setdefault(parts[1] if len(parts) > 2 else "top", []).append(".".join(parts))
    return found


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put one reference page a room into the navigation."""
    pages = [{room: f"reference/{room}.md"} for room in rooms()]
    logging.getLogger("mkdocs.plugins.mkdocs_autorefs._internal.plugin").addFilter(_no_shape)
    config.nav = [*(entry for entry in config.nav if "Reference" not in entry), {"Reference": pages}]
    return config


def _no_shape(entry: logging.LogRecord) -> bool:
    """Docstrings write shapes and indices in brackets, "[rows][columns]", which Markdown takes for links."""
    message = entry.getMessage()
    return not ("reference/" in message and "Could not find cross-reference target" in message)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Write the reference pages: a directive a module; mkdocstrings fills them from the docstrings."""
    for room, modules in rooms().items():
        title = "lmops_lab" if room == "top" else f"lmops_lab.{room}"
        text = f"# `{title}`\n\n" + "\n\n".join(f"::: {module}" for module in modules) + "\n"
        files.append(File.generated(config, f"reference/{room}.md", content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Draw ```math blocks as SVG in the text's own colour, with their source as the alternative text."""
    return re.sub(r"^```math\n(.*?)^```$", lambda match: equations(match[1]), markdown, flags=re.DOTALL | re.MULTILINE)


def equations(source: str) -> str:
    """One SVG a line of TeX (the subset that matplotlib's mathtext reads)."""
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    return '<div class="equation">' + "".join(map(_equation, lines)) + "</div>"


def _equation(tex: str) -> str:
    with mpl.rc_context({"mathtext.fontset": "stix", "svg.fonttype": "path", "svg.hashsalt": tex}):
        figure = Figure()
        figure.text(0, 0, "$" + tex.replace(r"\frac", r"\dfrac") + "$", fontsize=13)
        stream = io.BytesIO()
        figure.savefig(
            stream, format="svg", bbox_inches="tight", pad_inches=0.04, transparent=True, metadata={"Date": None}
        )
    svg = stream.getvalue().decode()
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    words = html.escape(tex, quote=True)
    label = f'<svg role="img" aria-label="{words}" fill="currentColor"'
    return re.sub(r"\s*\n\s*", " ", svg.replace("<svg", label, 1))
