"""How fast the methods are, each measured from the images to its heatmaps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from cfcam_gpu._utils.checks import Check, never_ends
from cfcam_gpu.explainer import CFCAM

#: Fewest and most turns. In a turn each method runs once.
_FEWEST, _MOST = 5, 50

#: Seconds after which no further turn starts, once there were `_FEWEST`.
_ENOUGH = 2.0
#: Seconds after which no further turn starts in any case, so that slow methods run only once.
_TOO_LONG = 20.0


def images_per_second(
    cams: Mapping[str, CFCAM], images: Tensor, targets: Tensor, check: Check = never_ends
) -> dict[str, float]:
    """Images per second of each method, with the model's pass, the gradients that it needs and the map.

    The methods take turns, so that other work of the machine slows all of them equally, and the median of the
    turns counts. They must have run on such a batch before, since the first run is slower. Methods that run the model
    dozens of times for each image are measured on one.

    Args:
        cams: label of each method -> what explains images by it.
        images: (B,3,H,W) as the model takes them.
        targets: (B,) int64, the explained classes.
        check: called before every pass of the model; raises to end the measurement.
    """
    counts = {label: 1 if cam.method.many_passes else len(images) for label, cam in cams.items()}
    seconds: dict[str, list[float]] = {label: [] for label in cams}
    start = time.perf_counter()
    for turn in range(_MOST):
        for label, cam in cams.items():
            _wait(images.device)
            before = time.perf_counter()
            cam(images[: counts[label]], targets[: counts[label]], check=check)
            _wait(images.device)
            seconds[label].append(time.perf_counter() - before)
        if time.perf_counter() - start > (_ENOUGH if turn + 1 >= _FEWEST else _TOO_LONG):
            break
    return {label: counts[label] / statistics.median(times) for label, times in seconds.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
