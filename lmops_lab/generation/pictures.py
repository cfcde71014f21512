"""Pictures with their recipes, and grids of them over named axes."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from lmops_lab.digests import read_record, write_record
from lmops_lab.files import atomic_folder
from lmops_lab.generation.png import read_picture, write_picture
from lmops_lab.generation.recipe import Recipe
from lmops_lab.rewards.interface import Reward, score_images

Value = str | int | float
"""A point of an axis."""

_MANIFEST = "grid.json"


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture and how it was made.

    Attributes:
        image: RGB pixels.
        flagged: verdict of the pipeline's safety checker (a flagged picture is black); None where it has none.
        path: its file in the store, or None.
        reused: whether it was found in the store.
    """

    recipe: Recipe
    image: Image.Image
    flagged: bool | None = None
    path: Path | None = None
    reused: bool = False


@dataclass(frozen=True)
class Axis:
    """A named axis of a grid with its points, each once along the axis."""

    name: str
    points: tuple[Value, ...]

    def label(self, at: int) -> str:
        """What a reader sees beside a row or above a column; never cut."""
        value = self.points[at]
        text = f"{value:g}" if isinstance(value, float) else str(value)
        if self.name == "prompt":
            return text
        return f"{self.name.replace('_', ' ')} {text or '(none)'}"


