"""Which groups help: every group left out in turn, from one encoding."""

import numpy as np
import pandas as pd

from lmops_lab.attention.context import BosPolicy, OwnWeight
from lmops_lab.icl.cells import Cell
from lmops_lab.icl.draws import Draw
from lmops_lab.icl.experiment import run_points, settings
from lmops_lab.icl.plan import make_plan
from lmops_lab.icl.pools import leave_one_out
from lmops_lab.icl.prompts import DOMAIN_TEXTS
from lmops_lab.icl.statistics import paired_difference
from lmops_lab.icl.tasks import Task
from lmops_lab.models import LanguageModel


def leave_one_group_out(
    lm: LanguageModel,
    task: Task,
    *,
    k: int,
    seed: int = 1,
    queries: int = 200,
    group_size: int = 16,
    bos: BosPolicy = "none",
    own_weight: OwnWeight = "groups",
    draw: Draw = Draw(),  # noqa: B008 - frozen
    calibration: str = "batch",
) -> pd.DataFrame:
    """How much accuracy each group of demonstrations brings: with all groups minus without that one.

    All groups are encoded once; M + 1 scorings follow. The difference is paired on queries, with its 95 % interval.

    Returns:
        One row a group: `group`, `demonstrations`, `accuracy` without it, `gain` (positive: it helps), `low`, `high`.

    Raises:
        ValueError: fewer than two groups, or whatever `icl_curve` refuses.
    """
    domain = DOMAIN_TEXTS if calibration == "domain" else 0
    asked = settings([k], ["structured"], [seed], queries, group_size, bos, [own_weight], draw, domain=domain)
    pool = leave_one_out(make_plan(lm, task, asked).pools[0])

    def right(cell: Cell) -> np.ndarray:
        answers = cell.calibrated(calibration).argmax(-1)
        return np.asarray(answers == cell.gold)[None]  # [1 seed, queries]

    (whole, everything), *others = run_points(lm, pool, pool.points)
    rows = []
    for group, (point, cell) in enumerate(others):
        gain = paired_difference(right(everything), right(cell))
        without = {"group": group, "demonstrations": whole.k - point.k, "accuracy": float(right(cell).mean())}
        rows.append({**without, "gain": gain.mean, "low": gain.low, "high": gain.high})
    return pd.DataFrame(rows)
