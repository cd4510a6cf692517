"""pytorch-grad-cam's transforms of tokens into maps. None is needed: `CFCAM` finds out how a layer puts out its map."""

from __future__ import annotations

from torch import Tensor

from cfcam_gpu.compat.pytorch_grad_cam.missing import missing


def vit_reshape_transform(tensor: Tensor, height: int = 14, width: int = 14) -> Tensor:
    """Maps (B,C,height,width) of tokens (B,1+height·width,C), the first of which is the class token.

    Example:
        >>> import torch
        >>> vit_reshape_transform(torch.zeros(2, 7, 5), height=2, width=3).shape
        torch.Size([2, 5, 2, 3])
    """
    return swinT_reshape_transform(tensor[:, 1:], height, width)


def swinT_reshape_transform(tensor: Tensor, height: int = 7, width: int = 7) -> Tensor:
    """Maps (B,C,height,width) of tokens (B,height·width,C)."""
    return tensor.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def __getattr__(name: str) -> object:
    raise missing(__name__, name)
