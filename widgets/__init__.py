"""Jupyter widgets of LMOps Lab: they show stored results and never call a model of their own accord."""

from widgets.blind_vote import BlindVote
from widgets.icl_curve import ICLCurveExplorer
from widgets.prompt_comparison import PromptComparison

__all__ = ["BlindVote", "ICLCurveExplorer", "PromptComparison"]
