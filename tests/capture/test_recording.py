"""A recorded call gives the explainer's maps for other batches, or says why it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cfcam_gpu import CFCAM, CaptureError, CFCAMConfig, ConfigError, Explanation, Recording
from cfcam_gpu.recording import CudaGraphs


class Repeats:
    """Stands for CUDA graphs: replays a call on the recorded inputs, into the recorded results."""

    def record(self, call: Callable[[], Explanation]) -> tuple[Explanation, Callable[[], None]]:
        result = call()

        def replay() -> None:
            again = call()
            for field in fields(result):
                if isinstance(kept := getattr(result, field.name), Tensor):
                    kept.copy_(getattr(again, field.name))

        return result, replay


class Stale(Repeats):
    """A graph that has read the images once and for all, as of a model that keeps something of them."""

    def record(self, call: Callable[[], Explanation]) -> tuple[Explanation, Callable[[], None]]:
        return call(), lambda: None


def model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(24, 5),
    )  # fmt: skip


def images(seed: int, batch: int = 4) -> Tensor:
    return torch.rand(batch, 3, 14, 12, generator=torch.Generator().manual_seed(seed))


CAMS: dict[str, dict[str, Any]] = {
    "cfcam": {},
    "spatial": {"config": CFCAMConfig.preset("spatial")},
    "compiled": {"compile": True},
    "gradcam": {"method": "gradcam"},
    "sharp": {"method": "cfcam-sharp", "finer_layer": "1"},
    "two sizes": {"scales": (1.0, 1.5)},
    "two layers": {"target_layer": ["1", "3"]},
}


@pytest.fixture(params=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def place(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """A device and what records there."""
    return request.param, CudaGraphs() if request.param == "cuda" else Repeats()


def explainer(device: str = "cpu", **arguments: Any) -> CFCAM:
    return CFCAM(model().to(device), **{"target_layer": "3", "on_invalid": "flag", **arguments})


@pytest.mark.parametrize("classes", [None, torch.tensor([0, 1, 2, 3]), torch.arange(8).view(4, 2) % 5])
@pytest.mark.parametrize("name", CAMS)
def test_other_batches_get_the_explainers_maps(place, name, classes):
    device, graphs = place
    cam = explainer(device, **CAMS[name])
    recorded = Recording(cam, images(0).to(device), classes, graphs=graphs)
    results = []
    for seed in (1, 2):
        given = None if classes is None else (classes + seed) % 5
        results.append((recorded(images(seed).to(device), given), cam(images(seed).to(device), given)))
    for got, expected in results:  # the second call must not have written over the first one's result
        torch.testing.assert_close(got.heatmap, expected.heatmap, rtol=0, atol=1e-4)
        torch.testing.assert_close(got.logits, expected.logits)
        assert got.targets is not None
        assert expected.targets is not None
        assert torch.equal(got.targets, expected.targets)


def test_weights_that_change_in_place_are_read(place):
    device, graphs = place
    cam = explainer(device)
    recorded = Recording(cam, images(0).to(device), graphs=graphs)
    torch.manual_seed(9)
    cam.model.load_state_dict(
        {name: torch.randn_like(value) for name, value in cam.model.state_dict().items()}
    )
    got, expected = recorded(images(1).to(device)), cam(images(1).to(device))
    torch.testing.assert_close(got.heatmap, expected.heatmap, rtol=0, atol=1e-4)


def test_an_image_that_cannot_be_explained_is_flagged(place):
    device, graphs = place
    recorded = Recording(explainer(device), images(0).to(device), graphs=graphs)
    batch = images(1)
    batch[2, 0, 3, 3] = torch.nan
    assert recorded(batch.to(device)).status.tolist() == [0, 0, 1, 0]


def test_a_recording_that_gives_other_maps_is_refused():
    with pytest.raises(CaptureError, match=r"gives other maps than the explainer \(heatmaps differ by .*\)"):
        Recording(explainer(), images(0), graphs=Stale())


def first(cam: CFCAM) -> nn.Conv2d:
    layer = cam.model.get_submodule("0")
    assert isinstance(layer, nn.Conv2d)
    return layer


def change_module(cam: CFCAM) -> None:
    cam.model.register_module("1", nn.GELU())


def change_weight(cam: CFCAM) -> None:
    first(cam).weight = nn.Parameter(torch.zeros(16, 3, 3, 3))


def change_data(cam: CFCAM) -> None:
    first(cam).weight.data = torch.zeros(16, 3, 3, 3)


def add_hook(cam: CFCAM) -> None:
    first(cam).register_forward_hook(lambda *_: None)


def change_config(cam: CFCAM) -> None:
    cam.config = CFCAMConfig.preset("upstream")


@pytest.mark.parametrize("change", [change_module, change_weight, change_data, add_hook, change_config])
def test_what_is_not_read_again_is_refused(change):
    cam = explainer()
    recorded = Recording(cam, images(0), graphs=Repeats())
    change(cam)
    with pytest.raises(ConfigError, match="is not what was recorded"):
        recorded(images(1))


@pytest.mark.parametrize(
    ("batch", "targets", "message"),
    [
        (images(0, 3), None, r"recorded for images .*\(4, 3, 14, 12\).* got .*\(3, 3, 14, 12\)"),
        (images(0).double(), None, "float64"),
        (images(0), torch.zeros(4, dtype=torch.int64), "recorded with targets None"),
    ],
)
def test_batches_of_another_kind_are_refused(batch, targets, message):
    recorded = Recording(explainer(), images(0), graphs=Repeats())
    with pytest.raises(ConfigError, match=message):
        recorded(batch, targets)


def hooked() -> CFCAM:
    cam = explainer()
    add_hook(cam)
    return cam


@pytest.mark.parametrize(
    ("make", "targets", "graphs", "message"),
    [
        (explainer, None, None, "images on cpu: CUDA graphs need a CUDA device"),
        (lambda: explainer(on_invalid="raise"), None, Repeats(), "give it on_invalid='flag'"),
        (hooked, None, Repeats(), "hooks, which a graph would not run"),
        (explainer, 3, Repeats(), "targets a int: give a tensor of classes"),
    ],
)
def test_what_cannot_be_recorded_is_named(make, targets, graphs, message):
    with pytest.raises(ConfigError, match=message):
        Recording(make(), images(0), targets, graphs=graphs)


def test_autocast_is_refused():
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ConfigError, match="convert the model instead"):
        Recording(explainer(), images(0), graphs=Repeats())
