"""A sweep's grid: which values of which settings, typed, with the nearest name for a mistyped one."""

import difflib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lmops_lab.attention.context import OwnWeight
from lmops_lab.icl.calibration import CALIBRATIONS
from lmops_lab.icl.choices import READINGS
from lmops_lab.icl.corruption import Share
from lmops_lab.icl.demonstrations import ORDERS
from lmops_lab.icl.draws import Draw
from lmops_lab.icl.experiment import DEFAULT_METHODS, METHODS
from lmops_lab.icl.plan import check_own_weight
from lmops_lab.icl.prompts import DOMAIN_TEXTS
from lmops_lab.icl.selections import SIMILARITIES, WAYS, Selection
from lmops_lab.origins import EMBEDDED
from lmops_lab.outside import read_yaml

_TASK_OPTIONS = ("name", "template", "labels", "label_column", "config", "train_split", "test_split")
_TYPES: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "task": (str, Mapping),
    "method": (str,),
    "k": (int,),
    "seed": (int,),
    "group_size": (int,),
    "own_weight": (str, int, float),
    "bos": (str,),
    "balanced": (bool,),
    "order": (str,),
    "corruption": (int, float),
    "flipped": (bool,),
    "order_seed": (int,),
    "selection": (str,),
    "candidates": (int,),
    "similarity": (str,),
    "tail": (int,),
    "calibration": (str,),
}
_WORDS: dict[str, tuple[str, ...]] = {
    "method": METHODS,
    "calibration": tuple(dict.fromkeys((*CALIBRATIONS, *READINGS))),
    "bos": ("none", "group", "shared"),
    "order": ORDERS,
    "selection": WAYS,
    "similarity": SIMILARITIES,
}
_FROM_ONE = (("group_size", 1), ("candidates", 1), ("tail", 1))


