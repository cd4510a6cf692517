"""A batch that does not fit in memory is split; a model that fails ends the run in one line."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
import torch
from torch import fx, nn

from cfcam_gpu.capture import compiled
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

    def __call__(self, images=None, targets=None, **kwargs):
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


def small_memory(graph: fx.GraphModule, _inputs: list[torch.Tensor]) -> Callable[..., Any]:
    """A backend whose code holds two images at once."""

    def run(*args: torch.Tensor) -> Any:
        if any(arg.ndim == 4 and len(arg) > 2 and arg.shape[1:] == (3, 32, 32) for arg in args):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return graph.forward(*args)

    return run


def test_a_compiled_model_warms_up_with_whole_batches_which_out_of_memory_halves(caplog, monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", small_memory)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 64, 3)
    ).eval()
    loaded = dataclasses.replace(make_loaded(), model=model)
    views, samples = decoded(7)
    cam = CFCAM(model, "1", on_invalid="flag", compile=True)
    explainer = BatchExplainer(loaded, cam, torch.device("cpu"), 5)
    with caplog.at_level(logging.WARNING, logger="cfcam_gpu"):
        explainer.warm_up()
        rows = explainer.explain(views, samples)
    said = [record.getMessage() for record in caplog.records if record.name == "cfcam_gpu"]
    assert said == ["out of memory with 5 images at once; going on with 2"]
    plain = BatchExplainer(loaded, CFCAM(model, "1", on_invalid="flag"), torch.device("cpu"), 5)
    plain.warm_up()
    for row, expected in zip(rows, plain.explain(views, samples), strict=True):
        assert row["prob"] == pytest.approx(expected["prob"])
        torch.testing.assert_close(torch.tensor(row["grid"]), torch.tensor(expected["grid"]))


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
