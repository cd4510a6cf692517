"""Models with further inputs, mappings of inputs, and layers that run more than once or are several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfcam_gpu import CFCAM, CaptureError, ConfigError, Explanation


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, 2, 1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(6, 8, 3, 2, 1)
        self.relu2 = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.relu2(self.conv2(self.relu1(self.conv1(images))))
        return maps


class WithAge(nn.Module):
    """A classifier of a picture and a patient's age."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.fc = nn.Linear(8, 3)
        self.of_age = nn.Linear(1, 8)

    def forward(self, pixel_values: Tensor, age: Tensor, scale: float = 1.0) -> Tensor:
        pooled = self.backbone(pixel_values).mean((2, 3))
        return torch.as_tensor(self.fc(pooled * torch.sigmoid(self.of_age(age)) * scale))


class Siamese(nn.Module):
    """Compares a picture with its mirror image; the second run of the backbone is of the mirror image."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.fc = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        runs = [self.backbone(one).mean((2, 3)) for one in (images, images.flip(3))]
        return torch.as_tensor(self.fc(torch.cat(runs, 1)))


@pytest.fixture
def made() -> Callable[[type[nn.Module]], nn.Module]:
    def make(kind: type[nn.Module]) -> nn.Module:
        torch.manual_seed(1)
        return kind().eval()

    return make


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(2))


CLASSES = [[0, 1], [1, 2], [2, 0]]
AGES = torch.tensor([[0.1], [-2.0], [3.0]])


def mean_of(results: Sequence[Explanation]) -> Tensor:
    """The mean of the upsampled maps, each map at the layer divided by its maximum before."""
    size = results[0].heatmap.shape[-2:]
    maps = [result.grid / result.grid.amax((-2, -1), keepdim=True).clamp_min(1e-30) for result in results]
    upsampled = [F.interpolate(one.flatten(0, -3)[None], size, mode="bilinear")[0] for one in maps]
    return torch.stack(upsampled).mean(0).view_as(results[0].heatmap)


def gradcam(maps: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Grad-CAM of one image's maps (C,h,w), by hand."""
    leaf = maps.detach()[None].requires_grad_()
    (gradient,) = torch.autograd.grad(score(leaf), leaf)
    return (gradient[0].mean((1, 2))[:, None, None] * leaf[0]).sum(0).relu().detach()


@pytest.mark.parametrize("how", ["args", "kwargs", "named", "mapping"])
def test_a_model_with_a_further_input_is_explained_with_each_images_own(
    made: Callable[..., Any], pictures: Tensor, how: str
) -> None:
    model = made(WithAge)
    cam = CFCAM(model, "backbone.relu2", method="gradcam")
    calls: dict[str, Callable[[], Any]] = {
        "args": lambda: cam(pictures, 1, forward_args=(AGES, 2.0)),
        "kwargs": lambda: cam(pictures, 1, forward_kwargs={"age": AGES, "scale": 2.0}),
        "named": lambda: cam(pixel_values=pictures, age=AGES, scale=2.0, targets=1),
        "mapping": lambda: cam({"age": AGES, "pixel_values": pictures, "scale": 2.0}, 1),
    }
    result = calls[how]()
    torch.testing.assert_close(result.logits, model(pictures, AGES, 2.0).detach())
    for i in range(3):
        gate = torch.sigmoid(model.of_age(AGES[i : i + 1])).detach() * 2

        def score(maps: Tensor, gate: Tensor = gate) -> Tensor:
            return torch.as_tensor(model.fc(maps.mean((2, 3)) * gate)[0, 1])

        wanted = gradcam(model.backbone(pictures[i : i + 1])[0], score)
        torch.testing.assert_close(result.grid[i], wanted, atol=1e-6, rtol=1e-4)
    assert "forward" not in vars(model)
    assert not model.backbone.relu2._forward_hooks


def test_the_layer_is_chosen_with_further_inputs(made: Callable[..., Any], pictures: Tensor) -> None:
    cam = CFCAM(made(WithAge))
    assert cam(pictures, 1, forward_args=(AGES,)).grid.shape == (3, 4, 6)
    assert cam.layer_name == "backbone"


def test_methods_that_change_the_images_take_one_image_with_further_inputs(
    made: Callable[..., Any], pictures: Tensor
) -> None:
    cam = CFCAM(made(WithAge), "backbone", method="ablationcam")
    with pytest.raises(CaptureError, match="'ablationcam' runs the model on changed images, whose further"):
        cam(pictures, 1, forward_args=(AGES,))
    alone = [cam(pictures[i : i + 1], 1, forward_args=(AGES[i : i + 1],)) for i in range(3)]
    # The gate of the age multiplies the features before the head, so that ages change the maps.
    other = cam(pictures[:1], 1, forward_args=(AGES[2:],))
    assert all(result.grid.isfinite().all() for result in alone)
    assert not torch.allclose(alone[0].grid, other.grid)
    fine = CFCAM(made(WithAge), "backbone", method="gradcam-fine", finer_layer="backbone.relu1")
    together = fine(pictures, 1, forward_args=(AGES,)).heatmap
    single = [fine(pictures[i : i + 1], 1, forward_args=(AGES[i : i + 1],)).heatmap for i in range(3)]
    torch.testing.assert_close(together, torch.cat(single), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {}, "images must be a floating-point tensor .* got a NoneType"),
        ((torch.ones(1, 3, 8, 8),), {"age": AGES}, "unknown argument age; pass what the model takes beside"),
        (
            (),
            {"left": torch.ones(1, 3, 8, 8), "right": torch.ones(1, 3, 8, 8)},
            r"which of the inputs are the images is not clear \(left: a float32 tensor of shape \(1, 3, 8, 8\), right",
        ),
    ],
)
def test_inputs_that_cannot_be_told_apart(
    made: Callable[..., Any], arguments: Any, options: Any, message: str
) -> None:
    with pytest.raises(CaptureError, match=message):
        CFCAM(made(WithAge), "backbone")(*arguments, **options)


