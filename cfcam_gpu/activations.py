"""From the activations and gradients of a layer to an explanation, with what is wrong flagged."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from cfcam_gpu._utils.device import on_device
from cfcam_gpu._utils.precision import leave_inference_mode, use_full_float32
from cfcam_gpu._utils.undo import Undo
from cfcam_gpu.capture.scoring import describe
from cfcam_gpu.config import CFCAMConfig
from cfcam_gpu.engines import ENGINES
from cfcam_gpu.errors import ConfigError
from cfcam_gpu.explanation import Explanation, Problem, finished, status_of, without_invalid
from cfcam_gpu.methods import Method, find_method, smoothed
from cfcam_gpu.methods.features import CapturedFeatures, Features


def explain_activations(
    activations: Tensor,
    gradients: Tensor | None,
    size: tuple[int, int],
    config: CFCAMConfig | None = None,
    engine: str = "auto",
    on_invalid: str = "raise",
    method: str = "cfcam",
    *,
    eigen_smooth: bool = False,
) -> Explanation:
    """CF-CAM, or another method that needs no model, from activations and gradients captured elsewhere.

    Args:
        activations: (B,C,h,w), any floating dtype, after the layer's nonlinearity; used in float32.
        gradients: (B,C,h,w), or (B,K,C,h,w) for K targets: of the target scores before the softmax.
            None for methods that use none.
        size: (H,W) of the heatmaps.
        config, engine, on_invalid, method, eigen_smooth: as for `CFCAM`.

    Raises:
        ConfigError: shapes that do not fit each other, or a method that needs more or cannot be smoothed.
        InvalidImagesError: NaN or Inf, by the image's index.

    Example:
        >>> import torch
        >>> activations, gradients = torch.rand(5, 4, 6, 6), torch.rand(5, 4, 6, 6)
        >>> explain_activations(activations, gradients, size=(32, 32), engine="torch").heatmap.shape
        torch.Size([5, 32, 32])
    """
    check_on_invalid(on_invalid)
    chosen = smoothed(find_method(method)) if eigen_smooth else find_method(method)
    if gradients is None and not chosen.uses_gradients:
        _check_features(activations, activations, size)
        gradients = activations[:, None][:, :0]
    else:
        _check_features(activations, gradients, size)
    assert gradients is not None
    single = gradients.ndim == 4 or not gradients.shape[1]
    features = Features(
        activations=activations,
        gradients=gradients[:, None] if gradients.ndim == 4 else gradients,
        size=size,
        config=config or CFCAMConfig(),
        engine=chosen.engine(engine, activations.device),
    )
    with on_device(activations.device):
        return finished(explained(features, chosen), single=single, on_invalid=on_invalid)


def explained(features: Features, method: Method) -> Explanation:
    """The explanation with an axis K and every problem flagged; `features.engine` is a resolved one."""
    undo = Undo()
    try:
        leave_inference_mode(undo)
        use_full_float32(features.activations.device, undo)
        a, g = features.activations.float(), features.gradients.float()
        features = replace(features, activations=a, gradients=g)
        engine = ENGINES[features.engine]
        if method.is_whole and engine.explains:
            captured = isinstance(features, CapturedFeatures)
            out_of_range = features.out_of_range if isinstance(features, CapturedFeatures) else None
            result = engine.explain(
                a, g, features.size, features.config, out_of_range, zero_gradient=captured
            )
            return result
        problems = _problems(features, method)
        bad = [
            problems[p]
            for p in (Problem.ACTIVATIONS_NOT_FINITE, Problem.GRADIENTS_NOT_FINITE)
            if p in problems
        ]
        maps = method(features.without(bad[0] | bad[1] if len(bad) == 2 else bad[0]))
        highest = maps.grid.amax((2, 3))
        problems[Problem.MAP_NOT_FINITE] = ~(highest < math.inf).all(1)
        clusters = maps.clusters
        result = Explanation(
            heatmap=maps.heatmap,
            grid=maps.grid,
            peak=maps.peak,
            blank=highest <= 0,
            labels=None if clusters is None else clusters.labels,
            n_clusters=None if clusters is None else clusters.n_clusters,
            eps=None if clusters is None else clusters.eps,
            status=status_of(problems),
            engine=features.engine,
        )
        result = without_invalid(result)
        return result
    finally:
        undo.run()


def _problems(features: Features, method: Method) -> dict[Problem, Tensor]:
    """Masks (B,) bool of what is wrong with the images before the method runs."""
    of_activations, of_gradients = features.largest()
    problems = {Problem.ACTIVATIONS_NOT_FINITE: ~(of_activations < math.inf)}
    if method.uses_gradients:
        problems[Problem.GRADIENTS_NOT_FINITE] = ~(of_gradients < math.inf).all(1)
    if isinstance(features, CapturedFeatures):
        if method.uses_gradients:
            problems[Problem.ZERO_GRADIENT] = (of_gradients == 0).any(1)
        if features.out_of_range is not None:
            problems[Problem.TARGET_OUT_OF_RANGE] = features.out_of_range
    return problems


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


def check_on_invalid(on_invalid: str) -> None:
    """Raises ConfigError unless it is `raise` or `flag`.

    Example:
        >>> check_on_invalid("flag")
    """
    if on_invalid not in ("raise", "flag"):
        raise ConfigError(f"on_invalid must be 'raise' or 'flag', got {on_invalid!r}")
