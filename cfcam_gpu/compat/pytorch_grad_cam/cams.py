"""pytorch-grad-cam's classes, each a method of this package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from cfcam_gpu._utils.device import device_of
from cfcam_gpu.compat.pytorch_grad_cam.missing import not_taken
from cfcam_gpu.compat.pytorch_grad_cam.utils.image import scale_cam_image
from cfcam_gpu.errors import ConfigError
from cfcam_gpu.explainer import CFCAM as Explainer

Maps = npt.NDArray[np.float32]

#: Test-time augmentation: the image and its mirror image, each with these factors of its values.
_FACTORS = (0.9, 1.0, 1.1)


class BaseCAM:
    """A method with pytorch-grad-cam's constructor and call.

    Args:
        model: a classifier.
        target_layers: modules; the maps of several are averaged.
        reshape_transform: from a layer's output to (B,C,h,w), for outputs of another shape.

    Raises:
        ConfigError: no layer, a class without a method, or an option of pytorch-grad-cam that is not needed here.

    Attributes:
        outputs: the model's output for the last batch.
        batch_size: taken for compatibility; the size of a pass follows the memory.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> with GradCAM(model=model, target_layers=[model[1]]) as cam:
        ...     cam(input_tensor=torch.ones(2, 3, 8, 8)).shape
        (2, 8, 8)
    """

    #: A key of `cfcam_gpu.methods.METHODS`.
    method: ClassVar[str]

    #: Whether maps are principal components in any case (True) or whatever a call says (False); None: as it says.
    smoothed: ClassVar[bool | None] = None

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        **options: object,
    ) -> None:
        name = type(self).__name__
        if not hasattr(type(self), "method"):
            raise ConfigError(
                f"{name} has no method; a subclass needs `method`, a key of cfcam_gpu.methods.METHODS"
            )
        if options:
            raise ConfigError(not_taken(name, options))
        if isinstance(target_layers, nn.Module) or not len(target_layers):
            raise ConfigError("target_layers must be a list of at least one module of the model")
        self.model = model
        self.target_layers = list(target_layers)
        self.reshape_transform = reshape_transform
        self.batch_size = 32
        self.outputs: Tensor | None = None
        self._plain = self._explainers(eigen_smooth=False)
        self._smoothed: list[Explainer] | None = None

    def _explainers(self, *, eigen_smooth: bool) -> list[Explainer]:
        return [
            Explainer(
                self.model,
                layer,
                method=self.method,
                reshape_transform=self.reshape_transform,
                on_invalid="flag",
                eigen_smooth=eigen_smooth,
            )
            for layer in self.target_layers
        ]

    def __call__(
        self,
        input_tensor: Tensor,
        targets: Sequence[Callable[[Tensor], Tensor]] | None = None,
        aug_smooth: bool = False,  # noqa: FBT001, FBT002  (pytorch-grad-cam's signature)
        eigen_smooth: bool = False,  # noqa: FBT001, FBT002
    ) -> Maps:
        """Maps (B,H,W) in [0,1] of images (B,C,H,W), or (B,D,H,W) of volumes (B,C,D,H,W).

        Args:
            targets: a function of one image's output for each image; None: each image's likeliest class.
            aug_smooth: average over the mirror image and factors of the image's values.
            eigen_smooth: the first principal component of the channels' contributions in place of their sum, with the
                sign that agrees with it.

        Raises:
            ConfigError: `eigen_smooth` of a method whose map is no sum over channels.
            CFCAMError: as for `cfcam_gpu.CFCAM`.
        """
        if not aug_smooth:
            return self.forward(input_tensor, targets, eigen_smooth=eigen_smooth)
        maps: list[Maps] = []
        for flip in (False, True):
            for factor in _FACTORS:
                images = (input_tensor.flip(-1) if flip else input_tensor) * factor
                one = self.forward(images, targets, eigen_smooth=eigen_smooth)
                maps.append(one[..., ::-1] if flip else one)
        return np.mean(np.asarray(maps, np.float32), axis=0)

    def forward(
        self,
        input_tensor: Tensor,
        targets: Sequence[Callable[[Tensor], Tensor]] | None = None,
        *,
        eigen_smooth: bool = False,
    ) -> Maps:
        """As a call without augmentation."""
        images = input_tensor.to(device_of(self.model))
        size = tuple(reversed(images.shape[2:]))
        if self.smoothed is not None:
            eigen_smooth = self.smoothed
        if eigen_smooth and self._smoothed is None:
            self._smoothed = self._explainers(eigen_smooth=True)
        layers = []
        for explainer in (self._smoothed if eigen_smooth else None) or self._plain:
            result = explainer(images, None if targets is None else list(targets))
            self.outputs = result.logits
            layers.append(scale_cam_image(result.grid.cpu().numpy(), size))
        return scale_cam_image(np.mean(np.maximum(layers, 0), axis=0))  # splines fall below zero

    def __getattr__(self, name: str) -> object:
        raise AttributeError(
            f"{type(self).__name__} has no {name!r}: this package works on batches of tensors; "
            "cfcam_gpu.CFCAM(model).features(images) has the activations and gradients, "
            "cfcam_gpu.methods.METHODS what is made of them"
        )

    def __enter__(self) -> BaseCAM:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


class GradCAM(BaseCAM):
    """Grad-CAM; see `BaseCAM`."""

    method = "gradcam"


class HiResCAM(BaseCAM):
    """HiResCAM; see `BaseCAM`."""

    method = "hirescam"


class GradCAMPlusPlus(BaseCAM):
    """Grad-CAM++; see `BaseCAM`."""

    method = "gradcam++"


class XGradCAM(BaseCAM):
    """XGrad-CAM; see `BaseCAM`."""

    method = "xgradcam"


class LayerCAM(BaseCAM):
    """LayerCAM; see `BaseCAM`."""

    method = "layercam"


class GradCAMElementWise(BaseCAM):
    """What is positive of gradient times activation; see `BaseCAM`."""

    method = "gradcam-elementwise"


class FEM(BaseCAM):
    """FEM, of no class; `eigen_smooth` changes nothing, and `k` is 2; see `BaseCAM`."""

    method = "fem"
    smoothed = False

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        k: float = 2,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform, **({} if k == 2 else {"k": k}))


class SegEigenCAM(BaseCAM):
    """Seg-Eigen-CAM; `eigen_smooth` changes nothing; see `BaseCAM`."""

    method = "segeigencam"
    smoothed = False


class EigenCAM(BaseCAM):
    """Eigen-CAM, with the sign that this package chooses; `eigen_smooth` changes nothing; see `BaseCAM`."""

    method = "eigencam"
    smoothed = False


class EigenGradCAM(BaseCAM):
    """The first principal component of gradient times activation, with HiResCAM's sign; see `BaseCAM`."""

    method = "hirescam"
    smoothed = True


class ScoreCAM(BaseCAM):
    """Score-CAM, with masks upsampled by half-pixel centres; see `BaseCAM`."""

    method = "scorecam"


class AblationCAM(BaseCAM):
    """Ablation-CAM of every channel, without an `ablation_layer`; see `BaseCAM`."""

    method = "ablationcam"

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        ablation_layer: nn.Module | None = None,
        batch_size: int = 32,
        ratio_channels_to_ablate: float = 1.0,
    ) -> None:
        options: dict[str, object] = {} if ablation_layer is None else {"ablation_layer": ablation_layer}
        if ratio_channels_to_ablate != 1:
            options["ratio_channels_to_ablate"] = ratio_channels_to_ablate
        super().__init__(model, target_layers, reshape_transform, **options)
        self.batch_size = batch_size


class CFCAM(BaseCAM):
    """CF-CAM; see `BaseCAM`."""

    method = "cfcam"


class CFCAMSharp(BaseCAM):
    """`cfcam-sharp`, of the target layer and an earlier one; see `BaseCAM`."""

    method = "cfcam-sharp"
