"""The docs' table of architectures, as the probe reports it: `python -m tests.attention.coverage` writes it anew."""

from pathlib import Path

from lmops_lab.attention.probe import prepare
from tests.tiny import ARCHITECTURES, tiny_model

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"


def table() -> str:
    """One row an architecture: route, positions, sliding layers, extras."""
    rows = ["| architecture | route | positions | sliding layers | besides |", "|---|---|---|---|---|"]
    for kind in ARCHITECTURES:
        found = prepare(tiny_model(kind))
        sliding = {0: "none", found.layers: "all"}.get(len(found.sliding_layers), "some")
        extras = ", ".join(name for name in ("softcap", "sinks") if getattr(found, name))
        rows.append(f"| `{kind}` | {found.route} | {found.positions} | {sliding} | {extras} |")
    return "\n".join(rows)


def main() -> None:
    """Put the table between its marks on the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
