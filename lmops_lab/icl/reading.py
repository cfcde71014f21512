"""What a curve says, in sentences computed from its numbers."""

from lmops_lab.icl.curve import ZERO_SHOT, ICLCurve
from lmops_lab.icl.figure import calibration_words
from lmops_lab.icl.statistics import Interval


def reading(curve: ICLCurve, calibration: str | None = None) -> str:
    """A short reading of a curve as Markdown bullets; every claim carries the interval it rests on.

    A difference is called real only if its paired 95 % interval leaves out 0. Default calibration: `curve.usual`.
    """
    calibration = calibration or curve.usual
    lines = [_start(curve, calibration)]
    methods = [m for m in dict.fromkeys(m for m, _ in curve.points()) if m != ZERO_SHOT]
    lines += [line for method in methods for line in _of_method(curve, method, calibration)]
    if len(methods) > 1:
        lines.append(_methods(curve, methods[0], methods[1], calibration))
    lines.append(_calibrated(curve, methods[0] if methods else ZERO_SHOT, calibration))
    lines += [f"*{method}* has no point at {k:,} demonstrations: {why}." for method, k, why in curve.skipped]
    return "\n".join(f"- {line}" for line in lines if line)


def verdict(difference: Interval) -> str:
    """A paired difference in words: "+12.0 points (95 % interval +8.1 to +16.0), a real difference"."""
    numbers = (
        f"{100 * difference.mean:+.1f} points (95 % interval {_signed(difference.low)} to {_signed(difference.high)})"
    )
    if difference.low > 0 or difference.high < 0:
        return f"{numbers}, a real difference"
    return f"{numbers}, which these queries and seeds cannot tell from none"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}"


def _percent(estimate: Interval) -> str:
    return f"{100 * estimate.mean:.1f} % ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _ks(curve: ICLCurve, method: str) -> list[int]:
    return [k for m, k in curve.points() if m == method]


def _start(curve: ICLCurve, calibration: str) -> str:
    chance = f"Always answering the most frequent label would give {100 * curve.majority:.1f} %."
    if (ZERO_SHOT, 0) not in curve.points():
        return chance
    estimate = curve.accuracy(ZERO_SHOT, 0, calibration)
    return f"Without demonstrations the model answers {_percent(estimate)} of the queries right. {chance}"


def _of_method(curve: ICLCurve, method: str, calibration: str) -> list[str]:
    ks = _ks(curve, method)
    most = ks[-1]
    text = f"**{method}** with {most:,} demonstrations: {_percent(curve.accuracy(method, most, calibration))}."
    if (ZERO_SHOT, 0) in curve.points():
        text += f" Against zero-shot {verdict(curve.difference((method, most), (ZERO_SHOT, 0), calibration))}."
    lines = [text]
    if len(ks) > 1:
        middle = ks[-2]
        gain = curve.difference((method, most), (method, middle), calibration)
        lines.append(f"From {middle:,} to {most:,} demonstrations *{method}* changes by {verdict(gain)}.")
    return lines


def _methods(curve: ICLCurve, left: str, right: str, calibration: str) -> str:
    groups = {(c.method, c.k): c.cost.groups for c in curve.cells}
    shared = [k for k in _ks(curve, left) if k in _ks(curve, right) and groups[left, k] != groups[right, k]]
    if not shared:
        return f"*{left}* and *{right}* have no point in common at which their prompts differ."
    gap = curve.difference((left, shared[-1]), (right, shared[-1]), calibration)
    return f"At {shared[-1]:,} demonstrations *{left}* minus *{right}* is {verdict(gap)}."


def _calibrated(curve: ICLCurve, method: str, calibration: str) -> str:
    if calibration == "raw":
        return ""
    k = _ks(curve, method)[-1]
    gain = curve.difference((method, k), (method, k), (calibration, "raw"))
    answers = curve.answers(method, k, "raw")
    counts = [(answers == label).mean() for label in range(len(curve.labels))]
    most = max(range(len(counts)), key=counts.__getitem__)
    return (
        f"Uncalibrated, *{method}* at {k:,} demonstrations gives “{curve.labels[most]}” as {100 * counts[most]:.0f} % "
        f"of its answers; {calibration_words(calibration)} changes its accuracy by {verdict(gain)}."
    )
