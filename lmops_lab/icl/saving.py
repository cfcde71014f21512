"""What a curve saves by sharing encodings: its arithmetic, in tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

from lmops_lab.icl.pools import Pool

_KINDS = {
    "groups": "groups (every k and method a subset of groups that are encoded once)",
    "prompt": "one long prompt (every k is that prompt cut back)",
    "alone": "demonstrations of each query (nothing is shared)",
}


def token_counts(pools: Sequence[Pool]) -> dict[str, dict[str, int]]:
    """Tokens of demonstrations by kind of pool: `encoded` as the pools are, `anew` if every point encoded its own.

    Where queries choose their demonstrations, both count an average choice.
    """
    counts: dict[str, dict[str, int]] = {}
    for pool in pools:
        if pool.kind != "none":
            count = counts.setdefault(pool.kind, {"points": 0, "encoded": 0, "anew": 0})
            count["points"] += len(pool.points)
            count["encoded"] += sum(pool.rows(pool.points))
            count["anew"] += sum(map(pool.anew, pool.points))
    return counts


def cost_saved(about: Mapping[str, Any]) -> str:
    """The arithmetic of a curve's encodings in words: tokens encoded by it, against every point encoded anew.

    Args:
        about: of the curve (`ICLCurve.about`).

    Raises:
        ValueError: a curve that does not say it, such as one of a sweep's cells.
    """
    counts = about.get("tokens")
    if counts is None:
        raise ValueError(
            "this curve does not know what was encoded for it; icl_curve(...) states it, and for a sweep "
            "lmops_lab.icl.estimate.estimate(plan_sweep(grid), folder) does"
        )
    if not counts:
        return "Without demonstrations nothing is encoded."
    lines = []
    for kind, count in counts.items():
        lines.append(f"{_KINDS[kind]}:")
        lines.append(f"  {count['points']:,} points, each encoded anew: {count['anew']:>12,} tokens")
        lines.append(f"  as this curve encodes them: {count['encoded']:>12,} tokens, {_share(**count)}")
    if len(counts) > 1:
        both = {name: sum(count[name] for count in counts.values()) for name in ("points", "encoded", "anew")}
        lines.append(f"together {both['encoded']:,} instead of {both['anew']:,} tokens, {_share(**both)}")
    return "\n".join(lines)


def _share(points: int, encoded: int, anew: int) -> str:
    del points
    return f"{anew / encoded:.1f} times fewer ({anew - encoded:,} saved)" if encoded < anew else "nothing saved"
