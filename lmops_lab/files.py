"""Files that appear whole or not at all, and the folders that this package writes to.

Every writer of this package goes through `atomic_file` or `atomic_folder`. A writer holds a lock on its temporary file
or folder, which the system frees however the process ends: what is not locked is a dead writer's and is removed by the
next writer of that folder, in whatever process, container or machine it runs.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

try:
    import fcntl
except ImportError:  # Windows: no such locks, so leftovers are known by their age
    fcntl = None  # type: ignore[assignment]

_MARK = ".partial-"
_TEMPORARY = re.compile(rf"\..*{re.escape(_MARK)}[a-z0-9_]{{8}}(\..*)?")
_LONGEST = 50  # characters of the final name in the temporary one: a name may have 255 bytes
_SWEEP_EVERY, _OLD = 30.0, 24 * 3600.0  # seconds
_swept: dict[Path, float] = {}


def cache_folder() -> Path:
    """Where converted weights and encoded groups are kept: $LMOPS_LAB_CACHE, or the user's cache folder."""
    return Path(os.environ.get("LMOPS_LAB_CACHE") or platformdirs.user_cache_path("lmops_lab"))


@contextmanager
def atomic_file(path: Path, *, in_folder: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and vanishes when it does not.

    Args:
        in_folder: the temporary path lies in a locked temporary folder. For libraries that write by way of a temporary
            file of their own (safetensors does): that one bears no lock and would outlive a kill.
    """
    with _locked_folder(path) if in_folder else _locked_file(path) as held:
        temporary = held / f"file{path.suffix}" if in_folder else held
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically (UTF-8)."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Like `atomic_file`, for a folder.

    Args:
        replace: put it in the place of an older folder; a kill between the two steps of that leaves none of that name,
            never half of one. Otherwise, if another process finished the same folder first, that one stays.
    """
    with _locked_folder(path) as temporary:
        yield temporary
        temporary.chmod(0o755)
        if replace and path.is_dir():
            aside = Path(tempfile.mkdtemp(prefix=_prefix(path), dir=path.parent))
            aside.rmdir()
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                path.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise


def sweep_leftovers(folder: Path) -> int:
    """Remove the temporary files and folders in `folder` whose writers are dead; returns how many there were."""
    removed = 0
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name) and _abandoned(Path(entry.path)):
                removed += 1
    return removed


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _prefix(path: Path) -> str:
    return f".{path.name[:_LONGEST]}{_MARK}"


def _begin(folder: Path) -> None:
    """Make the folder; sweep it unless this process did so a moment ago (thousands of cells share one folder)."""
    folder.mkdir(parents=True, exist_ok=True)
    now = time.monotonic()
    if now - _swept.get(folder, -_SWEEP_EVERY) >= _SWEEP_EVERY:
        _swept[folder] = now
        sweep_leftovers(folder)


@contextmanager
def _locked_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, locked, and gone at the end unless it was moved."""
    _begin(path.parent)
    while True:
        handle, name = tempfile.mkstemp(prefix=_prefix(path), suffix=path.suffix, dir=path.parent)
        if _held(handle, Path(name)):
            break
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def _locked_folder(path: Path) -> Iterator[Path]:
    """Like `_locked_file`, a folder."""
    _begin(path.parent)
    while True:
        temporary = Path(tempfile.mkdtemp(prefix=_prefix(path), dir=path.parent))
        handle = os.open(temporary, os.O_RDONLY) if fcntl else -1
        if _held(handle, temporary):
            break
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if handle >= 0:
            os.close(handle)


def _held(handle: int, path: Path) -> bool:
    """Lock what was just made. False where a sweep was faster and removed it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:  # a file system without locks, on which nobody sweeps by them either
        return True
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        os.close(handle)
        return False


def _abandoned(path: Path) -> bool:
    """Remove a temporary file or folder if nobody holds it; whether it was removed."""
    try:
        if fcntl is None:
            if time.time() - path.stat().st_mtime < _OLD:
                return False
            _remove(path)
            return True
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(path)
    except OSError:  # held by its living writer
        return False
    finally:
        os.close(handle)
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()
