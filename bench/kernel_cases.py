"""The launches whose costs `bench.kernel_costs` estimates, with the sizes that ResNet-50 gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cfcam_gpu.kernels import (
    channels,
    cluster_filter,
    components,
    distances,
    evidence,
    heatmaps,
    likeness,
    neighbours,
    spatial,
    weighted_sum,
)


@dataclass(frozen=True)
class Options:
    """Sizes of the case: the default call on ResNet-50's `layer4`."""

    batch: int = 256
    channels: int = 2048
    side: int = 7
    size: int = 224


@dataclass
class Case:
    """A kernel with the arguments that it is compiled for, and its work an image.

    Attributes:
        arguments: values of the arguments that are numbers; pointers are left out.
        warps: of a program.
        programs: for each image.
        trips: how often each loop runs each time it is reached, in the order of the machine code, after
            the compiler unrolled some.
        bytes: read and written for each image.
        atomics: for each image.
        options: of the compiler, beside the number of warps.
    """

    kernel: Any
    arguments: dict[str, Any]
    warps: int = 4
    programs: float = 1
    trips: Sequence[float] = ()
    bytes: float = 0
    atomics: float = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.kernel.__name__)


def cases(options: Options) -> list[Case]:
    """The launches of the default call."""
    c, h, out = options.channels, options.side, options.size
    d, n = h * h, options.channels * 3 // 4
    padded = -(-n // distances.TILE) * distances.TILE
    tiles = distances.tile_pairs(padded // distances.TILE)
    # The part of the pairs in the sampled interval; a quarter of their range of patterns is left 10 times.
    kept = n * (n - 1) / distances._MARGIN
    capacity = n * (n - 1) // 16
    place = {"POSITION": 0.25, "FLOOR": 1e-5}
    first = {"FIRST": distances.first_pattern(1e-5), "LAST": distances.LAST}
    tile = {"pairs": tiles, "padded": padded, "depth": d}
    bad = {"NO_ACTIVATIONS": 1, "NO_GRADIENTS": 2}
    return [
        Case(
            channels._statistics,
            {"c": c, "k": 1, "hw": d, "blocks": c // 32, "CHANNELS": 32, "CELLS": 64},
            programs=c / 32,
            trips=(1, 1),
            bytes=8 * c * d,
        ),
        Case(
            channels._split,
            {
                "c": c, "k": 1, "clustered": n, "rank": n - 1, "FRACTION": 0.25, "FACTOR": 1 - 1e-6,
                "HAS_DOMINANT": True, "HAS_RANGE": False, "ZERO_GRADIENT": True, **bad, "OUT_OF_RANGE": 3,
                "ALL_ZERO": 4, "CHANNELS": c,
            },
            warps=8,
            trips=(63,),
            bytes=24 * c,
        ),
        Case(
            channels._columns,
            {"c": c, "hw": d, "n": n, "padded": padded, "cells": 1, **bad, "ROWS": 32, "CELLS": 64},
            programs=padded / 32,
            bytes=8 * n * d,
        ),
        Case(
            distances._sample,
            {
                "programs": distances.SAMPLES // distances._DRAWS, "padded": padded, "depth": d,
                "DRAWS": distances._DRAWS, "SAMPLES": distances.SAMPLES,
            },
            programs=distances.SAMPLES / distances._DRAWS,
            trips=(d,),
            bytes=4 * (n * d + distances.SAMPLES),
        ),
        Case(
            distances._interval,
            {
                **first, "POSITION": 0.25, "SAMPLES": distances.SAMPLES,
                "MARGIN": distances.SAMPLES // distances._MARGIN, "BEYOND": distances._BEYOND,
            },
            warps=8,
            trips=(31, 31),
            bytes=4 * distances.SAMPLES,
        ),
        Case(
            neighbours._pairs,
            {"capacity": capacity, **tile},
            warps=distances.TILE_WARPS,
            programs=tiles,
            trips=(d,),
            bytes=4 * n * d + n * n / 8 + 8 * kept,
            atomics=2 * tiles,
        ),
        Case(
            distances._select,
            {"capacity": capacity, **place, "FACTOR": 1 + 1e-6, **first, "KEPT": distances._KEPT},
            warps=8,
            trips=(10, kept / distances._KEPT, kept / distances._KEPT),
            bytes=11 * 4 * kept,
        ),
        Case(
            neighbours._mark,
            {
                "padded": padded, "capacity": capacity, "MARKERS": neighbours._MARKERS,
                "MARKED": neighbours._MARKED,
            },
            programs=neighbours._MARKERS,
            trips=(kept / neighbours._MARKERS / neighbours._MARKED,),
            bytes=8 * kept,
            atomics=kept,
        ),
        Case(
            neighbours._exact,
            {
                **tile, **place, "FACTOR": 1 + 1e-6, "LAST": distances.LAST, "LOG2_BINS": neighbours.LOG2_BINS,
            },
            warps=distances.TILE_WARPS,
        ),
        Case(
            components._dbscan,
            {"n": n, "n_words": padded // 32, "channels": c, "FRACTION": 0.05, "WORDS": 64, "ROWS": 128},
            trips=(n / 128, 1, 1, 3, n / 128),
            bytes=2 * n * n / 8,
        ),
        Case(
            cluster_filter._pooled,
            {
                "slots": c // 2, "programs": cluster_filter._PROGRAMS, "c": c, "k": 1, "h": h, "w": h,
                "radius": h - 1, "CIRCLE": True, "RANGE": True, "RELATIVE": False, "CELLS": 64, "CHANNELS": 64,
            },
            programs=cluster_filter._PROGRAMS,
            trips=(1 / cluster_filter._PROGRAMS, c / 64, 2 * h - 1, 2 * h - 1, 2),
            bytes=4 * c * d,
        ),
        Case(
            weighted_sum._weighted_sum,
            {
                "c": c, "k": 1, "hw": d, "slots": c // 2, "blocks": 2, "CLUSTERED": True, "CHANNELS": 128,
                "CELLS": 32,
            },
            programs=2,
            trips=(c / 128,),
            bytes=4 * c * d,
        ),
        Case(
            heatmaps._peaks,
            {
                "k": 1, "h": h, "w": h, "height": out, "width": out, "NOT_FINITE": 5, "BLOCK": 512,
            },
            trips=(1, 1, 1, 0),
            bytes=8 * d,
            options=heatmaps.AS_WRITTEN,
        ),
        Case(
            heatmaps._heatmaps,
            {"h": h, "w": h, "height": out, "width": out, "blocks": out * out / 1024, "BLOCK": 1024},
            programs=out * out / 1024,
            bytes=4 * out * out,
            options=heatmaps.AS_WRITTEN,
        ),
    ]  # fmt: skip


def spatial_cases() -> list[Case]:
    """The map of preset `spatial` for `layer3` of ResNet-50: 1,024 channels of 14x14 cells, one cluster, no noise."""
    c, h, radius = 1024, 14, 3
    d, window, programs = h * h, 2 * radius + 1, cluster_filter._PROGRAMS
    sizes = {"slots": c // 2, "tiles": 1, "k": 1, "h": h, "w": h, "radius": radius, "CELLS": 256}
    relative = {"CIRCLE": True, "RANGE": True, "RELATIVE": True}
    return [
        Case(
            cluster_filter._means,
            {
                "slots": c // 2, "programs": programs, "tiles": 1, "c": c, "k": 1, "hw": d, "CELLS": 256,
                "CHANNELS": 16,
            },
            programs=programs,
            trips=(1 / programs, c / 16),
            bytes=4 * (3 / 4 * c + 1) * d,
        ),
        Case(
            cluster_filter._filtered,
            {**sizes, **relative, "programs": programs},
            programs=programs,
            trips=(1 / programs, 1, 1, window, window),
            bytes=4 * 2 * d,
        ),
        Case(
            spatial._spatial,
            {**sizes, **relative, "c": c, "parts": spatial._PARTS},
            programs=spatial._PARTS,
            # A quarter of the channels is dominant.
            trips=(c / spatial._PARTS, 1 / 4, 1 / 4, window / 4, window),
            bytes=4 * (5 / 4 * c + spatial._PARTS) * d,
        ),
    ]  # fmt: skip


def sharp_cases() -> list[Case]:
    """The steps of `cfcam-sharp` that have kernels, for `layer3` of ResNet-50: 1,024 channels of 14x14 cells."""
    c, d = 1024, 14 * 14
    tiles, group = -(-d // likeness._PLACES), evidence._TILE // 256
    blocks = -(-d // evidence._CELLS)
    sizes = {"c": c, "k": 1, "hw": d}
    return [
        Case(
            likeness._spread,
            {
                "tiles": tiles, "c": c, "n": d, "k": 1, "PLACES": likeness._PLACES, "CHANNELS": likeness._CHANNELS,
                "TARGETS": likeness._TARGETS,
            },
            programs=tiles,
            trips=(tiles, c / likeness._CHANNELS),
            bytes=4 * c * d,
        ),
        Case(
            evidence._agreement,
            {**sizes, "groups": c // group, "CELLS": 256, "CHANNELS": group},
            programs=c / group,
            bytes=8 * c * d,
        ),
        Case(
            evidence._evidence,
            {**sizes, "blocks": blocks, "CELLS": evidence._CELLS, "CHANNELS": evidence._CHANNELS},
            programs=blocks,
            trips=(c / evidence._CHANNELS,),
            bytes=8 * c * d,
        ),
    ]  # fmt: skip


#: Name of a call beside the default one -> its launches, batch 256; those that both have are left out.
OTHERS: dict[str, Callable[[], list[Case]]] = {
    "preset spatial, layer3": spatial_cases,
    "cfcam-sharp, layer3": sharp_cases,
}


def odd_cases() -> list[Case]:
    """Launches of other shapes and options, which are compiled only: sizes of 1, large maps, other types."""
    sizes = {"c": 1, "k": 1, "h": 1, "w": 1}
    pooled = {"slots": 1024, "programs": 4, "c": 2048, "k": 3, "h": 64, "w": 64, "radius": 8}
    tiles = {**pooled, "tiles": 13, "h": 112, "w": 112}
    split = {
        "clustered": 1, "FRACTION": 0.0, "FACTOR": 1 - 1e-6, "HAS_RANGE": True, "ZERO_GRADIENT": True,
        "NO_ACTIVATIONS": 1, "NO_GRADIENTS": 2, "OUT_OF_RANGE": 3, "ALL_ZERO": 4,
    }  # fmt: skip
    relative = {"CIRCLE": True, "RANGE": True, "RELATIVE": True}
    one_map = {**sizes, "CIRCLE": False, "RANGE": True, "RELATIVE": True, "CELLS": 16, "CHANNELS": 1}
    whole = {**pooled, "CIRCLE": False, "RANGE": False, "RELATIVE": False, "CELLS": 4096, "CHANNELS": 1}
    dots = {"PLACES": likeness._PLACES, "CHANNELS": likeness._CHANNELS, "TARGETS": likeness._TARGETS}
    parts = {"slots": 32, "parts": 64, "tiles": 1, "c": 64, "k": 3, "h": 7, "w": 7, "radius": 3}
    many = {**split, "c": 8192, "k": 5, "rank": 0, "HAS_DOMINANT": False, "CHANNELS": 8192}
    return [
        Case(channels._statistics, {"c": 1, "k": 1, "hw": 1, "blocks": 1, "CHANNELS": 32, "CELLS": 64}),
        Case(channels._split, {**split, "c": 1, "k": 1, "rank": 1, "HAS_DOMINANT": True, "CHANNELS": 1}, warps=8),
        Case(channels._split, many, warps=8),
        Case(components._dbscan, {"n": 1, "n_words": 4, "channels": 1, "FRACTION": 0.05, "WORDS": 4, "ROWS": 1}),
        Case(cluster_filter._pooled, whole, warps=8),
        Case(cluster_filter._pooled, {"slots": 1, "programs": 1, "radius": 0, **one_map}),
        Case(
            cluster_filter._means,
            {"slots": 1024, "programs": 4, "tiles": 13, "c": 2048, "k": 1, "hw": 12544, "CELLS": 1024, "CHANNELS": 4},
        ),
        Case(cluster_filter._pooled_tiles, {**tiles, **relative, "CELLS": 1024}),
        Case(cluster_filter._filtered, {**tiles, **relative, "CELLS": 256}),
        Case(spatial._spatial, {**parts, **relative, "CELLS": 64}, warps=1),
        Case(spatial._spatial, {**parts, **relative, "parts": 1, "tiles": 49, "h": 112, "w": 112, "CELLS": 256}),
        Case(spatial._spatial, {**one_map, "slots": 1, "parts": 1, "tiles": 1, "radius": 0}, warps=1),
        Case(likeness._spread, {"tiles": 49, "c": 1, "n": 3136, "k": 70, **dots}),
        Case(evidence._agreement, {"groups": 1, "c": 1, "k": 1, "hw": 1, "CELLS": 16, "CHANNELS": 1}),
        Case(evidence._agreement, {"groups": 64, "c": 64, "k": 3, "hw": 12544, "CELLS": 1024, "CHANNELS": 1}),
        Case(
            weighted_sum._weighted_sum,
            {"c": 5, "k": 1, "hw": 1, "slots": 0, "blocks": 1, "CLUSTERED": False, "CHANNELS": 128, "CELLS": 32},
        ),
        Case(
            heatmaps._peaks,
            {"k": 1, "h": 1, "w": 1, "height": 1, "width": 3, "NOT_FINITE": 5, "BLOCK": 16},
            options=heatmaps.AS_WRITTEN,
        ),
        Case(
            heatmaps._heatmaps,
            {"h": 1, "w": 1, "height": 1, "width": 1, "blocks": 1, "BLOCK": 1024},
            options=heatmaps.AS_WRITTEN,
        ),
    ]  # fmt: skip
