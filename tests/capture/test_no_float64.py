"""On a device without float64 (Apple's MPS) no method makes a float64 tensor, and the maps are the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cfcam_gpu import CFCAM, CFCAMConfig
from cfcam_gpu._utils import precision
from cfcam_gpu.methods import METHODS
from tests.helpers.capture_net import make_images, make_net


class NoFloat64(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            assert not (isinstance(value, Tensor) and value.ndim and value.dtype == torch.float64), func
        return result


CASES = [(method, "default") for method in METHODS] + [
    ("cfcam", preset) for preset in ("upstream", "spatial")
]


@pytest.mark.parametrize(("method", "preset"), CASES)
def test_no_method_makes_float64(method: str, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def explained() -> Tensor:
        cam = CFCAM(
            make_net(), config=CFCAMConfig.preset(preset), engine="torch", method=method, on_invalid="flag"
        )
        return cam(make_images(), targets=1).heatmap

    expected = explained()
    monkeypatch.setattr(precision, "NO_FLOAT64", {"cpu"})
    with NoFloat64():
        heatmap = explained()
    torch.testing.assert_close(heatmap, expected, rtol=0, atol=1e-4)
