"""Evaluations: methods' heatmaps of a dataset measured side by side, summed up and shown."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cfcam_gpu.evaluation.options import EvaluationOptions
    from cfcam_gpu.evaluation.run import EvaluationSummary, evaluate

__all__ = ["EvaluationOptions", "EvaluationSummary", "evaluate"]

_HOME = {"EvaluationOptions": "options", "EvaluationSummary": "run", "evaluate": "run"}


def __getattr__(name: str) -> Any:
    """The public names, imported when first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'cfcam_gpu.evaluation' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"cfcam_gpu.evaluation.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