@pytest.mark.parametrize("call", [0, 1, -1, -2])
@pytest.mark.parametrize("times", [1, 2])
def test_each_run_of_a_shared_backbone_can_be_explained(
    made: Callable[..., Any], pictures: Tensor, call: int, times: int
) -> None:
    model = made(Siamese)
    cam = CFCAM(model, "backbone", method="gradcam", call=call)
    for _ in range(times):
        result = cam(pictures, 2)
    both = [model.backbone(one) for one in (pictures, pictures.flip(3))]
    pooled = [maps.mean((2, 3)).detach() for maps in both]
    for i in range(3):

        def score(maps: Tensor, i: int = i) -> Tensor:
            halves = [pooled[0][i : i + 1], pooled[1][i : i + 1]]
            halves[call % 2] = maps.mean((2, 3))
            return torch.as_tensor(model.fc(torch.cat(halves, 1))[0, 2])

        torch.testing.assert_close(result.grid[i], gradcam(both[call % 2][i], score), atol=1e-6, rtol=1e-4)


def test_a_method_that_runs_the_model_again_replaces_the_same_run(
    made: Callable[..., Any], pictures: Tensor
) -> None:
    model = made(Siamese)
    first = CFCAM(model, "backbone", method="ablationcam", call=0)(pictures[:1], 2)
    last = CFCAM(model, "backbone", method="ablationcam")(pictures[:1], 2)
    mirrored = Siamese().eval()
    mirrored.load_state_dict(model.state_dict())
    mirrored.fc.weight.data = mirrored.fc.weight.data.roll(8, 1)
    swapped = CFCAM(mirrored, "backbone", method="ablationcam", call=1)(pictures[:1].flip(3), 2)
    torch.testing.assert_close(first.grid, swapped.grid, atol=1e-6, rtol=1e-4)
    assert not torch.allclose(first.grid, last.grid)


def test_all_runs_are_averaged(made: Callable[..., Any], pictures: Tensor) -> None:
    model = made(Siamese)
    every = CFCAM(model, "backbone", method="gradcam", call="all")
    results = [CFCAM(model, "backbone", method="gradcam", call=call)(pictures, 0) for call in (0, 1)]
    mean = mean_of(results)
    wanted = mean / mean.amax((1, 2), keepdim=True).clamp_min(1e-30)
    assert not any(bool(one.blank.all()) for one in results)
    for _ in range(2):
        torch.testing.assert_close(every(pictures, 0).heatmap, wanted)


