"""Datasets: finding the samples, explaining them in runs that can be resumed, and reading the results.

`run.py` has the main path of a run. `sources` finds samples and opens their images, `execution` explains
them in batches with worker processes or on a cluster, and `store` keeps and reads the results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cfcam_gpu._utils.lazy import lazy

if TYPE_CHECKING:
    from cfcam_gpu.dataset.execution.observer import Observer
    from cfcam_gpu.dataset.options import RunOptions
    from cfcam_gpu.dataset.run import explain_dataset
    from cfcam_gpu.dataset.run_summary import RunSummary
    from cfcam_gpu.dataset.sources.columns import ColumnSource
    from cfcam_gpu.dataset.sources.find import find_samples
    from cfcam_gpu.dataset.sources.open_image import open_image
    from cfcam_gpu.dataset.sources.sample import Sample
    from cfcam_gpu.dataset.store.export import export
    from cfcam_gpu.dataset.store.results import Results, open_results

__all__ = [
    "ColumnSource",
    "Observer",
    "Results",
    "RunOptions",
    "RunSummary",
    "Sample",
    "explain_dataset",
    "export",
    "find_samples",
    "open_image",
    "open_results",
]

_HOME = {
    "ColumnSource": "sources.columns",
    "Observer": "execution.observer",
    "Results": "store.results",
    "RunOptions": "options",
    "Sample": "sources.sample",
    "RunSummary": "run_summary",
    "explain_dataset": "run",
    "export": "store.export",
    "find_samples": "sources.find",
    "open_image": "sources.open_image",
    "open_results": "store.results",
}

__getattr__, __dir__ = lazy(__name__, globals(), _HOME)
