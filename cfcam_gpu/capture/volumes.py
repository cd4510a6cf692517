"""Volumes (B,C,D,H,W): which layer of a 3-D network is explained, and how its output is read.

The slices of a layer's map are put below each other, (B,C,d·h,w), for everything that treats cells alike: the
methods, and CF-CAM's clustering. Filters and the enlargement to the volume's size take the map apart again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cfcam_gpu._utils.precision import differentiable_sum, use_gradients
from cfcam_gpu._utils.undo import Undo
from cfcam_gpu.capture.failures import run_model
from cfcam_gpu.capture.hooks import add_hook, enter_mode, first_tensor
from cfcam_gpu.capture.layers import NONLINEARITIES, TargetLayer
from cfcam_gpu.capture.layouts import Layout
from cfcam_gpu.capture.model_state import make_explainable
from cfcam_gpu.capture.scoring import Scoring, describe
from cfcam_gpu.errors import CaptureError

#: Sides of a volume or of its map: slices, rows, columns.
Sides = tuple[int, int, int]


@dataclass(frozen=True)
class Slices(Layout):
    """(B,C,d,h,w), as 3-D convolutions put it out, read with its slices below each other.

    Attributes:
        sides: (d,h,w) of the map.
        volume: (D,H,W) of the volumes for which it has them.
    """

    sides: Sides
    volume: Sides
    name: ClassVar[str] = "ncdhw"
    form: ClassVar[str] = "(B,C,d,h,w)"
    axes: ClassVar[int | None] = 5

    def maps(self, output: Tensor) -> Tensor:
        return output.flatten(2, 3)

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int]:
        return shape[1], shape[2] * shape[3], shape[4]

    def put_back(self, maps: Tensor, output: Tensor) -> Tensor:
        return maps.to(output.dtype).unflatten(2, self.sides[:2])

    def fits(self, shape: Sequence[int]) -> bool:
        return tuple(shape[2:]) == self.sides


def volume_layer(
    model: nn.Module,
    layer: TargetLayer | None,
    volumes: Tensor,
    scoring: Scoring = Scoring(),  # noqa: B008
) -> TargetLayer:
    """The layer with the layout of its output for volumes (B,C,D,H,W), found by running the model on the first.

    Args:
        layer: the caller's; None: the last one with a map of several cells that the score depends on, after its
            nonlinearity.

    Raises:
        CaptureError: there is none, or the caller's puts out no map of a volume.

    Example:
        >>> model = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
        >>> found = volume_layer(model, None, torch.rand(1, 1, 6, 8, 10))
        >>> found.label, found.layout.sides
        ('1', (4, 6, 8))
    """
    recorder, logits = _run(model, volumes[:1], scoring)
    volume = (volumes.shape[2], volumes.shape[3], volumes.shape[4])
    if layer is not None:
        output = recorder.outputs.get(layer.module, (None, None))[1]
        if output is None or output.ndim != 5:
            got = "nothing" if output is None else describe(output)
            raise CaptureError(
                f"target layer {layer.label!r} must put out a map of the volume, (B,C,d,h,w), got {got}"
            )
        return _with_layout(layer, output, volume)
    candidates = [
        (module, name, output)
        for module, (name, output) in recorder.outputs.items()
        if output.ndim == 5 and output.shape[1] > 1 and output[0, 0].numel() > 1 and output.requires_grad
    ]
    for module, name, output in reversed(candidates):
        (gradient,) = torch.autograd.grad(
            differentiable_sum(logits), output, retain_graph=True, allow_unused=True
        )
        if gradient is not None and bool(gradient.any()):
            then = recorder.nonlinearities.get(id(output))
            return _with_layout(TargetLayer(name, module, then), output, volume)
    raise CaptureError(
        "no layer of the model has a map (B,C,d,h,w) of the volume that the score depends on; pass target_layer"
    )


def _with_layout(layer: TargetLayer, output: Tensor, volume: Sides) -> TargetLayer:
    sides = (output.shape[2], output.shape[3], output.shape[4])
    return TargetLayer(layer.name, layer.module, layer.then, Slices(sides, volume))


def _run(model: nn.Module, volume: Tensor, scoring: Scoring) -> tuple[_Recorder, Tensor]:
    recorder, undo = _Recorder(), Undo()
    try:
        make_explainable(model, undo)
        use_gradients(undo, enabled=True)
        enter_mode(recorder, undo)
        for name, module in model.named_modules():
            if name:
                add_hook(module._forward_hooks, recorder.recorded(name), undo)
        # A copy that is no leaf may be changed in place.
        logits = scoring.logits(run_model(model, volume.detach().clone().requires_grad_().clone()))
    finally:
        undo.run()
    return recorder, logits


class _Recorder(TorchFunctionMode):
    """The last output of each module, in the order of the calls, and the nonlinearities that took an output.

    Attributes:
        nonlinearities: by the id of the tensor, the function that was first called on it after its module.
    """

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[nn.Module, tuple[str, Tensor]] = {}
        self.nonlinearities: dict[int, str] = {}

    def recorded(self, name: str) -> Any:
        def record(module: nn.Module, _arguments: object, output: Any) -> None:
            output = first_tensor(output)
            if isinstance(output, Tensor) and output.is_floating_point():
                self.outputs.pop(module, None)
                self.outputs[module] = (name, output)
                self.nonlinearities.pop(id(output), None)

        return record

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = NONLINEARITIES.get(getattr(func, "__name__", ""))
        if name and args and isinstance(args[0], Tensor):
            self.nonlinearities.setdefault(id(args[0]), name)
        return result
