"""What a curve says, in sentences computed from its numbers."""

from collections.abc import Sequence

from lmops_lab.icl.comparison import Point, compare
from lmops_lab.icl.curve import ZERO_SHOT, ICLCurve
from lmops_lab.icl.figure import calibration_words
from lmops_lab.icl.statistics import Interval

# A sentence in pieces: words, and pairs of points in whose place stands what their difference is.
_Line = Sequence[str | tuple[Point, Point]]


def reading(curve: ICLCurve, calibration: str | None = None) -> str:
    """A short reading of a curve as Markdown bullets; every claim carries the interval it rests on.

    All differences are one family: one is called real only if it stands after Holm's correction for their number.
    Default calibration: `curve.usual`.
    """
    calibration = calibration or curve.usual
    methods = [m for m in dict.fromkeys(m for m, _ in curve.points()) if m != ZERO_SHOT]
    lines: list[_Line] = [_start(curve, calibration)]
    lines += [line for method in methods for line in _of_method(curve, method, calibration)]
    if len(methods) > 1:
        lines.append(_methods(curve, methods[0], methods[1], calibration))
    if calibration != "raw":
        lines.append(_calibrated(curve, methods[0] if methods else ZERO_SHOT, calibration))
    lines += [_skipped(curve, *entry) for entry in curve.skipped]
    pairs = [piece for line in lines for piece in line if not isinstance(piece, str)]
    said = {
        pair: verdict(one.difference, real=one.real) for pair, one in zip(pairs, compare(curve, pairs), strict=True)
    }
    return "\n".join("- " + "".join(p if isinstance(p, str) else said[p] for p in line) for line in lines)


def verdict(difference: Interval, *, real: bool | None = None) -> str:
    """A paired difference in words: "+12.0 points (95 % interval +8.1 to +16.0), a real difference".

    Args:
        real: whether it stands after a correction for all the comparisons made (`Comparison.real`); None for a single
            comparison, which is real if its interval leaves out 0.
    """
    numbers = (
        f"{100 * difference.mean:+.1f} points (95 % interval {_signed(difference.low)} to {_signed(difference.high)})"
    )
    alone = difference.low > 0 or difference.high < 0
    if real or (real is None and alone):
        return f"{numbers}, a real difference"
    if alone:
        return f"{numbers}, which does not stand once all the comparisons made are counted"
    return f"{numbers}, which these queries and seeds cannot tell from none"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}"


def _percent(estimate: Interval) -> str:
    return f"{100 * estimate.mean:.1f} % ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _ks(curve: ICLCurve, method: str) -> list[int]:
    return [k for m, k in curve.points() if m == method]


def _start(curve: ICLCurve, calibration: str) -> _Line:
    chance = f"Always answering the most frequent label would give {100 * curve.majority:.1f} %."
    if (ZERO_SHOT, 0) not in curve.points():
        return [chance]
    estimate = curve.accuracy(ZERO_SHOT, 0, calibration)
    return [f"Without demonstrations the model answers {_percent(estimate)} of the queries right. {chance}"]


def _of_method(curve: ICLCurve, method: str, calibration: str) -> list[_Line]:
    ks = _ks(curve, method)
    most = Point(method, ks[-1], calibration)
    accuracy = _percent(curve.accuracy(*most))
    lines: list[_Line] = [[f"**{method}** with {most.k:,} demonstrations: {accuracy}."]]
    if (ZERO_SHOT, 0) in curve.points():
        lines = [[*lines[0], " Against zero-shot ", (most, Point(ZERO_SHOT, 0, calibration)), "."]]
    # A smaller k may lack the seeds of the largest: each of its long prompts fits or not.
    smaller = [k for k in ks[:-1] if curve.can_pair((method, most.k), (method, k))]
    if smaller:
        change = (most, Point(method, smaller[-1], calibration))
        lines.append([f"From {smaller[-1]:,} to {most.k:,} demonstrations *{method}* changes by ", change, "."])
    return lines


def _methods(curve: ICLCurve, left: str, right: str, calibration: str) -> _Line:
    groups = {(c.method, c.k): c.cost.groups for c in curve.cells}
    shared = [k for k in _ks(curve, left) if k in _ks(curve, right) and groups[left, k] != groups[right, k]]
    shared = [k for k in shared if curve.can_pair((left, k), (right, k))]
    if not shared:
        return [f"*{left}* and *{right}* have no point and seed in common at which their prompts differ."]
    pair = (Point(left, shared[-1], calibration), Point(right, shared[-1], calibration))
    return [f"At {shared[-1]:,} demonstrations *{left}* minus *{right}* is ", pair, "."]


def _calibrated(curve: ICLCurve, method: str, calibration: str) -> _Line:
    k = _ks(curve, method)[-1]
    answers = curve.answers(method, k, "raw")
    counts = [(answers == label).mean() for label in range(len(curve.labels))]
    most = max(range(len(counts)), key=counts.__getitem__)
    text = (
        f"Uncalibrated, *{method}* at {k:,} demonstrations gives “{curve.labels[most]}” as {100 * counts[most]:.0f} % "
        f"of its answers; {calibration_words(calibration)} changes its accuracy by "
    )
    return [text, (Point(method, k, calibration), Point(method, k, "raw")), "."]


def _skipped(curve: ICLCurve, method: str, k: int, why: str) -> _Line:
    if (method, k) in curve.points():
        seeds = curve.seeds(method, k)
        shown = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        return [f"*{method}* has {k:,} demonstrations only for {shown}: {why}."]
    return [f"*{method}* has no point at {k:,} demonstrations: {why}."]
