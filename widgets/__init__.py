"""Jupyter widgets of LMOps Lab: they show stored results and never call a model of their own accord."""

from widgets.blind_vote import BlindVote
from widgets.group_attention import GroupAttention
from widgets.icl_curve import ICLCurveExplorer
from widgets.prompt_comparison import PromptComparison
from widgets.sweep_monitor import SweepMonitor

# The short name; the long one keeps it apart from lmops_lab.icl.ICLCurve, the results it shows.
ICLCurve = ICLCurveExplorer

__all__ = ["BlindVote", "GroupAttention", "ICLCurve", "ICLCurveExplorer", "PromptComparison", "SweepMonitor"]
