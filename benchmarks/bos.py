"""Where should the beginning-of-sequence token sit: nowhere, in every group, or once for all groups?

The shipped tasks, 96 demonstrations in 6 groups, the same draws and queries for every policy:

    python benchmarks/bos.py
"""

import argparse
import json
import tempfile
from itertools import combinations

import numpy as np
import pandas as pd

from lmops_lab import icl_curve, load_model, load_task
from lmops_lab.icl.statistics import paired_difference
from lmops_lab.icl.tasks import EMBEDDED_TASKS

POLICIES = ("none", "group", "shared")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--k", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    lm = load_model(dtype=options.dtype)
    print(lm)
    correct: dict[tuple[str, str], list[np.ndarray]] = {}
    rows = []
    folder = tempfile.mkdtemp(prefix="lmops-lab-")  # score anew, whatever earlier versions stored
    for name in EMBEDDED_TASKS:
        task = load_task(name)
        for policy in POLICIES:
            curve = icl_curve(
                lm,
                task,
                k=[options.k],
                methods=["structured"],
                seeds=options.seeds,
                queries=options.queries,
                bos=policy,
                folder=folder,
            )
            row: dict[str, object] = {"task": name, "bos": policy}
            for calibration in ("raw", "batch"):
                right = curve.correct("structured", options.k, calibration)
                correct.setdefault((policy, calibration), []).append(right)
                row[calibration] = curve.accuracy("structured", options.k, calibration).mean
            rows.append(row)
    frame = pd.DataFrame(rows)
    print(frame.pivot_table(index="task", columns="bos", values=["raw", "batch"]).round(3).to_string())
    figures: dict[str, object] = {"k": options.k, "seeds": options.seeds, "queries": options.queries}
    for calibration in ("raw", "batch"):
        pooled = {policy: np.concatenate(correct[policy, calibration], axis=1) for policy in POLICIES}
        for policy in POLICIES:
            figures[f"{policy}_{calibration}"] = round(float(pooled[policy].mean()), 4)
        for left, right in combinations(POLICIES, 2):
            gap = paired_difference(pooled[left], pooled[right])
            figures[f"{left}_minus_{right}_{calibration}"] = [round(value, 4) for value in gap]
            print(f"{calibration:6}{left:>7} minus {right:7} {gap.mean:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
