"""A grid as one labelled PNG: axes outside, pictures unscaled, labels wrapped and whole."""

import io
import itertools
import json
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, PngImagePlugin

from lmops_lab.generation import fonts
from lmops_lab.generation.pictures import Axis, ImageGrid

CHUNK = "lmops_lab_sheet"  # keyword of the text chunk
_GAP, _MARGIN = 4, 8
_ROW_LABEL = 240  # pixels that a row's label may take before it wraps
_LEAST_CELL = 96  # pixels a column is wide at least: small pictures still need legible labels


def draw_sheet(grid: ImageGrid, columns: Sequence[str] | None = None) -> Image.Image:
    """Draw a grid with a label at every row and column.

    Args:
        columns: names of the axes that run to the right, slowest first; default the last axis. The others run down.

    Raises:
        ValueError: no such axis.
    """
    across = [grid.axis(name) for name in columns] if columns is not None else list(grid.axes[-1:])
    down = [axis for axis in grid.axes if axis not in across]
    order = {axis.name: at for at, axis in enumerate(grid.axes)}
    strides = [math.prod(grid.shape[at + 1 :]) for at in range(len(grid.axes))]
    width = max(_LEAST_CELL, *(image.width for image in grid.images))
    rows, heads = _labels(down, _ROW_LABEL), _labels(across, width)
    # A picture's seed is written below it where no axis tells it.
    own_seed = "seed" not in order and len({picture.recipe.seed for picture in grid.pictures}) > 1
    foot = fonts.line_height() if own_seed else 0
    picture_height = max(image.height for image in grid.images) + foot
    left = math.ceil(max((fonts.text_width(line) for _, lines in rows for line in lines), default=0.0)) + 2 * _MARGIN
    top = max(len(lines) for _, lines in heads) * fonts.line_height() + _MARGIN
    heights = [max(picture_height, len(lines) * fonts.line_height()) + _GAP for _, lines in rows]
    sheet = Image.new("RGB", (left + len(heads) * (width + _GAP) + _MARGIN, top + sum(heights) + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (_, lines) in enumerate(heads):
        fonts.draw_lines(draw, (left + column * (width + _GAP), _MARGIN // 2), lines)
    y = top
    for (row, lines), height in zip(rows, heights, strict=True):
        fonts.draw_lines(draw, (_MARGIN, y), lines)
        for column, (head, _) in enumerate(heads):
            points = dict(zip((axis.name for axis in (*down, *across)), (*row, *head), strict=True))
            picture = grid.pictures[sum(strides[order[name]] * at for name, at in points.items())]
            x = left + column * (width + _GAP)
            sheet.paste(picture.image, (x, y))
            if own_seed:
                fonts.draw_lines(draw, (x, y + picture.image.height), [f"seed {picture.recipe.seed}"])
        y += height
    return sheet


def sheet_bytes(grid: ImageGrid, columns: Sequence[str] | None = None) -> bytes:
    """The sheet as a PNG that carries the recipes of all its pictures."""
    chunks = PngImagePlugin.PngInfo()
    about = {
        "sheet": [{"name": axis.name, "points": list(axis.points)} for axis in grid.axes],
        "recipes": [picture.recipe.to_dict() for picture in grid.pictures],
    }
    chunks.add_text(CHUNK, json.dumps(about), zip=True)
    stream = io.BytesIO()
    draw_sheet(grid, columns).save(stream, format="PNG", pnginfo=chunks)
    return stream.getvalue()


def _labels(axes: Sequence[Axis], width: int) -> list[tuple[tuple[int, ...], list[str]]]:
    """Every combination of points, with the wrapped lines of its label."""
    found = []
    for place in itertools.product(*(range(len(axis.points)) for axis in axes)):
        texts = [axis.label(at) for axis, at in zip(axes, place, strict=True)]
        found.append((place, [line for text in texts for line in fonts.wrap(text, width)]))
    return found
