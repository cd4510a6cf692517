"""Engine `triton`: every step after the forward and backward pass runs in the kernels of `cfcam_gpu.kernels`.

No value is read back to the host and no launch depends on the data, so that calls with fixed shapes
can be captured in a CUDA graph. The kernels are imported when the engine first runs: without Triton
the rest of the package works.
"""

from __future__ import annotations

from torch import Tensor

from cfcam_gpu._utils.optional import importable
from cfcam_gpu.cfcam import weighting
from cfcam_gpu.cfcam.clustering import Clusters, cluster_channels, min_samples
from cfcam_gpu.cfcam.maps import Maps, maps_of
from cfcam_gpu.config import EPS_FLOOR, EPS_SLACK, CFCAMConfig


def run(activations: Tensor, gradients: Tensor, size: tuple[int, int], config: CFCAMConfig) -> Maps:
    """See `Engine.run`; activations may also be bfloat16 or float16."""
    from cfcam_gpu.kernels.weighted_sum import weighted_sum

    clusters = cluster_channels(activations, config, _scan)
    grid = weighting.class_map(activations, gradients, clusters, config, pool_triton, weighted_sum)
    return maps_of(grid, size, clusters)


def available(device_type: str) -> tuple[bool, str]:
    """See `Engine.available`; on the CPU the kernels run under Triton's interpreter, for tests."""
    remedy = "it comes with PyTorch's CUDA builds for Linux: pip install torch triton"
    ok, reason = importable("triton", remedy)
    if not ok or device_type == "cuda":
        return ok, reason
    import triton

    if triton.knobs.runtime.interpret:
        return True, f"{reason}, under the interpreter: slow, for tests"
    return False, "needs a GPU; for tests on the CPU set TRITON_INTERPRET=1 before Python starts"


def _scan(features: Tensor, valid: Tensor, config: CFCAMConfig) -> tuple[Tensor, Tensor, Tensor]:
    """`clustering.Scan` in the kernels, which store no distance and one bit for each pair of channels."""
    from cfcam_gpu.kernels.components import dbscan
    from cfcam_gpu.kernels.distances import distance_percentile, feature_columns
    from cfcam_gpu.kernels.neighbours import neighbours

    counts = valid.sum(1)
    columns = feature_columns(features)
    _, eps = distance_percentile(features, counts, config.eps_percentile, EPS_FLOOR, columns=columns)
    words, degrees = neighbours(features, counts, eps, EPS_SLACK, columns=columns)
    labels, n_clusters = dbscan(words, degrees, min_samples(counts, config))
    return labels, n_clusters, eps


def pool_triton(gradients: Tensor, clusters: Clusters, config: CFCAMConfig) -> Tensor:
    """`weighting.Pool`: mean maps, filter and pooling in one kernel; filters that it lacks run in PyTorch."""
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
