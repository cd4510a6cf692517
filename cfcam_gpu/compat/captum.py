"""Layer attributions with captum's constructors and calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from cfcam_gpu.errors import ConfigError
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.methods.gradient import gradcam_weights


class LayerAttribution:
    """Holds `interpolate`, as captum's class of this name does."""

    @staticmethod
    def interpolate(
        layer_attribution: Tensor, interpolate_dims: int | tuple[int, ...], interpolate_mode: str = "nearest"
    ) -> Tensor:
        """Attributions (B,C,h,w) resized, as captum's `LayerAttribution.interpolate` does.

        Raises:
            ConfigError: an unknown mode.
        """
        modes = ("nearest", "bilinear", "bicubic", "area", "nearest-exact")
        if interpolate_mode not in modes:
            raise ConfigError(
                f"unknown interpolate_mode {interpolate_mode!r}; choose one of: {', '.join(modes)}"
            )
        return F.interpolate(layer_attribution, interpolate_dims, mode=interpolate_mode)


class LayerCAM(LayerAttribution):
    """A method of this package in the place of captum's `LayerGradCam`.

    Args:
        forward_func: the model, a module.
        layer: the explained layer.
        method: a key of `cfcam_gpu.methods.METHODS`.
        options: further arguments of `cfcam_gpu.CFCAM`.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> attributions = LayerCAM(model, model[1], method="gradcam").attribute(torch.ones(2, 3, 8, 8), target=1)
        >>> LayerCAM.interpolate(attributions, (8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self, forward_func: nn.Module, layer: nn.Module, method: str = "cfcam", **options: Any
    ) -> None:
        self.forward_func = forward_func
        self.layer = layer
        self._explainer = CFCAM(forward_func, layer, method=method, **{"on_invalid": "flag", **options})

    def attribute(
        self,
        inputs: Tensor,
        target: int | Sequence[int] | Tensor | None = None,
        additional_forward_args: Any = (),
    ) -> Tensor:
        """(B,1,h,w) float32, not negative: captum's with `relu_attributions=True` where the method is `gradcam`.

        Args:
            inputs: (B,C,H,W).
            target: a class, or one an image; None: the likeliest.
            additional_forward_args: further positional arguments of the model.

        Raises:
            CFCAMError: as for `cfcam_gpu.CFCAM`.
        """
        more = (
            additional_forward_args
            if isinstance(additional_forward_args, tuple)
            else (additional_forward_args,)
        )
        targets = target.tolist() if isinstance(target, Tensor) else target
        return self._explainer(inputs, targets, forward_args=more).grid[:, None]


class LayerGradCam(LayerCAM):
    """captum's class of this name: Grad-CAM of a layer's output, with its sign.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> LayerGradCam(model, model[1]).attribute(torch.ones(2, 3, 8, 8), target=1).shape
        torch.Size([2, 1, 6, 6])
    """

    def __init__(self, forward_func: nn.Module, layer: nn.Module) -> None:
        super().__init__(forward_func, layer, method="gradcam")

    def attribute(
        self,
        inputs: Tensor,
        target: int | Sequence[int] | Tensor | None = None,
        additional_forward_args: Any = (),
        *,
        relu_attributions: bool = False,
    ) -> Tensor:
        """(B,1,h,w) float32, of either sign unless `relu_attributions`; the rest as for `LayerCAM`.

        Raises:
            ConfigError: further arguments of the model, which need `relu_attributions=True`.
        """
        if relu_attributions:
            return super().attribute(inputs, target, additional_forward_args)
        if not isinstance(additional_forward_args, tuple) or additional_forward_args:
            raise ConfigError("additional_forward_args need relu_attributions=True here; pass it")
        features = self._explainer.features(inputs, target.tolist() if isinstance(target, Tensor) else target)
        weights = gradcam_weights(features)[..., None, None]
        return (weights * features.activations[:, None]).sum(2)
