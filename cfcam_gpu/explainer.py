"""CF-CAM from end to end: a model and images in, heatmaps out. Read this first.

capture (one forward pass, the head's backward) -> cluster -> filter -> weight -> heatmap
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cfcam_gpu.capture import Targets, capture, describe
from cfcam_gpu.config import NOISE, CFCAMConfig
from cfcam_gpu.engines import ENGINES, resolve_engine
from cfcam_gpu.errors import CaptureError, ConfigError, InvalidImagesError
from cfcam_gpu.layers import TargetLayer, choose_layer, find_layer
from cfcam_gpu.modelstate import unwrapped
from cfcam_gpu.precision import full_float32

#: What can be wrong with one image of a batch; `Explanation.status` holds the position, 0 is none of them.
PROBLEMS = (
    None,
    "the layer's activations contain NaN or Inf",
    "the gradients contain NaN or Inf",
    "a target is not a class of the model",
    "the gradient of the target score is zero everywhere at the layer, so nothing can be explained",
)


@dataclass(frozen=True)
class Explanation:
    """Heatmaps of B images and what they were made from; with an axis K where K targets were asked for.

    Attributes:
        heatmap: (B,H,W) or (B,K,H,W) float32 in [0,1], each divided by its own maximum; zeros where blank.
        grid: (B,h,w) or (B,K,h,w) float32, the map at the layer's resolution, raw scale, not negative.
        blank: (B,) or (B,K) bool: no positive evidence (or a problem, see `status`).
        labels: (B,C) int64: cluster 0, 1, …; -1 noise; -2 dominant.
        n_clusters: (B,) int64.
        eps: (B,) float64, DBSCAN's radius, in units of the activations.
        status: (B,) int64, position in `PROBLEMS`; 0 for a good image.
        engine: name of the engine that ran.
        logits: (B,classes) float32, None from `explain_activations`.
        targets: (B,) or (B,K) int64; None for callable targets and from `explain_activations`.
    """

    heatmap: Tensor
    grid: Tensor
    blank: Tensor
    labels: Tensor
    n_clusters: Tensor
    eps: Tensor
    status: Tensor
    engine: str
    logits: Tensor | None = None
    targets: Tensor | None = None

    @property
    def noise_fraction(self) -> Tensor:
        """(B,) float32 in [0,1]: noise channels among all channels."""
        return (self.labels == NOISE).float().mean(1)

    @property
    def problems(self) -> list[str | None]:
        """What is wrong with each image, None for a good one. Waits for the device."""
        return [PROBLEMS[code] for code in self.status.tolist()]


class CFCAM:
    """CF-CAM of a classifier's layer.

        with CFCAM(model, target_layer="layer4") as cam:
            result = cam(images)                    # the predicted class of each image
            result = cam(images, targets=[281, 207])

    Hooks exist only during a call, and the model comes back as it was given, also after an exception.

    Args:
        model: returns logits, or an object with `.logits`. A model compiled or wrapped for data
            parallelism is explained through the module inside.
        target_layer: a module, its name, `NAME:FUNCTION` for the output of the nonlinear function
            after it (`"features:relu"`), or None: the last module with maps larger than 1×1, after
            its nonlinearity, found at the first call.
        config: parameters of the method.
        engine: `auto` or a key of `cfcam_gpu.engines.ENGINES`.
        on_invalid: `raise` for images that cannot be explained, or `flag`: a blank map for them and
            `Explanation.status`, without waiting for the device.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: str | nn.Module | None = None,
        config: CFCAMConfig | None = None,
        engine: str = "auto",
        on_invalid: str = "raise",
    ) -> None:
        _check_on_invalid(on_invalid)
        self.model = unwrapped(model)
        self.config = config or CFCAMConfig()
        self.engine = engine
        self.on_invalid = on_invalid
        self._layer: TargetLayer | None = None
        if target_layer is not None:
            layer = unwrapped(target_layer) if isinstance(target_layer, nn.Module) else target_layer
            self._layer = find_layer(self.model, layer)
        self._calls: int | None = None
        resolve_engine(engine, _device_of(self.model))

    def __enter__(self) -> CFCAM:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    @property
    def layer_name(self) -> str | None:
        """Name of the target layer; None before the first call when it is chosen automatically."""
        return self._layer.label if self._layer else None

    def __call__(self, images: Tensor, targets: Targets = None) -> Explanation:
        """Explain images (B,channels,H,W), preprocessed as the model takes them and on its device.

        Args:
            targets: what to explain: None (each image's highest logit), a class, a list or (B,)
                tensor of classes, (B,K) classes, which share the forward pass and the clustering,
                or functions of one image's logits.

        Raises:
            CaptureError, TargetError: the layer, the model's output or the targets do not fit.
            InvalidImagesError: images that cannot be explained (NaN, zero gradient), by index.
        """
        images = self._checked(images)
        with torch.inference_mode(False):
            if self._layer is None:
                self._layer = choose_layer(self.model, images)
            captured = capture(self.model, self._layer, images, targets, self._calls)
            self._calls = captured.calls
            result = explain_activations(
                captured.activations,
                captured.gradients,
                (images.shape[2], images.shape[3]),
                self.config,
                self.engine,
                on_invalid="flag",
            )
            zero = (captured.gradients == 0).flatten(2).all(2).any(1)
            status = _first_problem(
                [(1, result.status == 1), (2, result.status == 2), (3, captured.out_of_range), (4, zero)]
            )
            result = _without_invalid(
                replace(result, status=status, logits=captured.logits, targets=captured.targets)
            )
        if captured.targets is None or captured.targets.ndim == 1:
            result = _of_one_target(result)
        return _raise_invalid(result) if self.on_invalid == "raise" else result

    def _checked(self, images: Any) -> Tensor:
        if not (
            isinstance(images, Tensor) and images.ndim == 4 and images.is_floating_point() and len(images)
        ):
            raise CaptureError(
                "images must be a floating-point tensor (B,channels,H,W) with at least one image, got "
                f"{describe(images)}; normalise them as the model expects, and give a single image "
                "a batch axis: image[None]"
            )
        device = _device_of(self.model)
        if images.device != device:
            raise CaptureError(
                f"images are on {images.device}, the model on {device}; call images.to({str(device)!r})"
            )
        dtype = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), images.dtype)
        return images if torch.is_autocast_enabled(images.device.type) else images.to(dtype)


