"""The number of channels of a model's input: read from its first convolution, or changed there."""

from __future__ import annotations

import copy

from torch import nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


def input_channels(model: nn.Module) -> int | None:
    """How many channels the model's first convolution takes; None for a model without one.

    Example:
        >>> input_channels(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)))
        1
    """
    first = _first_convolution(model)
    return None if first is None else first[1].in_channels


def with_input_channels(model: nn.Module, channels: int | None) -> nn.Module:
    """The model, whose first convolution is replaced by an untrained one that takes that many channels.

    Args:
        channels: None, or the number that it takes already: nothing is replaced.

    Example:
        >>> model = with_input_channels(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False)), 1)
        >>> model[0]
        Conv2d(1, 8, kernel_size=(3, 3), stride=(1, 1), bias=False)
    """
    first = _first_convolution(model)
    if first is None or channels is None or channels == first[1].in_channels:
        return model
    name, old = first
    new = copy.deepcopy(old)
    new.in_channels = channels
    new.weight = nn.Parameter(old.weight.new_empty(len(old.weight), channels, *old.kernel_size))
    new.reset_parameters()
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, new)
    return model


def _first_convolution(model: nn.Module) -> tuple[str, _Convolution] | None:
    for name, module in model.named_modules():
        if isinstance(module, _CONVOLUTIONS):
            return name, module
    return None
