"""A Jupyter workbench for prompt rewriting and structured prompting."""

import importlib
import os
from typing import Any

# Two busy OpenMP processes on few cores slow each other many times over while they spin; this has to be set before
# torch starts its threads, and an explicit setting of the user's wins.
if os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE").upper() == "PASSIVE":
    os.environ.setdefault("GOMP_SPINCOUNT", "0")

__version__ = "0.1.0"

_PUBLIC = {
    "load_model": "lmops_lab.models",
    "LanguageModel": "lmops_lab.models",
    "encode_groups": "lmops_lab.attention.encoding",
    "encode_documents": "lmops_lab.attention.encoding",
    "GroupedContext": "lmops_lab.attention.context",
    "load_task": "lmops_lab.icl.tasks",
    "Task": "lmops_lab.icl.tasks",
    "TaskDefinition": "lmops_lab.icl.definitions",
    "icl_curve": "lmops_lab.icl.experiment",
    "ICLCurve": "lmops_lab.icl.curve",
    "Grid": "lmops_lab.icl.grid",
    "Sweep": "lmops_lab.icl.results",
    "run_sweep": "lmops_lab.icl.sweep",
    "start_sweep": "lmops_lab.icl.sweep",
    "Rewriter": "lmops_lab.rewriting.rewriter",
    "ImageGenerator": "lmops_lab.generation.images",
    "ImageGrid": "lmops_lab.generation.pictures",
    "ImageStore": "lmops_lab.generation.store",
    "draw_grid": "lmops_lab.generation.grid",
    "provenance": "lmops_lab.generation.png",
}
__all__ = [*_PUBLIC]  # noqa: PLE0604


def __getattr__(name: str) -> Any:  # PEP 562: torch is imported when it is first needed
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'lmops_lab' has no attribute {name!r}; it offers {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
