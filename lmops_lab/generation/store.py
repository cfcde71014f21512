"""The image store: finished pictures on disk, found by the recipe they were made from."""

import contextlib
import errno
import os
import shutil
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from lmops_lab.files import cache_folder
from lmops_lab.generation.pictures import Picture
from lmops_lab.generation.png import read_picture, write_picture
from lmops_lab.generation.recipe import Recipe

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StoreFullError(OSError):
    """The disk under an image store takes no more; what was finished stays readable."""


@dataclass(frozen=True)
class ImageStore:
    """A folder of PNG files named by a hash of their recipe, the least recently used removed beyond a size.

    Attributes:
        folder: where the files are.
        limit: bytes that may stay on disk.
    """

    folder: Path = field(default_factory=lambda: cache_folder() / "pictures")
    limit: int = 4 * 2**30

    def __post_init__(self) -> None:
        if self.limit <= 0:
            raise ValueError(f"limit is {self.limit} bytes; give a positive number")

    def path(self, recipe: Recipe) -> Path:
        """Where a recipe's picture is or would be."""
        return self.folder / recipe.key[:2] / f"{recipe.key}.png"

    def prepare(self) -> None:
        """Make the folder, before any slow work.

        Raises:
            StoreFullError: the disk is full.
            OSError: the folder cannot be made or written.
        """
        with self._explained():
            self.folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self.folder, os.W_OK):
            raise PermissionError(f"the image store {str(self.folder)!r} cannot be written; give another folder")

    def read(self, recipe: Recipe) -> Picture | None:
        """A finished picture, or None. A file that is damaged, edited or another recipe's counts as missing."""
        path = self.path(recipe)
        try:
            made, image = read_picture(path)
        except (FileNotFoundError, ValueError):
            return None
        if made.key != recipe.key or not made.intact:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # its last use, for `trim`
        return Picture(recipe, image, made.flagged, path, reused=True)

    def write(self, recipe: Recipe, image: Image.Image, flagged: bool | None) -> Picture:
        """Store a picture.

        Raises:
            StoreFullError: the disk is full; all pictures written before stay.
        """
        path = self.path(recipe)
        with self._explained():
            write_picture(path, recipe, image, flagged)
        return Picture(recipe, image, flagged, path)

    def size(self) -> int:
        """Bytes on disk."""
        return sum(size for _, size, _ in self._files())

    def trim(self, wanted: Collection[str] = (), room_for: int = 0) -> int:
        """Remove the least recently used pictures until `room_for` more bytes stay within the limit.

        Args:
            wanted: keys that go last, with a warning: the grid that is being made does not fit the limit.

        Returns:
            How many were removed.
        """
        files = sorted((path.stem in wanted, used, size, path) for used, size, path in self._files())
        total = sum(size for _, _, size, _ in files) + room_for
        removed, lost = 0, 0
        for is_wanted, _, size, path in files:
            if total <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= size
            removed += 1
            lost += is_wanted
        if lost:
            warnings.warn(
                f"the image store's limit of {self.limit / 1e6:.3g} MB is smaller than this grid: {lost} of its "
                "pictures were removed again and a repetition makes them anew; raise `limit`",
                stacklevel=2,
            )
        return removed

    def _files(self) -> list[tuple[float, int, Path]]:
        """(last use, bytes, path) of every picture."""
        found = []
        for path in self.folder.glob("??/*.png"):
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        return found

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what to do about a full disk."""
        try:
            yield
        except OSError as error:
            if error.errno not in _FULL:
                raise
            nearest = next(p for p in (self.folder, *self.folder.absolute().parents) if p.is_dir())
            free = shutil.disk_usage(nearest).free
            raise StoreFullError(
                error.errno,
                f"the disk of the image store {str(self.folder)!r} is full ({free / 1e6:.3g} MB free); finished "
                "pictures stay there: free some space, or give another store, and call again to continue",
            ) from error
