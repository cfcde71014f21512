"""Pictures on their way to the eye: small copies for a grid, full ones on demand, and a sheet with its provenance."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from widgets.html import clean, without_secrets

THUMB_BUDGET = 6_000_000  # bytes of all small copies together; a trait message then stays well under 10 MB
_STEPS = (
    (512, 88),
    (192, 85),
    (144, 80),
    (112, 75),
    (80, 65),
    (56, 55),
    (40, 45),
)  # longer side in pixels, JPEG quality


def as_png(image: Image.Image, longest: int = 1536) -> bytes:
    """An image as PNG bytes, scaled down where a side is longer than `longest` pixels."""
    stream = io.BytesIO()
    _fitting(image, longest).save(stream, "PNG")
    return stream.getvalue()


def image_hash(image: Image.Image) -> str:
    """A hash of an image's size and pixels: equal pictures, equal hashes."""
    plain = image if image.mode in {"RGB", "RGBA", "L"} else image.convert("RGBA")
    return hashlib.sha256(f"{plain.mode} {plain.size} ".encode() + plain.tobytes()).hexdigest()[:16]


def thumbnails(images: Sequence[Image.Image | None], budget: int = THUMB_BUDGET, *, sharp: bool = False) -> list[bytes]:
    """Small copies of all images (empty bytes for None), as sharp as fits into `budget` bytes together.

    Pictures that are small already are kept loss-free. `sharp` allows copies of 512 pixels, for pages on disk.
    """
    steps = _STEPS if sharp else _STEPS[1:]
    real = [image for image in images if image is not None]
    edge, quality = steps[0]
    # A first picture in ten says how large the rest will be, so that all are scaled once or twice, not six times.
    for edge, quality in steps:
        sample = real[:: max(1, len(real) // 10)]
        size = sum(len(_small(image, edge, quality)) for image in sample) / max(1, len(sample))
        if size * len(real) <= 0.9 * budget:
            break
    start = steps.index((edge, quality))
    for edge, quality in steps[start:]:
        found = [b"" if image is None else _small(image, edge, quality) for image in images]
        if sum(map(len, found)) <= budget:
            return found
    raise ValueError(f"{len(real)} pictures do not fit into {budget:,} bytes; show fewer of them")


def contact_sheet(
    rows: Sequence[Sequence[Image.Image | None]],
    labels: Sequence[str],
    columns: Sequence[str],
    notes: Sequence[str],
    *,
    provenance: Mapping[str, Any],
    cell: int = 256,
) -> Image.Image:
    """All pictures on one sheet, every label in full beside its row; provenance stands below.

    Args:
        rows: pictures [prompts, seeds]; None leaves a gap.
        labels: text of each row, of any length.
        columns: text above each column.
        notes: text under each row (its scores), broken into lines where it is wider than the pictures.
        provenance: names and values, written below the pictures (see also `write_sheet`).
        cell: longer side of a picture, pixels.
    """
    gap, left = 8, 320
    width = left + max(1, len(columns)) * (cell + gap) + gap
    small, bold = _font(13), _font(13, bold=True)
    wrapped = [_wrap(label, small, left - 2 * gap) for label in labels]
    below = [_wrap(note, small, width - left - gap) for note in notes]
    places = [max(cell, 17 * (text.count("\n") + 1)) for text in wrapped]  # height of a row without its notes
    heights = [place + 13 + 17 * (note.count("\n") + 1) for place, note in zip(places, below, strict=True)]
    footer = _wrap("  ".join(f"{k}: {v}" for k, v in without_secrets(provenance).items()), small, width - 2 * gap)
    sheet = Image.new("RGB", (width, 32 + sum(heights) + 17 * (footer.count("\n") + 1) + 2 * gap), "white")
    draw = ImageDraw.Draw(sheet)
    for j, name in enumerate(columns):
        draw.text((left + j * (cell + gap), gap), clean(name), "#333", bold)
    top = 32
    for row, text, note, place, height in zip(rows, wrapped, below, places, heights, strict=True):
        draw.multiline_text((gap, top), text, "#111", small, spacing=2)
        for j, image in enumerate(row):
            if image is not None:
                # Small pictures are enlarged, so that all columns line up.
                fitted = image.convert("RGB")
                scale = cell / max(fitted.size)
                fitted = fitted.resize((max(1, round(fitted.width * scale)), max(1, round(fitted.height * scale))))
                sheet.paste(fitted, (left + j * (cell + gap), top))
        draw.multiline_text((left, top + place + 4), note, "#333", small, spacing=2)
        top += height
    draw.multiline_text((gap, top + gap), footer, "#555", small, spacing=2)
    return sheet


def write_sheet(sheet: Image.Image, target: Path | io.BytesIO, provenance: Mapping[str, Any]) -> None:
    """Write a sheet as PNG; each fact of its provenance becomes a text chunk that image tools read back."""
    chunks = PngInfo()
    for name, value in without_secrets(provenance).items():
        chunks.add_itxt(name[:79] or "fact", value)
    sheet.save(target, "PNG", pnginfo=chunks)


def _fitting(image: Image.Image, longest: int) -> Image.Image:
    image = image if image.mode in {"RGB", "RGBA", "L"} else image.convert("RGBA")
    if max(image.size) <= longest:
        return image
    scale = longest / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # Whole-pixel averaging first: as good to the eye as a full filter, and several times faster.
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.0)


def _small(image: Image.Image, edge: int, quality: int) -> bytes:
    stream = io.BytesIO()
    small = _fitting(image, edge)
    if small is image and max(image.size) <= 96:
        small.save(stream, "PNG")
    else:
        if small.mode == "RGBA":
            white = Image.new("RGBA", small.size, "white")
            small = Image.alpha_composite(white, small)
        small.convert("RGB").save(stream, "JPEG", quality=quality)
    return stream.getvalue()


@lru_cache(maxsize=8)
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / name, size)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Break a text into lines that fit a width in pixels; words longer than a line are broken too."""
    lines: list[str] = []
    for paragraph in clean(text).split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if font.getlength(longer) <= width:
                line = longer
                continue
            if line:
                lines.append(line)
            rest = word
            while font.getlength(rest) > width:
                fits = max(1, int(len(rest) * width / font.getlength(rest)) - 1)
                lines.append(rest[:fits])
                rest = rest[fits:]
            line = rest
        lines.append(line)
    return "\n".join(lines)
