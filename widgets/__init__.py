"""Jupyter widgets of LMOps Lab: they show stored results and never call a model."""

from widgets.icl_curve import ICLCurveExplorer

__all__ = ["ICLCurveExplorer"]
