"""Launch grids of large batches: CUDA allows 2³¹ - 1 programs along the first axis, 65,535 along the others."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from bench.device_ops import stubbed_kernels
from cfcam_gpu import CFCAMConfig
from cfcam_gpu.engines import triton_engine
from cfcam_gpu.kernels import distances
from cfcam_gpu.methods.sharp import STEPS


@pytest.mark.parametrize(
    ("batch", "channels", "side", "targets"),
    [(70_000, 64, 7, 1), (70_000, 2048, 7, 2), (256, 64, 224, 3), (2, 64, 7, 70_000), (1, 2, 8_300, 1)],
)
def test_every_launch_is_within_cudas_limits(batch, channels, side, targets):
    """Shapes without values, on the device `meta`; kernels are not launched."""
    grids: dict[str, tuple[int, ...]] = {}
    activations = torch.empty(batch, channels, side, side, device="meta")
    gradients = torch.empty(batch, targets, channels, side, side, device="meta")
    with stubbed_kernels(grids.__setitem__):
        triton_engine.explain(activations, gradients, (32, 32), CFCAMConfig())
        triton_engine.explain(activations, gradients, (32, 32), CFCAMConfig.preset("spatial"))
    expected = {
        "_statistics",
        "_split",
        "_columns",
        "_sample",
        "_interval",
        "_pairs",
        "_select",
        "_mark",
        "_exact",
        "_dbscan",
    }
    with stubbed_kernels(grids.__setitem__):
        spread = STEPS["triton"].spread(gradients[:, :, 0], activations)
        STEPS["triton"].evidence(activations, gradients, spread)
    expected |= {
        "_spread",
        "_agreement",
        "_evidence",
        "_weighted_sum",
        "_peaks",
        "_heatmaps",
        "_means",
        "_filtered",
        "_spatial",
    }
    assert set(grids) == expected | {"_pooled" if side == 7 else "_pooled_tiles"}
    for name, (first, *others) in grids.items():
        assert batch <= first < 2**31, name
        assert all(count <= 65_535 for count in others), name


@triton.jit
def _pairs(out: tl.tensor, first: tl.tensor, COUNT: tl.constexpr) -> None:
    index = first + tl.arange(0, COUNT)
    row, column = distances.tile_pair(index)
    tl.store(out + 2 * tl.arange(0, COUNT), row)
    tl.store(out + 2 * tl.arange(0, COUNT) + 1, column)


@pytest.mark.parametrize("tiles", [1, 2, 24, 1024, 4096])
def test_programs_and_tiles_are_one_to_one(device, tiles):
    """The last 1,024 tiles of an image, also where the square root of an index is rounded."""
    total = distances.tile_pairs(tiles)
    first = max(0, total - 1024)
    out = torch.empty(1024, 2, dtype=torch.int32, device=device)
    _pairs[(1,)](out, first, 1024)
    expected = [(row, column) for column in range(max(0, tiles - 1100), tiles) for row in range(column + 1)]
    assert [tuple(pair) for pair in out[: total - first].tolist()] == expected[-(total - first) :]
