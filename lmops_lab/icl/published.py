"""Published accuracy curves as CSV, to be drawn beside one's own."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lmops_lab.outside import read_text

REQUIRED = ("source", "method", "k", "accuracy")
_LONGEST_LINE = 10_000
OPTIONAL = ("task", "low", "high", "model")


@dataclass(frozen=True, eq=False)
class Published:
    """Curves that others reported.

    Attributes:
        table: columns source, method, k, accuracy (0 to 1), and where known task, low, high and model.
    """

    table: pd.DataFrame

    def of_task(self, task: str) -> pd.DataFrame:
        """Rows of a task; rows that name none belong to every task."""
        if "task" not in self.table:
            return self.table
        named = self.table["task"]
        return self.table[named.isna() | (named == task)]


def read_published(path: Path | str) -> Published:
    """Read published curves from a CSV file with the columns source, method, k and accuracy (a share, not per cent).

    Raises:
        FileNotFoundError: no such file.
        ValueError: a missing or unknown column, or a row whose numbers cannot be, with its line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no table of published curves at {str(path)!r}")
    longest = max(map(len, read_text(path).splitlines()), default=0)
    if longest > _LONGEST_LINE:  # a hundred thousand cells would keep pandas busy for minutes
        raise ValueError(f"{path.name} has a line of {longest:,} characters; a row of curves is shorter than this")
    try:
        table = pd.read_csv(path)
    except (ValueError, OverflowError) as error:  # pandas' own errors are ValueErrors
        raise ValueError(f"{path.name} is not a table in CSV ({str(error).strip()})") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the cells beyond the header for names of the rows
        raise ValueError(f"{path.name}: rows have more cells than the header; quote commas inside a cell")  # noqa: TRY004
    missing = [name for name in REQUIRED if name not in table]
    unknown = [name for name in table if name not in (*REQUIRED, *OPTIONAL)]
    if missing or unknown:
        raise ValueError(
            f"{path.name}: columns {missing} are missing, {unknown} are unknown; needed are {list(REQUIRED)}, possible "
            f"{list(OPTIONAL)}"
        )
    for name, high in (("k", float("inf")), ("accuracy", 1.0), ("low", 1.0), ("high", 1.0)):
        if name not in table:
            continue
        given = table[name].notna() if name in OPTIONAL else pd.Series(True, index=table.index)
        try:
            bad = given & ~pd.to_numeric(table[name], errors="coerce").between(0, high)
        except OverflowError as error:
            raise ValueError(f"{path.name}: a cell of {name} holds a number that is too large to read") from error
        if bad.any():
            line = int(bad.to_numpy().argmax()) + 2
            raise ValueError(
                f"{path.name}, line {line}: {name} is {table[name][line - 2]!r}; "
                f"{'a number of demonstrations from 0' if name == 'k' else 'a share between 0 and 1'} is needed"
            )
    return Published(table)
