"""Engine `reference`: the plain implementation in `cfcam_gpu.cfcam.reference`, on the CPU.

One image and one target at a time; the other engines are tested against it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cfcam_gpu.cfcam.clustering import Clusters
from cfcam_gpu.cfcam.maps import Maps, upsample_and_normalise
from cfcam_gpu.cfcam.reference import ReferenceResult, cfcam_reference
from cfcam_gpu.config import CFCAMConfig


def run(activations: Tensor, gradients: Tensor, size: tuple[int, int], config: CFCAMConfig) -> Maps:
    """See `Engine.run`."""
    a, g = activations.cpu().numpy(), gradients.cpu().numpy()
    results = [
        [cfcam_reference(a[i], g[i, k], size, config) for k in range(g.shape[1])] for i in range(len(a))
    ]

    def gather(name: str, rows: list[list[ReferenceResult]]) -> Tensor:
        arrays = np.array([[getattr(result, name) for result in row] for row in rows])
        return torch.from_numpy(arrays).to(activations.device)

    first = [row[:1] for row in results]  # the clusters are the same for every target
    clusters = Clusters(*(gather(name, first)[:, 0] for name in ("labels", "n_clusters", "eps")))
    grid = gather("grid", results).float()
    _, peak = upsample_and_normalise(grid, size)  # of the float32 grid, as the other engines take it
    return Maps(grid, gather("heatmap", results).float(), peak, clusters)


def available(_device_type: str) -> tuple[bool, str]:
    """See `Engine.available`; features on a GPU are copied to the CPU."""
    return True, "runs on the CPU"
