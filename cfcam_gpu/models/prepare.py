"""Faster copies of a model: reduced precision, channels-last layout, BatchNorm folded into convolutions.

Clustering stays in float32, whatever the model's precision is.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode

from cfcam_gpu._utils.messages import unknown
from cfcam_gpu.capture.model_state import explainable
from cfcam_gpu.errors import ConfigError
from cfcam_gpu.models.options import PRECISIONS

#: Precision -> the dtype of parameters and buffers.
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in PRECISIONS}

#: Largest change of the logits by folding in float32, relative to their standard deviation.
_FOLD_TOLERANCE = 1e-3

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def prepared(
    model: nn.Module,
    example: Tensor,
    *,
    precision: str = "float32",
    channels_last: bool = False,
    fold_batchnorm: bool = False,
) -> nn.Module:
    """A faster copy of the model, in eval mode, with the same module names.

    With the default options the model itself is returned, unchanged.

    Args:
        example: (B, channels, H, W) float32 on the model's device. The model is run on it to see which
            BatchNorm follows which convolution.
        precision: one of `PRECISIONS`; all parameters and buffers get it.
        channels_last: the convolutions' weights get the NHWC memory layout, which is faster on tensor
            cores and with oneDNN; give the images the same layout.
        fold_batchnorm: each BatchNorm that alone reads a convolution's output becomes part of the
            convolution, and `nn.Identity` takes its place.

    Raises:
        ConfigError: unknown precision, or folding changes the outputs by more than rounding.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).eval()
        >>> fast = prepared(model, torch.zeros(1, 3, 4, 4), precision="bfloat16", fold_batchnorm=True)
        >>> fast[0].weight.dtype, fast[1]
        (torch.bfloat16, Identity())
    """
    if precision not in PRECISIONS:
        raise ConfigError(unknown("precision", precision, PRECISIONS))
    if precision == "float32" and not channels_last and not fold_batchnorm:
        return model
    model = copy.deepcopy(model).eval()
    if fold_batchnorm:
        _fold(model, example)
    model = model.to(DTYPES[precision])
    return model.to(memory_format=torch.channels_last) if channels_last else model


def _fold(model: nn.Module, example: Tensor) -> None:
    with torch.no_grad(), explainable(model):
        trace = _Trace(model)
        with trace:
            before = model(example)
        for convolution, norm in trace.foldable():
            _replace(model, convolution, fuse_conv_bn_eval(convolution, norm))
            _replace(model, norm, nn.Identity())
        after = model(example)
    if isinstance(before, Tensor):
        change = float((after - before).abs().max() / before.std().clamp_min(1e-12))
        if not change <= _FOLD_TOLERANCE:
            raise ConfigError(
                f"folding BatchNorm changes this model's outputs by {change:.1e} of their spread, more than "
                f"rounding ({_FOLD_TOLERANCE:.0e}); use it unfolded"
            )


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replaces the module `old` by `new` in every place of the model."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)


@dataclass
class _Use:
    """What happened to a convolution's output.

    Attributes:
        consumers: number of functions that computed with it.
        norm: the BatchNorm that it was the input of; None: there was none.
    """

    convolution: Any
    consumers: int = 0
    norm: Any = None


class _Trace(TorchFunctionMode):
    """Records during one forward pass which functions compute with the outputs of convolutions."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls: dict[nn.Module, int] = {}
        self.uses: dict[int, _Use] = {}
        self.outputs: list[Tensor] = []
        self.handles = [
            module.register_forward_hook(self._ran)
            for module in model.modules()
            if isinstance(module, (*_CONVOLUTIONS, nn.modules.batchnorm._BatchNorm))
        ]

    def _ran(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.calls[module] = self.calls.get(module, 0) + 1
        if isinstance(module, _CONVOLUTIONS):
            self.outputs.append(output)  # kept alive, so that no other tensor gets the same id
            self.uses[id(output)] = _Use(module)
        elif args and id(args[0]) in self.uses:
            self.uses[id(args[0])].norm = module

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for argument in (*args, *(kwargs or {}).values()):
            for tensor in argument if isinstance(argument, (list, tuple)) else (argument,):
                if isinstance(tensor, Tensor) and id(tensor) in self.uses and _computes(func):
                    self.uses[id(tensor)].consumers += 1
        return func(*args, **(kwargs or {}))

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for handle in self.handles:
            handle.remove()

    def foldable(self) -> list[tuple[Any, Any]]:
        """(convolution, BatchNorm) pairs that ran once each, one straight into the other and nowhere else."""
        return [
            (use.convolution, use.norm)
            for use in self.uses.values()
            if use.norm is not None
            and use.consumers == 1
            and self.calls[use.convolution] == self.calls[use.norm] == 1
            and use.norm.track_running_stats
        ]


def _computes(func: Any) -> bool:
    """Whether a function computes with a tensor's values, and does not only read its shape or type."""
    return getattr(func, "__name__", "") not in (
        "__get__",
        "size",
        "dim",
        "ndimension",
        "numel",
        "is_floating_point",
    )
