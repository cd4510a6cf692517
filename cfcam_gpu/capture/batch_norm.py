"""Gradients through batch normalisation that PyTorch computes wrongly, computed rightly."""

from __future__ import annotations

from torch import Tensor, nn

from cfcam_gpu._utils.undo import Undo
from cfcam_gpu.capture.hooks import add_hook
from cfcam_gpu.capture.model_state import modules_of


def correct_gradients(model: nn.Module, images: Tensor, undo: Undo) -> None:
    """Make gradients that reach batch normalisations contiguous where PyTorch needs that, until `undo` runs.

    On the CPU, in eval mode and for a single image, PyTorch's backward pass through a batch normalisation is
    wrong if its output was turned into tokens: their gradient is strided as (C,1,w*C,C), which is both memory
    formats at once, and is read as the other one. CvT's keys and values are such tokens.

    Example:
        >>> import torch
        >>> norm = nn.BatchNorm2d(4).eval().requires_grad_(False)
        >>> maps = torch.rand(1, 4, 3, 3, requires_grad=True)
        >>> gradient = torch.rand(1, 3, 3, 4).as_strided((1, 4, 3, 3), (4, 1, 12, 4))
        >>> undo = Undo()
        >>> correct_gradients(norm, maps, undo)
        >>> (wrong_otherwise,) = torch.autograd.grad(norm(maps), maps, gradient)
        >>> torch.allclose(wrong_otherwise, gradient, atol=1e-4)
        True
    """
    if len(images) != 1 or images.device.type != "cpu":
        return
    for module in modules_of(model):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            add_hook(module._forward_hooks, _contiguous, undo)


def _contiguous(_module: nn.Module, _arguments: object, output: object) -> None:
    if isinstance(output, Tensor) and output.requires_grad:
        output.register_hook(Tensor.contiguous)
