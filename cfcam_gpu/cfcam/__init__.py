"""CF-CAM step by step: cluster the channels, filter the clusters' gradients, weight, make the maps.

`cluster_channels` -> `channel_weights` (with `filter_maps`) -> `class_map` -> `maps_of`: these are
batched, in PyTorch. `cfcam_gpu.cfcam.reference` has all of it for one image, in plain code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cfcam_gpu._utils.lazy import lazy

if TYPE_CHECKING:
    from cfcam_gpu.cfcam.clustering import Clusters, cluster_channels, scan_in_chunks
    from cfcam_gpu.cfcam.filtering import filter_maps
    from cfcam_gpu.cfcam.maps import Maps, maps_of
    from cfcam_gpu.cfcam.weighting import channel_weights, class_map

__all__ = [
    "Clusters",
    "Maps",
    "channel_weights",
    "class_map",
    "cluster_channels",
    "filter_maps",
    "maps_of",
    "scan_in_chunks",
]

_HOME = {
    "Clusters": "clustering",
    "Maps": "maps",
    "channel_weights": "weighting",
    "class_map": "weighting",
    "cluster_channels": "clustering",
    "filter_maps": "filtering",
    "maps_of": "maps",
    "scan_in_chunks": "clustering",
}

__getattr__, __dir__ = lazy(__name__, globals(), _HOME)
