"""Reduced precision, layout and folded BatchNorm: a copy that computes the same, under the same names."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from cfcam_gpu import CFCAM, ConfigError
from cfcam_gpu.models import LoadedModel
from cfcam_gpu.models.prepare import prepared


def with_statistics(model: nn.Module) -> nn.Module:
    """BatchNorm statistics and affine parameters as training leaves them, not zeros and ones."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


def count(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("make", "left"),
    [
        (lambda: torchvision.models.resnet18(), 0),
        (lambda: torchvision.models.mobilenet_v2(), 0),
        # Most of its BatchNorms come before a convolution, after a concatenation.
        (lambda: torchvision.models.densenet121(), 62),
        (lambda: timm.create_model("resnet18"), 0),
    ],
    ids=["resnet18", "mobilenet_v2", "densenet121", "timm"],
)
def test_folding_changes_nothing_but_rounding(make: Callable[[], nn.Module], left: int) -> None:
    model, images = with_statistics(make()).requires_grad_(requires_grad=False), torch.randn(2, 3, 64, 64)
    names = [name for name, _ in model.named_modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = prepared(model, images[:1], fold_batchnorm=True)
    torch.testing.assert_close(
        folded(images), model(images), rtol=1e-3, atol=1e-3 * float(model(images).std())
    )
    assert count(folded) == left < count(model)
    assert [name for name, _ in folded.named_modules()] == names
    torch.testing.assert_close(dict(model.state_dict()), before)


def test_folding_the_packaged_model_keeps_its_heatmaps(lite0: LoadedModel, photo_batch: Tensor) -> None:
    folded = prepared(lite0.model, photo_batch[:1], fold_batchnorm=True)
    assert count(folded) == 0
    plain, fast = CFCAM(lite0.model)(photo_batch), CFCAM(folded)(photo_batch)
    torch.testing.assert_close(fast.heatmap, plain.heatmap, rtol=0, atol=1e-3)


class Shared(nn.Module):
    """One BatchNorm after two convolutions, and a convolution whose output is used twice: neither may be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.shared, self.norm = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.b(self.shared(self.a(x))))
        y = self.c(x)
        return self.fc((self.norm(y) + y).mean((2, 3)))


def test_shared_modules_and_reused_outputs_are_left_alone() -> None:
    model = with_statistics(Shared())
    assert count(prepared(model, torch.randn(1, 3, 8, 8), fold_batchnorm=True)) == 2


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_precision_and_layout(lite0: LoadedModel, photo_batch: Tensor, precision: str) -> None:
    model = prepared(
        lite0.model, photo_batch[:1], precision=precision, channels_last=True, fold_batchnorm=True
    )
    assert {p.dtype for p in model.parameters()} == {getattr(torch, precision)}
    images = photo_batch.to(memory_format=torch.channels_last)
    result, plain = CFCAM(model)(images), CFCAM(lite0.model)(photo_batch)
    assert result.heatmap.dtype == torch.float32
    assert result.targets is not None
    assert plain.targets is not None
    assert torch.equal(result.targets[:4], plain.targets[:4])  # the photos it is sure of
    assert float((result.heatmap - plain.heatmap).abs().mean()) < 0.05


def test_an_unknown_precision_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match="unknown precision 'int8'; choose one of: float32, bfloat16, float16"
    ):
        prepared(nn.Identity(), torch.zeros(1, 3, 8, 8), precision="int8")