@dataclass(frozen=True)
class Grid:
    """Every combination of these values is a cell of the sweep, and equal work is done once.

    Calibrations are computed from stored log-probabilities: they multiply the rows of the table, not the work. A task
    is a name as `load_task` takes it, or a mapping of that name and `load_task`'s other arguments. A task has those
    calibrations that it can: "mean", "characters" and "pmi" are of multiple choice (there "raw" is the sum).

    Attributes:
        selection, candidates, similarity, tail: how each query gets its demonstrations (see `Selection`).
        queries: test examples asked at every cell.
        domain: in-domain texts of domain-context calibration at every cell; 0 goes with no calibration "domain".
        dtype, device: as in `load_model`.
    """

    k: tuple[int, ...]
    model: tuple[str, ...] = (EMBEDDED,)
    task: tuple[str | Mapping[str, Any], ...] = ("reviews",)
    method: tuple[str, ...] = DEFAULT_METHODS
    seed: tuple[int, ...] = (1, 2, 3)
    group_size: tuple[int, ...] = (16,)
    own_weight: tuple[OwnWeight, ...] = ("groups",)
    bos: tuple[str, ...] = ("none",)
    balanced: tuple[bool, ...] = (True,)
    order: tuple[str, ...] = ("drawn",)
    corruption: tuple[Share, ...] = (0,)
    flipped: tuple[bool, ...] = (False,)
    order_seed: tuple[int, ...] = (0,)
    selection: tuple[str, ...] = (Selection.way,)
    candidates: tuple[int, ...] = (Selection.candidates,)
    similarity: tuple[str, ...] = (Selection.similarity,)
    tail: tuple[int, ...] = (Selection.tail,)
    calibration: tuple[str, ...] = _WORDS["calibration"]
    queries: int = 200
    domain: int = DOMAIN_TEXTS
    dtype: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        _check({field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Grid":
        """A grid from plain values; a single value stands for a list of one.

        >>> Grid.of({"task": "reviews", "k": [0, 8], "own_weight": [1, "groups"]}).own_weight
        (1, 'groups')

        Raises:
            ValueError: an unknown name (with the nearest one), a value of the wrong type, or no k.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(f"grid: there is no setting {name!r}; {nearest(str(name), known)}")
        if "k" not in values:
            raise ValueError("grid: k is missing; give the numbers of demonstrations, such as k: [0, 8, 64]")
        listed: dict[str, Any] = {name: _tuple(value) if name in _TYPES else value for name, value in values.items()}
        _check(listed)
        if listed.get("domain") == 0:
            listed.setdefault("calibration", tuple(name for name in _WORDS["calibration"] if name != "domain"))
        return cls(**listed)

    @classmethod
    def load(cls, path: Path | str) -> "Grid":
        """A grid from a YAML or JSON file.

        Raises:
            FileNotFoundError, ValueError: no such file, no mapping in it, or what `of` refuses.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no grid at {str(path)!r}; give a YAML or JSON file, or a sweep's folder")
        values = read_yaml(path)  # JSON is YAML, too
        if not isinstance(values, Mapping):
            raise ValueError(  # noqa: TRY004
                f"{path.name} holds a {type(values).__name__}; it needs settings such as 'k: [0, 8]'"
            )
        for name in values:
            if not isinstance(name, str):
                raise ValueError(f"{path.name} has a setting named {name!r}; names are words, such as 'k: [0, 8]'")  # noqa: TRY004
        return cls.of(values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `of` takes them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def draws(self) -> list[Draw]:
        """Every way to draw demonstrations; equal ones (a shuffle's seed without a shuffle) once."""
        asked = itertools.product(self.balanced, self.order, self.corruption, self.flipped, self.order_seed)
        return list({json.dumps(draw.settings): draw for draw in itertools.starmap(Draw, asked)}.values())

    def selections(self) -> list[Selection]:
        """Every way to choose demonstrations for a query; equal ones (candidates without a choice) once."""
        asked = itertools.product(self.selection, self.candidates, self.similarity, self.tail)
        return list({json.dumps(one.settings): one for one in itertools.starmap(Selection, asked)}.values())

    @property
    def combinations(self) -> int:
        """Rows that the table would have if no two combinations were the same work."""
        count = 1
        for name in _TYPES:
            count *= len(getattr(self, name))
        return count


def nearest(word: str, known: Sequence[str]) -> str:
    """What to write instead of an unknown word.

    >>> nearest("seeed", ["k", "seed"])
    "did you mean 'seed'? Known are k, seed"
    """
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"{f'did you mean {near[0]!r}? ' if near else ''}Known are {', '.join(known)}"


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)


def _check(values: Mapping[str, Any]) -> None:
    for name in values.keys() & _TYPES.keys():
        _check_values(name, values[name])
    for weight in values.get("own_weight", ()):
        check_own_weight(weight)
    for task in values.get("task", ()):
        _check_task(task)
    for name, least in (("k", 0), ("seed", 0), ("order_seed", 0), *_FROM_ONE):
        if min(values.get(name, [least])) < least:
            raise ValueError(f"grid: {name} is {list(values[name])}; it starts at {least}")
    for share in values.get("corruption", ()):
        Draw(corruption=share)
    _check_whole(values)
    for name in ("dtype", "device"):
        if not isinstance(values.get(name, ""), str):
            raise ValueError(f"grid: {name} is {values[name]!r}; give one word such as 'auto'")  # noqa: TRY004


def _check_whole(values: Mapping[str, Any]) -> None:
    for name, least in (("queries", 1), ("domain", 0)):
        number = values.get(name, least)
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ValueError(f"grid: {name} is {number!r}; give a whole number from {least}")
    if values.get("domain") == 0 and "domain" in values.get("calibration", ()):
        raise ValueError("grid: domain is 0, but calibration 'domain' needs in-domain texts; give one of them up")


def _check_values(name: str, values: Sequence[Any]) -> None:
    if not values:
        raise ValueError(f"grid: {name} has no values; give one or more")
    types, known = _TYPES[name], _WORDS.get(name)
    for value in values:
        fits = isinstance(value, types) and (bool in types or not isinstance(value, bool))
        if not fits:
            wanted = " or ".join(kind.__name__ for kind in types)
            raise ValueError(f"grid: {name} has {value!r}, a {type(value).__name__}; it takes {wanted}")
        if known and value not in known:
            raise ValueError(f"grid: {name} {value!r} is unknown; {nearest(value, known)}")
    if len({json.dumps(value, sort_keys=True, default=str) for value in values}) < len(values):
        raise ValueError(f"grid: {name} has a value twice: {list(values)}; give each once")


def _check_task(task: str | Mapping[str, Any]) -> None:
    if isinstance(task, str):
        return
    for option in task:
        if option not in _TASK_OPTIONS:
            raise ValueError(
                f"grid: task {dict(task)} has no setting {option!r}; {nearest(str(option), _TASK_OPTIONS)}"
            )
    if not isinstance(task.get("name"), str):
        raise ValueError(  # noqa: TRY004
            f"grid: task {dict(task)} has no name; give a path or name as load_task takes it"
        )
