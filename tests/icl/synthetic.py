"""Stored curves without a model: scores with known skill, label bias, seed and item effects."""

import numpy as np

from lmops_lab.icl.cells import Cell, Cost
from lmops_lab.icl.curve import ZERO_SHOT, ICLCurve


def synthetic_curve(
    name="toy",
    *,
    labels=("negative", "positive"),
    ks=(8, 64, 512),
    methods=("structured", "sequential"),
    seeds=4,
    queries=200,
    seed_spread=0.3,
    bias=0.8,
    skill=0.35,
    number=0,
):
    rng = np.random.default_rng(number)
    count = len(labels)
    gold = rng.integers(0, count, queries)
    item = rng.normal(0, 1.2, queries)

    def cell(method, k, seed, strength):
        noise = np.random.default_rng([number, k, seed, len(method)])
        effect = np.random.default_rng([number, seed]).normal(0, seed_spread)
        scores = noise.normal(0, 1, (queries, count)) + np.linspace(bias, 0, count)
        scores[np.arange(queries), gold] += strength + item + effect
        free = np.linspace(bias, 0, count) + noise.normal(0, 0.05, (3, count))
        domain = np.linspace(bias, 0, count) + noise.normal(0, 0.1, (20, count))
        cost = Cost(0.02 * k, 0.03 * queries * (1 + k / 200), 25 * k, 1_000_000 * k, max(1, k // 16) if k else 0)
        return Cell(
            method,
            k,
            seed,
            scores.astype(np.float32) - 5,
            free.astype(np.float32) - 5,
            gold,
            np.arange(queries),
            cost,
            domain.astype(np.float32) - 5,
        )

    cells = [cell(ZERO_SHOT, 0, 0, 0.2)]
    for m, method in enumerate(methods):
        most = ks if m == 0 or len(ks) < 3 else ks[:-1]
        cells += [cell(method, k, s, skill * np.log2(k) * (1 - 0.12 * m)) for k in most for s in range(1, seeds + 1)]
    about = {
        "model": "toy-model@1/float32",
        "task": f"{name}-0",
        "task_name": name,
        "seeds": [*range(1, seeds + 1)],
        "queries": queries,
        "balanced": True,
        "group_size": 16,
    }
    return ICLCurve(tuple(cells), tuple(labels), about)
