"""Datasets: finding the inputs, decoding them, explaining them in runs that survive, reading the results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cfcam_gpu._utils.lazy import lazy

if TYPE_CHECKING:
    from cfcam_gpu.dataset.run import explain_dataset
    from cfcam_gpu.dataset.store.results import Results, open_results

__all__ = ["Results", "explain_dataset", "open_results"]

_HOME = {"Results": "store.results", "open_results": "store.results", "explain_dataset": "run"}

__getattr__, __dir__ = lazy(__name__, globals(), _HOME)