class Repeated(nn.Module):
    """The backbone runs as often as the caller says."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.fc = nn.Linear(8, 3)

    def forward(self, images: Tensor, times: int = 2) -> Tensor:
        pooled = [self.backbone(images.roll(n, 3)).mean((2, 3)) * (n + 1) for n in range(times)]
        return torch.as_tensor(self.fc(torch.stack(pooled).sum(0)))


def test_all_runs_are_those_of_each_call(made: Callable[..., Any], pictures: Tensor) -> None:
    model = made(Repeated)
    every = CFCAM(model, "backbone", method="gradcam", call="all", on_invalid="flag")
    for times in (2, 3, 1):
        results = [
            CFCAM(model, "backbone", method="gradcam", call=call, on_invalid="flag")(
                pictures, 0, forward_args=(times,)
            )
            for call in range(times)
        ]
        mean = mean_of(results)
        wanted = mean / mean.amax((1, 2), keepdim=True).clamp_min(1e-30)
        assert wanted.any()
        found = every(pictures, 0, forward_args=(times,))
        torch.testing.assert_close(found.heatmap, wanted, msg=f"{times} runs")


def test_an_interrupted_call_leaves_no_half_of_the_runs(made: Callable[..., Any], pictures: Tensor) -> None:
    model = made(Siamese)
    layers = ["backbone.relu1", "backbone"]
    wanted = CFCAM(model, layers, method="gradcam", call="all")(pictures, 0).heatmap
    cam = CFCAM(model, layers, method="gradcam", call="all")
    count = 0

    def interrupt() -> None:
        nonlocal count
        count += 1
        if count == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cam(pictures, 0, check=interrupt)
    torch.testing.assert_close(cam(pictures, 0).heatmap, wanted)


def test_a_forward_that_somebody_replaced_is_the_one_that_runs(
    made: Callable[..., Any], pictures: Tensor
) -> None:
    model, plain = made(WithAge).train(), made(WithAge)
    own, modes = model.forward, []

    def negated(*args: Any, **kwargs: Any) -> Any:
        modes.append(model.training)
        return -own(*args, **kwargs)

    model.forward = negated
    result = CFCAM(model, "backbone.relu2", method="gradcam")(pictures, 1, forward_args=(AGES,))
    torch.testing.assert_close(result.logits, -plain(pictures, AGES).detach())
    expected = CFCAM(plain, "backbone.relu2", method="gradcam")(
        pictures, lambda logits: -logits[1], forward_args=(AGES,)
    )
    torch.testing.assert_close(result.grid, expected.grid)
    assert modes
    assert not any(modes)
    assert model.training


def test_a_model_compiled_in_place_gets_its_further_inputs(
    made: Callable[..., Any], pictures: Tensor
) -> None:
    model, plain = made(WithAge), made(WithAge)
    model.compile(backend="eager")
    found = CFCAM(model, "backbone.relu2", method="gradcam")(pictures, 1, forward_args=(AGES, 2.0))
    expected = CFCAM(plain, "backbone.relu2", method="gradcam")(pictures, 1, forward_args=(AGES, 2.0))
    torch.testing.assert_close(found.grid, expected.grid)


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ({"forward_args": AGES}, r"forward_args must be a tuple of further inputs, got a float32 tensor"),
        ({"forward_args": 5}, r"forward_args must be a tuple of further inputs, got a int; a single one is"),
        (
            {"forward_kwargs": [AGES]},
            r"forward_kwargs must be a dictionary of further inputs by name, got a list",
        ),
    ],
)
def test_further_inputs_of_another_type_are_errors(
    made: Callable[..., Any], pictures: Tensor, further: dict[str, Any], message: str
) -> None:
    with pytest.raises(CaptureError, match=message):
        CFCAM(made(WithAge), "backbone")(pictures, **further)


def test_runs_that_are_not_there(made: Callable[..., Any], pictures: Tensor) -> None:
    model = made(Siamese)
    for call in (2, -3):
        with pytest.raises(
            CaptureError, match=r"'backbone' ran 2 times in the forward pass, so there is no run"
        ):
            CFCAM(model, "backbone", call=call)(pictures)
    with pytest.raises(
        ConfigError, match="call must be 'all' or the number of a run, -1 for the last, got 'first'"
    ):
        CFCAM(model, "backbone", call="first")


def test_several_layers_are_averaged_after_each_is_normalised(
    made: Callable[..., Any], pictures: Tensor
) -> None:
    model = made(Siamese)
    names = ["backbone.relu1", "backbone.relu2"]
    cam = CFCAM(model, [model.backbone.relu1, "backbone.relu2"], method="gradcam", engine="torch")
    result = cam(pictures, CLASSES)
    each = [CFCAM(model, name, method="gradcam")(pictures, CLASSES) for name in names]
    assert not any(bool(one.blank.all()) for one in each)
    mean = mean_of(each)
    peak = mean.amax((2, 3))
    torch.testing.assert_close(result.heatmap, mean / peak.clamp_min(1e-30)[..., None, None])
    torch.testing.assert_close(result.peak, peak)
    assert torch.equal(result.blank, each[0].blank & each[1].blank)
    assert result.grid.shape == (3, 2, 8, 12)
    assert cam.layer_name == "backbone.relu1, backbone.relu2"
    one = CFCAM(model, ["backbone.relu2"], method="gradcam")(pictures, 1)
    assert torch.equal(one.heatmap, CFCAM(model, "backbone.relu2", method="gradcam")(pictures, 1).heatmap)
    with pytest.raises(ConfigError, match="features are those of one run of one layer"):
        cam.features(pictures)


def test_several_layers_agree_with_pytorch_grad_cam(made: Callable[..., Any], pictures: Tensor) -> None:
    """Up to the minimum that it takes off each map, which is zero here, and off their mean."""
    gradcams = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = made(WithAge)
    for convolution in (model.backbone.conv1, model.backbone.conv2):
        nn.init.constant_(convolution.bias, -0.1)  # so that each map is zero somewhere
    model.fc.weight.data *= 100  # it adds 1e-7 to the maximum by which it divides
    alone: Any = nn.Sequential(model.backbone, nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.fc).eval()
    layers = [alone[0].relu1, alone[0].relu2]
    result = CFCAM(alone, layers, method="gradcam")(pictures, 1)
    with gradcams.GradCAM(alone, layers) as peer:
        theirs = torch.from_numpy(peer(pictures, [ClassifierOutputTarget(1)] * 3))
    grids = [CFCAM(alone, layer, method="gradcam")(pictures, 1).grid for layer in layers]
    zero = [i for i in range(3) if all(grid[i].min() == 0 and grid[i].max() > 0 for grid in grids)]
    assert zero
    least = result.heatmap.amin((1, 2), keepdim=True)
    ours = (result.heatmap - least) / (1 - least)
    torch.testing.assert_close(ours[zero], theirs[zero], atol=1e-4, rtol=0)
