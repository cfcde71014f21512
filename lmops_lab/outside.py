"""Text from outside as plain values, or one clear error: whatever the file holds, soon and in little memory."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

# Settings that people write are a page long; a megabyte is something else.
YAML_BYTES = 2**20
_DEPTH = 100

# libyaml's loader where PyYAML was built with it: the same rules, ten times as fast.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises:
        ValueError: other bytes, with their place.
        OSError: no such file, or one that cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text ({error}); save it as UTF-8") from error


def parse_json(text: str | bytes, where: str) -> Any:
    """Plain values from a JSON text.

    Args:
        where: what the text is, for the error ("votes.jsonl line 3").

    Raises:
        ValueError: no JSON, or JSON nested too deeply.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        shown = text if isinstance(text, str) else text.decode("utf-8", "replace")
        raise ValueError(f"{where} is not JSON ({error}): {shown.strip()[:80]!r}") from error


def read_yaml(path: Path) -> Any:
    """Plain values from a YAML file of settings.

    No objects are made, and aliases (`*name`) are refused: nine lines with them can stand for a billion values.

    Raises:
        ValueError: no YAML, an alias, or a file that is too large or too deep for settings.
        OSError: no such file, or one that cannot be read.
    """
    if (size := path.stat().st_size) > YAML_BYTES:
        raise ValueError(f"{path.name} has {size:,} bytes; settings in YAML take at most {YAML_BYTES:,}")
    text, depth = read_text(path), 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1 if event.start_mark else "?"
                raise ValueError(f"{path.name} has the alias *{event.anchor} in line {line}; write the value out")  # noqa: TRY004, TRY301
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEPTH:
                raise ValueError(f"{path.name} nests more than {_DEPTH} levels; settings are flat")  # noqa: TRY301
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader: it makes plain values alone
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is not YAML: {' '.join(str(error).split())[:500]}") from error
    except (ValueError, RecursionError, OverflowError) as error:
        if str(error).startswith(path.name):
            raise
        raise ValueError(f"{path.name} holds a value that is none ({error})") from error  # 2024-99-99


def read_parquet(path: Path) -> pa.Table:
    """The table of a Parquet file.

    Raises:
        ValueError: a file that is damaged or no Parquet file.
        FileNotFoundError: no such file.
        OSError: a file that cannot be opened.
    """
    try:
        return pq.read_table(path)
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno is not None:  # the system's own
            raise
        raise ValueError(f"{path.name} is not a readable Parquet file ({error})") from error
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name} is not a readable Parquet file ({error})") from error
