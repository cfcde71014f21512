"""What the training in a folder is of, so that a call with other settings never goes on from its checkpoints."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmops_lab.digests import read_record, write_record

RUN = "run.json"


def check_run(path: Path, facts: Mapping[str, Any]) -> bool:
    """Whether a training of these facts was begun at `path`; False where none was begun.

    Raises:
        ValueError: one with other facts was begun (all that differ are named), or its record is damaged.
    """
    if not path.is_file():
        return False
    begun, asked = read_record(path), _plain(facts)
    other = [name for name in {**begun, **asked} if begun.get(name) != asked.get(name)]
    if other:
        words = "; ".join(f"{name} was {begun.get(name)!r} and is {asked.get(name)!r}" for name in other)
        raise ValueError(f"{str(path.parent)!r} holds a training with other settings ({words}); use another folder")
    return True


def begin_run(path: Path, facts: Mapping[str, Any]) -> None:
    """Like `check_run`, and write the facts down where no training was begun.

    Args:
        facts: plain values; paths become texts.
    """
    if not check_run(path, facts):
        write_record(path, _plain(facts))


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(facts, default=str)))
