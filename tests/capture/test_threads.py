"""One model explained by several threads: every map is right, and the model is as it was."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from cfcam_gpu import CFCAM
from tests.capture.test_interrupts import Small, state

THREADS, CALLS = 8, 200


def explained_by_threads(cams: list[CFCAM], batches: list[Tensor]) -> list[list[Tensor]]:
    """Heatmaps of `CALLS` calls by each thread; an exception in a thread is raised here."""
    heatmaps: list[list[Tensor]] = [[] for _ in cams]
    errors: list[BaseException] = []
    start = threading.Barrier(len(cams))

    def work(cam: CFCAM, images: Tensor, results: list[Tensor]) -> None:
        try:
            start.wait()
            results.extend(cam(images, targets=1).heatmap for _ in range(CALLS))
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=work, args=arguments)
        for arguments in zip(cams, batches, heatmaps, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return heatmaps


@pytest.mark.parametrize(
    ("method", "shared"),
    [
        ("cfcam", "the model"),
        ("cfcam-fine", "the CFCAM"),
        ("scorecam", "the model"),
        ("scorecam", "the CFCAM"),
    ],
)
def test_every_map_of_a_shared_model_is_right(method: str, shared: str) -> None:
    torch.manual_seed(0)
    model = Small().train()
    finer = "relu1" if method == "cfcam-fine" else None

    def cam() -> CFCAM:
        return CFCAM(model, "conv2", method=method, engine="torch", on_invalid="flag", finer_layer=finer)

    batches = [torch.rand(2, 3, 8, 8) for _ in range(THREADS)]
    expected, before = [cam()(images, targets=1).heatmap for images in batches], state(model)
    one = cam()
    cams = [one if shared == "the CFCAM" else cam() for _ in batches]
    for heatmaps, heatmap in zip(explained_by_threads(cams, batches), expected, strict=True):
        assert len(heatmaps) == CALLS
        assert all(torch.equal(one, heatmap) for one in heatmaps)
    assert state(model) == before


def test_another_threads_inference_is_not_changed_by_an_explanation() -> None:
    torch.manual_seed(0)
    model, images = Small().eval(), torch.rand(2, 3, 8, 8)
    cam, done = CFCAM(model, "conv2", engine="torch", on_invalid="flag"), threading.Event()
    with torch.no_grad():
        expected, logits = model(images), []

    def infer() -> None:
        while not done.is_set():
            with torch.no_grad():
                logits.append(model(images))

    thread = threading.Thread(target=infer)
    thread.start()
    heatmaps = [cam(images, targets=1).heatmap for _ in range(CALLS)]
    done.set()
    thread.join()
    assert len(logits) > 10
    assert all(torch.equal(one, expected) for one in logits)
    assert all(torch.equal(one, heatmaps[0]) for one in heatmaps)


def test_a_target_function_may_explain_the_model_itself() -> None:
    torch.manual_seed(0)
    model, images = Small().eval(), torch.rand(2, 3, 8, 8)
    cam = CFCAM(model, "conv2", engine="torch", on_invalid="flag")
    expected, inner = cam(images, targets=1).heatmap, []

    def score(logits: Tensor) -> Tensor:
        inner.append(CFCAM(model, "conv2", engine="torch", on_invalid="flag")(images, targets=1).heatmap)
        return logits[1]

    assert torch.equal(cam(images, targets=score).heatmap, expected)
    assert len(inner) == 2
    assert all(torch.equal(one, expected) for one in inner)


class Explaining(nn.Module):
    """Explains its own part within its forward pass."""

    def __init__(self, part: nn.Module, layer: str) -> None:
        super().__init__()
        self.part, self.layer = part, layer
        self.heatmaps: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        cam = CFCAM(self.part, self.layer, engine="torch", on_invalid="flag")
        self.heatmaps.append(cam(images, targets=1).heatmap)
        logits: Tensor = self.part(images)
        return logits


def test_an_explanation_inside_the_forward_pass_is_right_or_refused() -> None:
    torch.manual_seed(0)
    part, images = Small().eval(), torch.rand(2, 3, 8, 8)
    expected = CFCAM(part, "conv2", engine="torch", on_invalid="flag")(images, targets=1).heatmap
    model = Explaining(part, "conv2")
    outer = CFCAM(model, "part.conv2", engine="torch", on_invalid="flag")(images, targets=1).heatmap
    assert torch.equal(model.heatmaps[-1], expected)
    assert torch.equal(outer, expected)
