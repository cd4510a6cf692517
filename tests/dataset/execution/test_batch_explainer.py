"""A batch that does not fit in memory is split; a model that fails ends the run in one line."""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import pytest
import torch

from cfcam_gpu.dataset.execution.batch_explainer import BatchExplainer
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.errors import CFCAMError
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.images.views import View
from tests.helpers.smallnet import PLAIN, make_loaded, photo


def decoded(count: int) -> tuple[list[View], list[Sample]]:
    """The first photos as the worker processes give them, and their samples."""
    views = [View(PLAIN.view(photo(i)), 60, 45) for i in range(count)]
    return views, [Sample(str(i), f"{i}.png") for i in range(count)]


class SmallMemory(CFCAM):
    """Holds two images at once; remembers how many images it was given."""

    def __call__(self, images, targets=None, **kwargs):
        self.sizes = [*getattr(self, "sizes", []), len(images)]
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().__call__(images, targets, **kwargs)


def test_out_of_memory_halves_the_batch_and_the_run_goes_on(caplog):
    loaded = make_loaded()
    views, samples = decoded(11)
    cam = SmallMemory(loaded.model, on_invalid="flag")
    explainer = BatchExplainer(loaded, cam, torch.device("cpu"), 5)
    with caplog.at_level(logging.WARNING, logger="cfcam_gpu"):
        explained = [
            row for i in (0, 5, 10) for row in explainer.explain(views[i : i + 5], samples[i : i + 5])
        ]
    assert cam.sizes == [5, 2, 2, 1, 2, 2, 1, 1]
    assert caplog.messages == ["out of memory with 5 images at once; going on with 2"]
    plain = BatchExplainer(loaded, CFCAM(loaded.model, on_invalid="flag"), torch.device("cpu"), 16)
    expected = plain.explain(views, samples)
    assert [row["prob"] for row in explained] == pytest.approx([row["prob"] for row in expected])


class FailingCam(CFCAM):
    """Raises the same error for every batch."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, *_arguments: Any, **_options: Any) -> NoReturn:
        raise self.error


MEMORY = r"out of memory with images \(1, 3, 32, 32\); use a smaller --size"

FAILED = r"the model failed on images \(1, 3, 32, 32\): %s; check that it accepts this --size"


@pytest.mark.parametrize(
    ("error", "count", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), 2, MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, MEMORY),
        (RuntimeError("not enough memory: you tried"), 1, MEMORY),
        (RuntimeError("mat1 and mat2 differ\nmore"), 1, FAILED % "mat1 and mat2 differ"),
        (AssertionError(), 1, FAILED % "AssertionError"),
    ],
)
def test_a_model_that_fails_ends_the_run_in_one_line(error, count, message):
    explainer = BatchExplainer(make_loaded(), FailingCam(error), torch.device("cpu"), 16)
    with pytest.raises(CFCAMError, match=message) as caught:
        explainer.explain(*decoded(count))
    assert "\n" not in str(caught.value)
