"""Evaluations: heatmaps of several methods are measured on a dataset, compared and shown.

`evaluate` does all of it; `summarise`, `write_plots` and `write_page` do its last steps on stored rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cfcam_gpu._utils.lazy import lazy

if TYPE_CHECKING:
    from cfcam_gpu.evaluation.options import EvaluationOptions
    from cfcam_gpu.evaluation.page import write_page
    from cfcam_gpu.evaluation.plots import write_plots
    from cfcam_gpu.evaluation.run import EvaluationResult, evaluate
    from cfcam_gpu.evaluation.summary import summarise

__all__ = [
    "EvaluationOptions",
    "EvaluationResult",
    "evaluate",
    "summarise",
    "write_page",
    "write_plots",
]

_HOME = {
    "EvaluationOptions": "options",
    "EvaluationResult": "run",
    "evaluate": "run",
    "summarise": "summary",
    "write_page": "page",
    "write_plots": "plots",
}

__getattr__, __dir__ = lazy(__name__, globals(), _HOME)
