"""An accuracy curve to explore: switch calibrations and read paired differences, without asking the model again."""

import html
from typing import Any

import ipywidgets as ipw

from lmops_lab.icl.calibration import CALIBRATIONS
from lmops_lab.icl.curve import ICLCurve
from lmops_lab.icl.figure import figure_as_svg
from lmops_lab.icl.reading import verdict


class ICLCurveExplorer(ipw.VBox):
    """The curve under a chosen calibration, and the paired difference between any two of its points.

    Without a kernel or a network (HTML export, a preview) the curve shows under all calibrations side by side.

    Attributes:
        calibration: buttons; `.value` is a name of `CALIBRATIONS`.
        left, right: menus of points; `.value` is (method, k).
        figure: the curve (HTML with one SVG).
        difference: the sentence about left minus right.
    """

    def __init__(self, curve: ICLCurve, calibration: str = "batch") -> None:
        points = [(f"{method}, k = {k:,}", (method, k)) for method, k in curve.points()]
        self._curve = curve
        self.calibration = ipw.ToggleButtons(options=list(CALIBRATIONS), value=calibration, description="calibration")
        self.left = ipw.Dropdown(options=points, value=points[-1][1], description="compare")
        self.right = ipw.Dropdown(options=points, value=points[0][1], description="with")
        self.figure = ipw.HTML()
        self.difference = ipw.HTML()
        super().__init__([self.calibration, self.figure, ipw.HBox([self.left, self.right]), self.difference])
        for control in (self.calibration, self.left, self.right):
            control.observe(self._show, names="value")
        self._show()

    def _show(self, change: object = None) -> None:
        if change is None or change["owner"] is self.calibration:  # type: ignore[index]
            self.figure.value = _sized(figure_as_svg(self._curve.plot(self.calibration.value)), 720)
        gap = self._curve.difference(self.left.value, self.right.value, self.calibration.value)
        left, right = (html.escape(str(menu.label)) for menu in (self.left, self.right))
        self.difference.value = f"<b>{left}</b> minus <b>{right}</b>: {verdict(gap)}."

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**kwargs) or {}
        return bundle | {"text/plain": repr(self), "text/html": self.fallback()}

    def __repr__(self) -> str:
        return f"ICLCurveExplorer({self._curve.about['task_name']}, {len(self._curve.points())} points)"

    def fallback(self) -> str:
        """The curve under every calibration, as HTML without scripts."""
        panels = "".join(
            f'<div style="flex:1 1 340px">{_sized(figure_as_svg(self._curve.plot(name)))}</div>'
            for name in CALIBRATIONS
        )
        return f'<div style="display:flex;flex-wrap:wrap;gap:8px">{panels}</div>'


def _sized(svg: str, width: int | None = None) -> str:
    """An SVG that fills its container, up to a width in pixels; the view box keeps its proportions."""
    head, _, body = svg.partition(">")
    kept = [word for word in head.replace('" ', '"\n').splitlines() if not word.startswith(("width=", "height="))]
    limit = f"max-width:{width}px;" if width else ""
    return f'{" ".join(kept)} style="width:100%;{limit}">{body}'