def explain_activations(
    activations: Tensor,
    gradients: Tensor,
    size: tuple[int, int],
    config: CFCAMConfig | None = None,
    engine: str = "auto",
    on_invalid: str = "raise",
) -> Explanation:
    """CF-CAM from activations and gradients captured elsewhere.

    Args:
        activations: (B,C,h,w), any floating dtype, after the layer's nonlinearity; used in float32.
        gradients: (B,C,h,w), or (B,K,C,h,w) for K targets: of the target scores before the softmax.
        size: (H,W) of the heatmaps.
        config, engine, on_invalid: as for `CFCAM`.

    Raises:
        ConfigError: shapes that do not fit each other.
        InvalidImagesError: NaN or Inf, by the image's index.
    """
    _check_on_invalid(on_invalid)
    _check_features(activations, gradients, size)
    single = gradients.ndim == 4
    name = resolve_engine(engine, activations.device)
    with full_float32(activations.device):
        a = activations.float()
        g = (gradients[:, None] if single else gradients).float()
        bad_a = ~a.isfinite().flatten(1).all(1)
        bad_g = ~g.isfinite().flatten(1).all(1)
        bad = (bad_a | bad_g)[:, None, None, None]
        a = a.masked_fill(bad, 0).contiguous()
        g = g.masked_fill(bad[:, None], 0).contiguous()
        maps = ENGINES[name].run(a, g, size, config or CFCAMConfig())
        result = Explanation(
            heatmap=maps.heatmap,
            grid=maps.grid,
            blank=maps.grid.amax((2, 3)) <= 0,
            labels=maps.clusters.labels,
            n_clusters=maps.clusters.n_clusters,
            eps=maps.clusters.eps,
            status=_first_problem([(1, bad_a), (2, bad_g)]),
            engine=name,
        )
    if single:
        result = _of_one_target(result)
    return _raise_invalid(result) if on_invalid == "raise" else result


def _of_one_target(result: Explanation) -> Explanation:
    """The result of K = 1 targets without the axis K."""
    return replace(result, heatmap=result.heatmap[:, 0], grid=result.grid[:, 0], blank=result.blank[:, 0])


def _first_problem(found: list[tuple[int, Tensor]]) -> Tensor:
    """(B,) int64: the lowest code whose (B,) bool mask holds, else 0."""
    status = torch.zeros_like(found[0][1], dtype=torch.int64)
    for code, mask in reversed(found):
        status = torch.where(mask, code, status)
    return status


def _without_invalid(result: Explanation) -> Explanation:
    """The result with zeros for the images that have a problem."""
    bad = result.status != 0
    return replace(
        result,
        heatmap=result.heatmap.masked_fill(bad[:, None, None, None], 0),
        grid=result.grid.masked_fill(bad[:, None, None, None], 0),
        blank=result.blank | bad[:, None],
    )


def _raise_invalid(result: Explanation) -> Explanation:
    problems = {index: problem for index, problem in enumerate(result.problems) if problem}
    if problems:
        raise InvalidImagesError(problems)
    return result


def _check_features(activations: Any, gradients: Any, size: Any) -> None:
    if not (isinstance(activations, Tensor) and activations.ndim == 4 and activations.is_floating_point()):
        raise ConfigError(
            f"activations must be a floating-point tensor (B,C,h,w), got {describe(activations)}"
        )
    fits = isinstance(gradients, Tensor) and gradients.is_floating_point() and gradients.ndim in (4, 5)
    if not fits or gradients.shape[:1] + gradients.shape[-3:] != activations.shape:
        raise ConfigError(
            f"gradients must be (B,C,h,w) or (B,K,C,h,w) for activations {tuple(activations.shape)}, "
            f"got {describe(gradients)}"
        )
    if 0 in activations.shape or 0 in gradients.shape:
        raise ConfigError(f"activations and gradients must not be empty, got {tuple(gradients.shape)}")
    if gradients.device != activations.device:
        raise ConfigError(
            f"activations are on {activations.device}, gradients on {gradients.device}; move one"
        )
    if not (len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)):
        raise ConfigError(f"size must be (H, W), two positive integers, got {size!r}")


def _check_on_invalid(on_invalid: str) -> None:
    if on_invalid not in ("raise", "flag"):
        raise ConfigError(f"on_invalid must be 'raise' or 'flag', got {on_invalid!r}")


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
