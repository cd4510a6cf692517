"""The engine whose every stage beyond the forward pass runs in the Triton kernels of `cfcam_gpu.kernels`.

Nothing is read back to the host and no launch depends on the data, so a steady state of fixed
shapes can be captured in a CUDA graph. The kernels are imported when first needed: without Triton
the package works all the same.
"""

from __future__ import annotations

from torch import Tensor

from cfcam_gpu.cfcam import weighting
from cfcam_gpu.cfcam.clustering import Clusters, cluster_channels, min_samples
from cfcam_gpu.cfcam.maps import Maps, maps_of
from cfcam_gpu.cfcam.weighting import class_map
from cfcam_gpu.config import EPS_FLOOR, EPS_SLACK, CFCAMConfig


def available(device_type: str) -> tuple[bool, str]:
    """Whether the kernels can run on a device of this type, and why or why not."""
    try:
        import triton
    except ImportError as error:
        return False, f"{error}; it comes with PyTorch's CUDA builds for Linux: pip install torch triton"
    if device_type == "cuda":
        return True, f"triton {triton.__version__}"
    if triton.knobs.runtime.interpret:
        return True, f"triton {triton.__version__}, under the interpreter: slow, for tests"
    return False, "needs a GPU; for tests on the CPU set TRITON_INTERPRET=1 before Python starts"


def run_triton(activations: Tensor, gradients: Tensor, size: tuple[int, int], config: CFCAMConfig) -> Maps:
    """CF-CAM with every stage in a kernel.

    Args:
        activations: (B,C,h,w) float32, bfloat16 or float16, finite, contiguous.
        gradients: (B,K,C,h,w) float32, contiguous.
        size: (H,W) of the heatmaps.
    """
    from cfcam_gpu.kernels.weighted_sum import weighted_sum

    clusters = cluster_channels(activations, config, scan_triton)
    grid = class_map(activations, gradients, clusters, config, pool_triton, weighted_sum)
    return maps_of(grid, size, clusters)


def scan_triton(features: Tensor, valid: Tensor, config: CFCAMConfig) -> tuple[Tensor, Tensor, Tensor]:
    """`clustering.Scan` in the kernels: no distance is stored, and one bit a pair."""
    from cfcam_gpu.kernels.components import dbscan
    from cfcam_gpu.kernels.distances import distance_percentile
    from cfcam_gpu.kernels.neighbours import neighbours

    counts = valid.sum(1)
    _, eps = distance_percentile(features, counts, config.eps_percentile, EPS_FLOOR)
    words, degrees = neighbours(features, counts, eps, EPS_SLACK)
    labels, n_clusters = dbscan(words, degrees, min_samples(counts, config))
    return labels, n_clusters, eps


def pool_triton(gradients: Tensor, clusters: Clusters, config: CFCAMConfig) -> Tensor:
    """`weighting.Pool` in one kernel: means, filter and pooling, where the kernel has the filter."""
    from cfcam_gpu.kernels.cluster_filter import FILTERS, pooled_weights

    if config.filter not in FILTERS:
        return weighting.pooled_weights(gradients, clusters, config)
    return pooled_weights(
        gradients,
        clusters.labels,
        clusters.n_clusters,
        weighting.most_clusters(clusters),
        config.filter,
        config.radius(*gradients.shape[-2:]),
        config.sigma_space,
        config.sigma_range,
    )
