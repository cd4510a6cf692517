"""Models that cannot be explained are refused in one sentence that says what to pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cfcam_gpu import CFCAM, CaptureError
from cfcam_gpu.errors import ModelFailedError


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip


IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def exported() -> torch.export.ExportedProgram:
    return torch.export.export(net(), (IMAGES,))


SCRIPT = r"the model is TorchScript .*torch\.export\.unflatten\(program\)"


@pytest.mark.parametrize("layer", [None, "3"])
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: torch.jit.script(net()), SCRIPT),
        (lambda: torch.jit.trace(net(), IMAGES), SCRIPT),
        (lambda: torch.jit.freeze(torch.jit.trace(net(), IMAGES)), SCRIPT),
        (exported, r"an ExportedProgram; pass torch\.export\.unflatten\(program\)"),
        (lambda: exported().module(), r"flat graph, which has no layers; pass torch\.export\.unflatten"),
        (
            lambda: net().state_dict(),
            "must be a torch.nn.Module, got OrderedDict; load weights into a module",
        ),
        (lambda: None, "must be a torch.nn.Module, got NoneType"),
        (lambda: torch.relu, "must be a torch.nn.Module, got builtin_function_or_method; wrap a function"),
    ],
)
def test_what_has_no_layers_is_refused(make: Callable[[], Any], sentence: str, layer: str | None) -> None:
    with pytest.raises(CaptureError, match=sentence):
        CFCAM(make(), layer)


def test_an_unflattened_program_has_the_models_maps() -> None:
    expected = CFCAM(net(), "3")(IMAGES, targets=1).heatmap
    unflattened: Any = torch.export.unflatten(exported())
    torch.testing.assert_close(CFCAM(unflattened, "3")(IMAGES, targets=1).heatmap, expected)


def test_a_quantised_head_is_named() -> None:
    model = torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(
        CaptureError, match="quantised layers are not differentiable; explain the float model"
    ):
        CFCAM(model, "3")(IMAGES)


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(8, 5)
        self.reentrant: bool | None = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = (
            self.block(x)
            if self.reentrant is None
            else checkpoint(self.block, x, use_reentrant=self.reentrant)
        )
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


@pytest.mark.filterwarnings("ignore:None of the inputs")
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("layer", ["stem", "block.0", "block.2", "block.3", "block"])
def test_checkpointed_layers_have_the_same_map_or_are_refused(layer: str, *, reentrant: bool) -> None:
    def explained() -> Tensor:
        return CFCAM(model, layer, on_invalid="flag")(IMAGES, targets=1).heatmap

    model = Checkpointed(reentrant=reentrant)
    inside = layer.startswith("block.") and layer != "block.3"
    if reentrant or inside:
        with pytest.raises(CaptureError, match="activation checkpointing"):
            explained()
    else:
        heatmap = explained()
        model.reentrant = None
        torch.testing.assert_close(heatmap, explained())


@pytest.mark.parametrize("part", [0, 6])
def test_parameters_of_two_types_are_named(part: int) -> None:
    model = net()
    model[part].double()
    with pytest.raises(
        ModelFailedError, match=r"parameters are float32 and float64: make them one, as model\.float"
    ):
        CFCAM(model, "3")(IMAGES)


@pytest.mark.parametrize("layer", [None, "conv"])
@pytest.mark.parametrize(
    "error",
    [KeyError("pixel"), TypeError("bad"), IndexError("far"), AttributeError("no x"), AssertionError()],
)
def test_an_error_inside_the_model_is_one_sentence(error: Exception, layer: str | None) -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.conv(x)
            raise error

    cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    with pytest.raises(ModelFailedError) as raised:
        CFCAM(Failing(), layer)(IMAGES)
    count = 1 if layer is None else 2
    sentence = (
        f"the model failed on images ({count}, 3, 16, 16): {cause}; run model(images) by itself to see where"
    )
    assert str(raised.value) == sentence
    assert raised.value.__cause__ is error


class InPlace(nn.Module):
    """Changes what a sigmoid put out, which its backward pass needs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.sigmoid(self.conv(images))
        maps *= 2
        return torch.as_tensor(self.fc(maps.mean((2, 3))))


@pytest.mark.parametrize("method", ["gradcam", "smoothgradcam++"])
def test_a_later_change_in_place_that_ends_the_backward_pass_is_named(method: str) -> None:
    model, images = InPlace(), torch.rand(2, 3, 8, 8)
    with pytest.raises(
        CaptureError, match=r"behind the layer the model changes a tensor in place .* eigencam"
    ):
        CFCAM(model, "conv", method=method)(images)
    for advised in ("eigencam", "scorecam"):
        assert CFCAM(model, "conv", method=advised)(images).problems == [None, None]


def test_what_a_check_raises_is_no_failure_of_the_model() -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise TimeoutError("too long")

    with pytest.raises(TimeoutError, match="too long"):
        CFCAM(net(), "3")(IMAGES, check=check)
