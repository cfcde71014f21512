"""What a widget shows without a kernel: escaped HTML without scripts, pictures inside, the same bytes every time."""

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmops_lab.files import write_text

_FOLDER = Path(__file__).parent
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_SECRET_NAME = re.compile(r"(^|[_\- ])(token|key|secret|password|authorization|credential)s?$|api_?key", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"\b(hf_|sk-|ghp_|github_pat_|xox[bp]-)[A-Za-z0-9_\-]{8,}")
MUTED = "color:var(--jp-ui-font-color2,#666)"
LINE = "1px solid var(--jp-border-color2,#ccc)"

# The colours that JupyterLab would set, for a page that stands alone; readers' dark mode is followed.
_PAGE_STYLE = """
:root { color-scheme: light dark; --jp-layout-color1: #fff; --jp-ui-font-color1: #1c1c1c; --jp-ui-font-color2: #5a5a5a;
  --jp-border-color2: #d0d0d0; --jp-brand-color1: #1565c0; }
@media (prefers-color-scheme: dark) { :root { --jp-layout-color1: #141414; --jp-ui-font-color1: #ececec;
  --jp-ui-font-color2: #a8a8a8; --jp-border-color2: #444; --jp-brand-color1: #64b5f6; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px; padding: 0 1rem;
  background: var(--jp-layout-color1); color: var(--jp-ui-font-color1); }
"""


def clean(text: object) -> str:
    """A text that every encoder accepts: control characters and lone surrogates become U+FFFD.

    >>> clean("a\\x00b\\ud800")
    'a\ufffdb\ufffd'
    """
    return _UNPRINTABLE.sub("\ufffd", str(text))


def escape(text: object) -> str:
    """A text as HTML, safe between tags and inside quoted attributes.

    >>> escape('</style><b title="x">')
    '&lt;/style&gt;&lt;b title=&quot;x&quot;&gt;'
    """
    return html.escape(clean(text), quote=True)


def block(text: object, style: str = "") -> str:
    """Untrusted text in a block of its own: line breaks kept, long words broken, right-to-left scripts set as such."""
    return (
        f'<div dir="auto" style="white-space:pre-wrap;overflow-wrap:anywhere;text-align:start;{style}">'
        f"{escape(text)}</div>"
    )


def picture(data: bytes, alt: object, *, mime: str = "image/png", width: int | None = None) -> str:
    """An image as a data URI, with its description for readers who cannot see it."""
    code = base64.b64encode(data).decode()
    size = f' width="{width}"' if width else ""
    return f'<img src="data:{mime};base64,{code}" alt="{escape(alt)}"{size} style="max-width:100%;height:auto">'


def table(head: Sequence[object], rows: Iterable[Sequence[str]], *, caption: str = "") -> str:
    """A table; the cells of `rows` are HTML already, the head is text."""
    cell = f"padding:4px 10px;text-align:start;vertical-align:top;border-bottom:{LINE}"
    top = "".join(f'<th scope="col" style="{cell}">{escape(name)}</th>' for name in head)
    body = "".join("<tr>" + "".join(f'<td style="{cell}">{value}</td>' for value in row) + "</tr>" for row in rows)
    title = f'<caption style="text-align:start;font-weight:600">{escape(caption)}</caption>' if caption else ""
    return (
        f'<div style="overflow-x:auto"><table style="border-collapse:collapse;margin:6px 0">{title}'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def facts(pairs: Mapping[str, object]) -> str:
    """Names and values in one muted line, secrets left out."""
    shown = " · ".join(f"{escape(name)}: {escape(value)}" for name, value in without_secrets(pairs).items())
    return f'<div style="{MUTED};font-size:.9em">{shown}</div>' if shown else ""


def without_secrets(pairs: Mapping[str, object]) -> dict[str, str]:
    """The same facts with keys, tokens and passwords blanked: what a widget holds is saved in notebooks.

    >>> without_secrets({"model": "m", "api_key": "abc", "note": "hf_abcdefghijkl", "tokens": 77})
    {'model': 'm', 'api_key': '(hidden)', 'note': '(hidden)', 'tokens': '77'}
    """
    shown = {clean(name): _SECRET_VALUE.sub("(hidden)", clean(value)) for name, value in pairs.items()}
    return {
        name: "(hidden)" if _SECRET_NAME.search(name) and not value.isdigit() else value
        for name, value in shown.items()
    }


def notice(message: str) -> str:
    """A message where a reader would otherwise see nothing."""
    if not message:
        return ""
    return (
        '<div role="note" style="border-inline-start:4px solid #c77700;padding:4px 10px;margin:6px 0">'
        f"{escape(message)}</div>"
    )


def dom_id(*parts: object) -> str:
    """An id that depends on content alone, so that two runs give the same page."""
    return "ll-" + hashlib.sha256("\x1f".join(map(clean, parts)).encode()).hexdigest()[:12]


def page(title: str, body: str) -> str:
    """A whole document that needs nothing but itself."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_PAGE_STYLE}</style></head><body>{body}</body></html>\n"
    )


def front(name: str) -> str:
    """The JavaScript of a widget: what all share, then its own file, as one module."""
    return "\n".join((_FOLDER / part).read_text(encoding="utf-8") for part in ("common.js", name))


STYLE = _FOLDER / "style.css"


class Fallback:
    """What every widget adds to its live view: a static page in the notebook, and the same as a file."""

    def fallback(self) -> str:
        """The widget as HTML without scripts."""
        raise NotImplementedError

    def document(self) -> str:
        """What `to_html` writes; at least as detailed as the fallback."""
        return self.fallback()

    def to_html(self, path: str | Path) -> Path:
        """Write the widget as one file that opens anywhere, without a network. Returns its path."""
        target = Path(path)
        write_text(target, page(type(self).__name__, self.document()))
        return target

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})  # type: ignore[misc]
        return data | {"text/plain": repr(self), "text/html": self.fallback()}, metadata
