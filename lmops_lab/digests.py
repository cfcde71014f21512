"""Digests: one changed byte in what this package stores is noticed when it is read.

Against damage, not against intent: whoever edits a file on purpose can compute its digest, too.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lmops_lab.files import file_hash, write_text

DIGEST = "digest"
_SEAL = 64  # bytes of a SHA-256 in hexadecimal digits


class DamagedRecordError(ValueError):
    """A stored record that is not, byte for byte, what was written."""


def digest_of(about: Any, *arrays: NDArray[Any]) -> str:
    """Hash of plain JSON values and of arrays with their types and shapes: 32 hexadecimal digits.

    >>> digest_of({"k": 4}) == digest_of({"k": 4}, np.zeros(0))
    False
    """
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for array in arrays:
        digest.update(f"\0{array.dtype.str}{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:32]


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain values as a JSON object that ends with its own digest, atomically."""
    write_text(path, _text(content))


def read_record(path: Path) -> dict[str, Any]:
    """What `write_record` wrote, without the digest.

    Raises:
        OSError: there is no such file, or it cannot be read.
        DamagedRecordError: anything in it differs from what was written, white space included.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        content.pop(DIGEST)
        same = _text(content) == text
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedRecordError(f"{str(path)!r} is no whole record ({type(error).__name__}: {error})") from error
    if not same:
        raise DamagedRecordError(f"{str(path)!r} is not what was written (wrong digest): it was damaged or edited")
    return dict(content)


def read_table(path: Path | str, remedy: str, columns: Sequence[str] = ()) -> pa.Table:
    """A Parquet file as a table.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedRecordError: it cannot be read, or lacks one of these columns; with `remedy`, what to do about it.
    """
    try:
        table = pq.read_table(path)
        table.validate(full=True)  # texts are text, too
        table = table.select([*columns] or table.column_names)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException, ValueError, KeyError, RuntimeError) as error:
        raise DamagedRecordError(f"{str(path)!r} is no whole Parquet file ({error}); {remedy}") from error
    return table


def file_digests(paths: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of several files, by name."""
    return {name: file_hash(path) for name, path in paths.items()}


def check_files(folder: Path, digests: Mapping[str, str]) -> None:
    """Compare files with the digests that were taken when they were written.

    Raises:
        DamagedRecordError: naming the first that is missing or differs.
    """
    for name, expected in digests.items():
        path = folder / name
        if not path.is_file():
            raise DamagedRecordError(f"{str(path)!r} is missing, which belongs to the record beside it")
        if file_hash(path) != expected:
            raise DamagedRecordError(f"{str(path)!r} is not what was written (wrong hash): it was damaged or edited")


def seal_zip(path: Path) -> None:
    """Give a ZIP archive (torch.save writes one) a comment that holds the SHA-256 of everything before it."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"0" * _SEAL
    with path.open("r+b") as file:
        digest = _before_seal(file)
        file.seek(-_SEAL, 2)
        file.write(digest)


def check_sealed(path: Path, remedy: str) -> None:
    """Check that an archive is, byte for byte, what `seal_zip` left.

    Raises:
        OSError: there is no such file, or it cannot be read.
        DamagedRecordError: it was cut or changed; with `remedy`, what to do about it.
    """
    with path.open("rb") as file:
        if file.seek(0, 2) >= _SEAL:
            digest = _before_seal(file)
            file.seek(-_SEAL, 2)
            if file.read() == digest:
                return
    raise DamagedRecordError(f"{str(path)!r} is not what was written (wrong digest): it was damaged; {remedy}")


def _before_seal(file: IO[bytes]) -> bytes:
    """SHA-256, in hexadecimal digits, of all but the seal."""
    digest, left = hashlib.sha256(), file.seek(0, 2) - _SEAL
    file.seek(0)
    while left > 0:
        block = file.read(min(left, 2**20))
        digest.update(block)
        left -= len(block)
    return digest.hexdigest().encode()


def _text(content: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(content))  # as it will be read: keys are text, tuples are lists
    return json.dumps({**plain, DIGEST: digest_of(plain)}, indent=1) + "\n"
