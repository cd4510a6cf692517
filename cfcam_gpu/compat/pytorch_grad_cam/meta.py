"""pytorch-grad-cam's classes that are made of the maps of another one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from cfcam_gpu.compat.pytorch_grad_cam.cams import BaseCAM, GradCAM, GradCAMPlusPlus, Maps
from cfcam_gpu.compat.pytorch_grad_cam.utils.image import scale_cam_image
from cfcam_gpu.compat.pytorch_grad_cam.utils.model_targets import FinerWeightedTarget

Target = Callable[[Tensor], Tensor]

#: The places of the three classes that are closest to one.
_NEXT = (1, 2, 3)


class FinerCAM:
    """What tells a class from those whose scores are closest to its own (Finer-CAM, arXiv 2501.11309).

    Args:
        base_method: the class that makes the maps; the rest as for `BaseCAM`.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> FinerCAM(model, [model[1]])(torch.ones(2, 3, 8, 8), alpha=0.6).shape
        (2, 8, 8)
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        base_method: type[BaseCAM] = GradCAM,
    ) -> None:
        self.base_cam = base_method(model, target_layers, reshape_transform)

    def __call__(
        self,
        input_tensor: Tensor,
        targets: Sequence[Target] | None = None,
        eigen_smooth: bool = False,  # noqa: FBT001, FBT002  (pytorch-grad-cam's signature)
        alpha: float = 1,
        comparison_categories: Sequence[int] | None = None,
        target_idx: int | None = None,
    ) -> Maps:
        """Maps (B,H,W) in [0,1].

        Args:
            targets: as for `BaseCAM`; None: a class against others, as the next arguments say.
            alpha: how much the others count.
            comparison_categories: which others, by their place in the order of how close their logits
                are; None: 1, 2 and 3.
            target_idx: the class; None: each image's likeliest.
        """

        def finer(output: Tensor) -> Tensor:
            places = _NEXT if comparison_categories is None else comparison_categories
            main, others = _closest(output, places, target_idx)
            return FinerWeightedTarget(main, others, alpha)(output)

        chosen = [finer] * len(input_tensor) if targets is None else targets
        return self.base_cam.forward(input_tensor, chosen, eigen_smooth=eigen_smooth)

    forward = __call__

    def __enter__(self) -> FinerCAM:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


def _closest(output: Tensor, places: Sequence[int], target: int | None) -> tuple[int, list[int]]:
    """A class, the likeliest for None, and those at these places of the order of how close to its logit theirs are."""
    logits = output.detach()
    logit = logits.max() if target is None else logits[target]
    order = (logits - logit).abs().argsort().tolist()
    return order[0], [order[place] for place in places if place < len(order)]


class RefineCAM:
    """The product of several layers' maps (RefineCAM, arXiv 2605.14641).

    Args:
        base_method: the class that makes each layer's maps; options: its further arguments; the rest as for `BaseCAM`.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten())
        >>> RefineCAM(model, [model[1], model[3]])(torch.ones(2, 3, 8, 8)).shape
        (2, 8, 8)
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        base_method: type[BaseCAM] = GradCAMPlusPlus,
        **options: Any,
    ) -> None:
        self.base_cam_per_layer = [
            base_method(model, [layer], reshape_transform, **options) for layer in target_layers
        ]

    def __call__(
        self,
        input_tensor: Tensor,
        targets: Sequence[Target] | None = None,
        eigen_smooth: bool = False,  # noqa: FBT001, FBT002  (pytorch-grad-cam's signature)
    ) -> Maps:
        """Maps (B,H,W) in [0,1]; the arguments are `BaseCAM`'s."""
        maps = [
            cam.forward(input_tensor, targets, eigen_smooth=eigen_smooth) for cam in self.base_cam_per_layer
        ]
        return scale_cam_image(np.prod(maps, axis=0))

    forward = __call__
