"""What each channel adds to a map, for the principal component that `eigen_smooth` takes in place of the sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cfcam_gpu.methods import gradient
from cfcam_gpu.methods.features import Features


def _weighted(weights: Callable[[Features], Tensor]) -> Callable[[Features], Tensor]:
    return lambda features: weights(features)[..., None, None] * features.activations[:, None]


#: (B,K,C,h,w) of features, by method.
CONTRIBUTIONS: dict[str, Callable[[Features], Tensor]] = {
    "gradcam": _weighted(lambda features: features.gradients.mean((3, 4))),
    "hirescam": lambda features: features.gradients * features.activations[:, None],
    "layercam": lambda features: features.gradients.relu() * features.activations[:, None],
    "xgradcam": _weighted(gradient.xgradcam_weights),
    "gradcam++": _weighted(gradient.gradcam_plus_plus_weights),
}


def first_component(contributions: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(B,h,w): the projection of each cell's channels (B,C,h,w) on their first principal component; NaN as zero.

    The sign is that of the decomposition, as in pytorch-grad-cam.

    Example:
        >>> np.abs(first_component(np.array([[[[1.0, 3.0]], [[1.0, 3.0]]]]))).astype(float).round(3).tolist()
        [[[1.414, 1.414]]]
    """
    maps = []
    for channels in np.nan_to_num(contributions):
        cells = channels.reshape(len(channels), -1).T
        cells = cells - cells.mean(axis=0)
        _, _, axes = np.linalg.svd(cells, full_matrices=True)
        maps.append((cells @ axes[0]).reshape(channels.shape[1:]))
    return np.asarray(maps, np.float32)