@dataclass(frozen=True, eq=False)
class ImageGrid:
    """Pictures over axes, the last axis running fastest.

    Attributes:
        axes: for example prompt and seed. Where every prompt has its own seeds, the axis is called "draw" and the
            seeds are in the recipes.
        pictures: as many as the product of the axes' lengths.
    """

    axes: tuple[Axis, ...]
    pictures: tuple[Picture, ...]

    def __post_init__(self) -> None:
        if math.prod(self.shape) != len(self.pictures):
            raise ValueError(f"axes of {self.shape} points need {math.prod(self.shape)}, not {len(self.pictures)}")

    def __repr__(self) -> str:
        size = " x ".join(f"{len(axis.points)} {axis.name}" for axis in self.axes)
        found = sum(picture.reused for picture in self.pictures)
        flagged = sum(bool(picture.flagged) for picture in self.pictures)
        return (
            f"ImageGrid {size}: {len(self.pictures)} pictures, {found} from the store"
            f"{f', {flagged} blacked out by the safety checker' if flagged else ''}"
        )

    def _repr_png_(self) -> bytes:
        """The labelled sheet, for notebooks."""
        from lmops_lab.generation.sheet import sheet_bytes

        return sheet_bytes(self)

    @property
    def shape(self) -> tuple[int, ...]:
        """Points of every axis."""
        return tuple(len(axis.points) for axis in self.axes)

    @property
    def images(self) -> list[Image.Image]:
        """All pixels, the last axis running fastest."""
        return [picture.image for picture in self.pictures]

    @property
    def prompts(self) -> list[str]:
        """The prompt of every picture, in the order of `images`."""
        return [picture.recipe.prompt for picture in self.pictures]

    @property
    def seeds(self) -> NDArray[np.int64]:
        """The actual seed of every picture, in the shape of the grid."""
        return np.array([picture.recipe.seed for picture in self.pictures], dtype=np.int64).reshape(self.shape)

    def axis(self, name: str) -> Axis:
        """The axis of that name.

        Raises:
            ValueError: no such axis.
        """
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise ValueError(f"the grid has no axis {name!r}; it has {', '.join(axis.name for axis in self.axes)}")

    def select(self, **points: Value) -> "ImageGrid":
        """The part of the grid at these points; axes named here disappear.

        Raises:
            ValueError: no such axis or point.
        """
        indices = np.arange(len(self.pictures)).reshape(self.shape)
        at: list[int | slice] = [slice(None)] * len(self.axes)
        for name, value in points.items():
            axis = self.axis(name)
            if value not in axis.points:
                raise ValueError(f"axis {name!r} has no {value!r}; it has {', '.join(map(repr, axis.points))}")
            at[self.axes.index(axis)] = axis.points.index(value)
        kept = tuple(axis for axis in self.axes if axis.name not in points)
        return ImageGrid(kept, tuple(self.pictures[i] for i in np.ravel(indices[tuple(at)])))

    def picture(self, **points: Value) -> Picture:
        """The one picture at these points (axes with a single point need not be named).

        Raises:
            ValueError: no such point, or more than one picture there.
        """
        part = self.select(**points)
        if len(part.pictures) != 1:
            raise ValueError(f"{len(part.pictures)} pictures are at {points}; name {[a.name for a in part.axes]} too")
        return part.pictures[0]

    def to_array(self) -> NDArray[np.uint8]:
        """Pixels in the shape of the grid: [*axes, height, width, 3].

        Raises:
            ValueError: pictures of several sizes.
        """
        sizes = {image.size for image in self.images}
        if len(sizes) > 1:
            raise ValueError(f"the pictures have several sizes, {sorted(sizes)}; select one of them first")
        pixels = np.stack([np.asarray(image.convert("RGB")) for image in self.images])
        return pixels.reshape(*self.shape, *pixels.shape[1:])

    def to_frame(self) -> pd.DataFrame:
        """One row per picture: its place, its whole recipe (the actual seed too), the verdict, the file."""
        rows: list[dict[str, Any]] = []
        for place, picture in zip(np.ndindex(self.shape), self.pictures, strict=True):
            recipe = picture.recipe.to_dict()
            versions = recipe.pop("versions")
            row = {axis.name: axis.points[at] for axis, at in zip(self.axes, place, strict=True)}
            rows.append(
                row
                | recipe
                | {"key": picture.recipe.key, "flagged": picture.flagged}
                | {"file": str(picture.path or ""), "versions": json.dumps(versions)}
            )
        return pd.DataFrame(rows)

    def score(self, reward: Reward, prompts: Sequence[str] | None = None) -> NDArray[np.float64]:
        """Scores of all pictures in the shape of the grid.

        Args:
            reward: any `f(images, prompts) -> scores` (see `lmops_lab.rewards.interface`).
            prompts: what each picture is scored against, one per picture in the order of `images`; default its own
                prompt. A rewritten prompt is scored against the original one.
        """
        return score_images(reward, self.images, prompts or self.prompts).reshape(self.shape)

    def sheet(self, columns: Sequence[str] | None = None) -> Image.Image:
        """The grid as one labelled picture (see `lmops_lab.generation.sheet`)."""
        from lmops_lab.generation.sheet import draw_sheet

        return draw_sheet(self, columns)

    def save(self, folder: Path | str) -> Path:
        """Write a new folder with the sheet, every picture and the axes, which `ImageGrid.load` reads.

        Raises:
            FileExistsError: the folder exists.
        """
        folder = Path(folder)
        if folder.exists():
            raise FileExistsError(f"{str(folder)!r} exists; choose another folder for the grid")
        with atomic_folder(folder) as temporary:
            names = []
            for picture in self.pictures:
                name = f"pictures/{picture.recipe.key}.png"
                if name not in names:
                    write_picture(temporary / name, picture.recipe, picture.image, picture.flagged)
                names.append(name)
            axes = [{"name": axis.name, "points": list(axis.points)} for axis in self.axes]
            write_record(temporary / _MANIFEST, {"axes": axes, "pictures": names})
            (temporary / "sheet.png").write_bytes(self._repr_png_())
            self.to_frame().assign(file=names).to_csv(temporary / "grid.csv", index=False)
            temporary.chmod(0o755)
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> "ImageGrid":
        """A grid that `save` wrote; nothing is generated.

        Raises:
            FileNotFoundError: a folder without a grid.
            ValueError: a picture without provenance or with other pixels than were written, or a damaged list.
        """
        folder = Path(folder)
        if not (folder / _MANIFEST).is_file():
            raise FileNotFoundError(f"{str(folder)!r} holds no {_MANIFEST}; give a folder that ImageGrid.save wrote")
        about: Mapping[str, Any] = read_record(folder / _MANIFEST)
        try:
            axes = tuple(Axis(str(axis["name"]), tuple(axis["points"])) for axis in about["axes"])
            names = [str(name) for name in about["pictures"]]
            inside = [(folder / name).resolve().is_relative_to(folder.resolve()) for name in names]
        except (KeyError, TypeError, ValueError) as error:  # a name may hold what no file's name can
            raise ValueError(f"{_MANIFEST} of {str(folder)!r} lists no grid ({error}); make it again") from error
        if not all(inside):
            first = names[inside.index(False)]
            raise ValueError(f"{_MANIFEST} of {str(folder)!r} names {first!r}, which is outside that folder")
        pictures = []
        for name in names:
            made, image = read_picture(folder / name)
            if not made.intact:
                raise ValueError(f"the pixels of {str(folder / name)!r} are not those that were written; make it again")
            pictures.append(Picture(made.recipe, image, made.flagged, folder / name, reused=True))
        return cls(axes, tuple(pictures))
