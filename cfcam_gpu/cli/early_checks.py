"""Mistakes that are answered before PyTorch is imported, which takes seconds."""

from __future__ import annotations

from collections.abc import Sequence

from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.dataset.sources.folders import check_input
from cfcam_gpu.models import ModelOptions


def check_before_loading(inputs: Sequence[str], model: ModelOptions, options: RunOptions) -> None:
    """Raises InputError for an input that does not exist, ModelError for a file of the model that cannot be used.

    The model of a distributed run is loaded on other machines, so its files need not be here.
    """
    for text in inputs:
        check_input(text)
    if not options.distributed:
        model.check()
