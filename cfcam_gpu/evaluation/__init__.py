"""Evaluations: methods' heatmaps of a dataset measured side by side, summed up and shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cfcam_gpu._utils.lazy import lazy

if TYPE_CHECKING:
    from cfcam_gpu.evaluation.options import EvaluationOptions
    from cfcam_gpu.evaluation.run import EvaluationSummary, evaluate

__all__ = ["EvaluationOptions", "EvaluationSummary", "evaluate"]

_HOME = {"EvaluationOptions": "options", "EvaluationSummary": "run", "evaluate": "run"}

__getattr__, __dir__ = lazy(__name__, globals(), _HOME)
