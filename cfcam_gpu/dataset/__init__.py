"""Datasets: finding the inputs, decoding them, explaining them in runs that survive, reading the results."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cfcam_gpu.dataset.results import Results, open_results
    from cfcam_gpu.dataset.run import explain_dataset

__all__ = ["Results", "explain_dataset", "open_results"]

_HOME = {"Results": "results", "open_results": "results", "explain_dataset": "run"}


def __getattr__(name: str) -> Any:
    """The public names, imported when first used: worker processes do without PyTorch."""
    if name not in _HOME:
        raise AttributeError(f"module 'cfcam_gpu.dataset' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"cfcam_gpu.dataset.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
