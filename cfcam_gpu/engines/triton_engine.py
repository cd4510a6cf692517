"""Engine `triton`: every step after the forward and backward pass runs in the kernels of `cfcam_gpu.kernels`.

No value is read back to the host and no launch depends on the data, so that calls with fixed shapes
can be captured in a CUDA graph. The kernels are imported when the engine first runs: without Triton
the rest of the package works.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cfcam_gpu._utils.optional import importable
from cfcam_gpu.cfcam import weighting
from cfcam_gpu.cfcam.clustering import Clusters, most_clustered
from cfcam_gpu.cfcam.maps import Maps, maps_of
from cfcam_gpu.config import EPS_FLOOR, EPS_SLACK, CFCAMConfig
from cfcam_gpu.errors import ConfigError
from cfcam_gpu.explanation import Explanation, Problem

if TYPE_CHECKING:
    from cfcam_gpu.kernels.channels import Split

#: Images with one of these are clustered as if their activations were zero.
_NOT_FINITE = (Problem.ACTIVATIONS_NOT_FINITE.value, Problem.GRADIENTS_NOT_FINITE.value)
_CODES = (*_NOT_FINITE, Problem.TARGET_OUT_OF_RANGE.value, Problem.ZERO_GRADIENT.value)

#: Called with the name of each stage when its kernels are launched; benchmarks read a clock.
Mark = Callable[[str], None]


def _no_mark(_stage: str) -> None:
    pass


def run(activations: Tensor, gradients: Tensor, size: tuple[int, int], config: CFCAMConfig) -> Maps:
    """See `Engine.run`; activations may also be bfloat16 or float16."""
    grid, clusters, _ = _mapped(activations, gradients, config)
    return maps_of(grid, size, clusters)


def explain(
    activations: Tensor,
    gradients: Tensor,
    size: tuple[int, int],
    config: CFCAMConfig,
    out_of_range: Tensor | None = None,
    *,
    zero_gradient: bool = False,
    mark: Mark = _no_mark,
) -> Explanation:
    """See `Engine.explain`."""
    from cfcam_gpu.kernels.heatmaps import finish

    grid, clusters, status = _mapped(
        activations, gradients, config, out_of_range, zero_gradient=zero_gradient, mark=mark
    )
    heatmap, peak, blank = finish(grid, status, size, Problem.MAP_NOT_FINITE.value)
    mark("upsampling")
    return Explanation(
        heatmap=heatmap,
        grid=grid,
        peak=peak,
        blank=blank,
        labels=clusters.labels,
        n_clusters=clusters.n_clusters,
        eps=clusters.eps,
        status=status,
        engine="triton",
    )


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


def _mapped(
    activations: Tensor,
    gradients: Tensor,
    config: CFCAMConfig,
    out_of_range: Tensor | None = None,
    *,
    zero_gradient: bool = False,
    mark: Mark = _no_mark,
) -> tuple[Tensor, Clusters, Tensor]:
    """The grid (B,K,h,w), the clusters, and the status (B,) of each image before its map is looked at."""
    from cfcam_gpu.kernels import channels
    from cfcam_gpu.kernels.filters import FILTERS
    from cfcam_gpu.kernels.neighbours import MOST_CHANNELS
    from cfcam_gpu.kernels.spatial import spatial_map
    from cfcam_gpu.kernels.weighted_sum import weighted_sum

    most = most_clustered(activations.shape[1], config.dominant_percentile)
    if most > MOST_CHANNELS:
        raise ConfigError(
            f"engine 'triton' clusters at most {MOST_CHANNELS:,} channels, got {most:,}; use engine 'torch'"
        )
    activations, gradients = activations.contiguous(), gradients.contiguous()
    statistics = channels.statistics(activations, gradients)
    mark("finite values")
    split = channels.split(
        statistics,
        config.dominant_percentile,
        EPS_SLACK,
        most,
        _CODES,
        out_of_range,
        zero_gradient=zero_gradient,
    )
    clusters = _clusters(activations, split, config, mark)
    if config.weighting == "mean":
        pooled = pool_triton(gradients, clusters, config)
        mark("means, filter, weights")
        grid = weighted_sum(activations, statistics.means, clusters.labels, pooled)
    elif config.weighting == "spatial" and config.filter in FILTERS:
        grid = spatial_map(activations, gradients, *_filter_arguments(gradients, clusters, config))
    else:
        grid = weighting.class_map(
            activations.float(), gradients, clusters, config, pool_triton, weighted_sum
        )
    mark("map")
    return grid, clusters, split.status


def _clusters(activations: Tensor, split: Split, config: CFCAMConfig, mark: Mark) -> Clusters:
    """The clusters, by kernels that store no distance and one bit for each pair of channels."""
    from cfcam_gpu.kernels.channels import columns
    from cfcam_gpu.kernels.components import dbscan
    from cfcam_gpu.kernels.distances import TILE
    from cfcam_gpu.kernels.neighbours import neighbours

    n, labels = split.order.shape[1], split.labels
    if n == 0:
        none = torch.zeros_like(split.status)
        return Clusters(labels, none, torch.full_like(none, EPS_FLOOR, dtype=torch.float64))
    rows = columns(activations, split, TILE, _NOT_FINITE)
    mark("dominance")
    words, eps = neighbours(rows, split.counts, config.eps_percentile, EPS_FLOOR, EPS_SLACK, n)
    mark("neighbours")
    n_clusters = dbscan(words, split.counts, config.min_samples_fraction, split.order, labels)
    mark("search")
    return Clusters(labels, n_clusters, eps)


def pool_triton(gradients: Tensor, clusters: Clusters, config: CFCAMConfig) -> Tensor:
    """`weighting.Pool`: mean maps, filter and pooling in one kernel; filters that it lacks run in PyTorch."""
    from cfcam_gpu.kernels.cluster_filter import pooled_weights
    from cfcam_gpu.kernels.filters import FILTERS

    if config.filter not in FILTERS:
        return weighting.pooled_weights(gradients, clusters, config)
    return pooled_weights(gradients, *_filter_arguments(gradients, clusters, config))


def _filter_arguments(
    gradients: Tensor, clusters: Clusters, config: CFCAMConfig
) -> tuple[Tensor, Tensor, int, str, int, float, float]:
    """What the kernels that filter take behind the gradients."""
    return (
        clusters.labels,
        clusters.n_clusters,
        weighting.most_clusters(clusters),
        config.filter,
        config.radius(*gradients.shape[-2:]),
        config.sigma_space,
        config.sigma_range,
    )


def spread(maps: Tensor, features: Tensor, rounding: float) -> Tensor:
    """A step of `cfcam-sharp`: maps (B,K,h,w) spread over places with alike features (B,C,h,w)."""
    from cfcam_gpu.kernels.likeness import spread_by_likeness

    return spread_by_likeness(maps.contiguous(), features.contiguous(), rounding)


def evidence(activations: Tensor, gradients: Tensor, maps: Tensor) -> Tensor:
    """A step of `cfcam-sharp`: evidence (B,K,h,w) of activations (B,C,h,w) and gradients (B,K,C,h,w) that agrees."""
    from cfcam_gpu.kernels.evidence import agreeing_evidence

    return agreeing_evidence(activations.contiguous(), gradients.contiguous(), maps.contiguous())
