"""Pointing game, energy and overlap: by hand, against plain loops, and against Quantus."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cfcam_gpu.metrics.localisation import localisation
from cfcam_gpu.metrics.options import MetricOptions
from tests.helpers.metric_cases import region_case, subset

OPTIONS = MetricOptions()


def measured(
    heatmaps: torch.Tensor, masks: torch.Tensor | None, options: MetricOptions = OPTIONS
) -> dict[str, torch.Tensor]:
    """Localisation of heatmaps (B,H,W) and masks (B,H,W), any values."""
    case = region_case(lambda region: region, n=len(heatmaps))
    blank = heatmaps.amax((1, 2)) <= 0
    return localisation(replace(case, heatmaps=heatmaps, masks=masks, blank=blank), options)


def test_by_hand():
    heatmap = torch.tensor([[[1.0, 0.4, 0.2, 0.1], [0.3, 0.0, 0.0, 0.0]]])
    mask = torch.tensor([[[True, False, True, False], [True, False, False, False]]])
    values = measured(heatmap, mask)
    expected = {
        "pointing": 1.0,
        "energy_inside": 1.5 / 2.0,
        "iou_15": 3 / 4,  # 1.0, 0.4, 0.2, 0.3
        "iou_25": 2 / 4,  # 1.0, 0.4, 0.3
        "iou_50": 1 / 3,  # 1.0
        "mask_share": 3 / 8,
    }
    assert {name: value.item() for name, value in values.items() if value.ndim == 1} == pytest.approx(
        expected
    )
    assert values["iou_curve"][0].tolist() == pytest.approx([3 / 4, 2 / 4, 1 / 3])


@pytest.mark.parametrize(
    ("heatmap", "pointing", "energy", "iou"),
    [
        (lambda region: region, 1, 1, 1),
        (lambda region: 1 - region, 0, 0, 0),
        (torch.ones_like, 0.25, 0.25, 0.25),
        (torch.zeros_like, 0, 0, 0),
    ],
    ids=["perfect", "inverted", "even", "blank"],
)
def test_extreme_maps(heatmap, pointing, energy, iou):
    """A quarter of the image is the object: what an even map gets."""
    values = localisation(region_case(heatmap), OPTIONS)
    expected = {
        "pointing": pointing,
        "energy_inside": energy,
        **dict.fromkeys(("iou_15", "iou_25", "iou_50"), iou),
        "mask_share": 0.25,
    }
    for name, value in expected.items():
        torch.testing.assert_close(values[name], torch.full((2,), float(value)))
    torch.testing.assert_close(values["iou_curve"], torch.full((2, 3), float(iou)))


def test_pointing_shares_a_tie():
    heatmap = torch.zeros(1, 2, 4)
    heatmap[0, 0, :3] = 1
    mask = torch.zeros(1, 2, 4, dtype=torch.bool)
    mask[0, 0, 0] = True
    assert measured(heatmap, mask)["pointing"].item() == pytest.approx(1 / 3)


def test_images_without_a_mask_are_undefined():
    heatmaps, masks = torch.rand(3, 8, 8), torch.rand(3, 8, 8) > 0.5
    masks[1] = False
    for value in measured(heatmaps, masks).values():
        assert value[1].isnan().all()
        assert not value[[0, 2]].isnan().any()
    for value in measured(heatmaps, None).values():
        assert len(value) == 3
        assert value.isnan().all()


def test_thresholds_make_the_curve_and_leave_the_named_columns():
    heatmaps, masks = torch.rand(2, 8, 8), torch.rand(2, 8, 8) > 0.5
    usual = measured(heatmaps, masks)
    other = measured(heatmaps, masks, MetricOptions(iou_thresholds=(0.25, 0.9)))
    assert other["iou_curve"].shape == (2, 2)
    assert torch.equal(other["iou_curve"][:, 0], other["iou_25"])
    assert torch.equal(other["iou_50"], usual["iou_50"])


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(2, 9), st.integers(2, 9))
@settings(max_examples=40, deadline=None)
def test_against_plain_loops(seed, n, h, w):
    rng = np.random.default_rng(seed)
    heatmaps = rng.integers(0, 5, (n, h, w)) / 4  # many ties
    masks = rng.random((n, h, w)) < 0.5
    values = measured(torch.from_numpy(heatmaps).float(), torch.from_numpy(masks))
    for i, (heatmap, mask) in enumerate(zip(heatmaps, masks, strict=True)):
        if not mask.any():
            assert values["pointing"][i].isnan()
            continue
        inside, outside = heatmap[mask], heatmap[~mask]
        best = heatmap.max()
        hits = [value == best for value in inside], [value == best for value in outside]
        pointing = sum(hits[0]) / (sum(hits[0]) + sum(hits[1])) if best > 0 else 0
        energy = inside.sum() / heatmap.sum() if best > 0 else 0
        marked = {pixel for pixel in np.ndindex(h, w) if best > 0 and heatmap[pixel] >= 0.5 * best}
        wanted = {pixel for pixel in np.ndindex(h, w) if mask[pixel]}
        iou = len(marked & wanted) / len(marked | wanted) if marked else 0
        assert values["pointing"][i].item() == pytest.approx(pointing, abs=1e-6)
        assert values["energy_inside"][i].item() == pytest.approx(energy, abs=1e-6)
        assert values["iou_50"][i].item() == pytest.approx(iou, abs=1e-6)


@given(st.integers(0, 10_000), st.floats(1e-3, 1))
@settings(max_examples=20, deadline=None)
def test_neither_the_maps_scale_nor_the_batch_matters(seed, scale):
    rng = torch.Generator().manual_seed(seed)
    heatmaps, masks = torch.rand(4, 12, 9, generator=rng), torch.rand(4, 12, 9, generator=rng) > 0.6
    whole = measured(heatmaps, masks)
    scaled = measured(heatmaps * scale, masks)
    for name in ("pointing", "energy_inside", "mask_share"):
        torch.testing.assert_close(scaled[name], whole[name])
    case = region_case(lambda region: region, n=4, size=16)
    case = replace(case, heatmaps=heatmaps, masks=masks)
    index = slice(1, 3)
    some = localisation(subset(case, index), OPTIONS)
    torch.testing.assert_close(some, {name: value[index] for name, value in whole.items()})


def test_against_quantus():
    """Its pointing game counts a tie that touches the mask as a hit, so the maps here have none."""
    quantus = pytest.importorskip("quantus", reason="compares with Quantus")
    rng = np.random.default_rng(2)
    heatmaps = rng.random((6, 16, 16), dtype=np.float32)
    masks = rng.random((6, 16, 16)) < 0.4
    given = {
        "model": None,
        "x_batch": np.zeros((6, 3, 16, 16), np.float32),
        "y_batch": np.zeros(6, int),
        "a_batch": heatmaps[:, None],
        "s_batch": masks[:, None],
        "channel_first": True,
    }
    quiet = {"abs": False, "normalise": False, "disable_warnings": True}
    values = measured(torch.from_numpy(heatmaps), torch.from_numpy(masks))
    pointing = np.array(quantus.PointingGame(**quiet)(**given), float).ravel()
    mass = np.array(quantus.RelevanceMassAccuracy(**quiet)(**given), float).ravel()
    assert 0 < pointing.sum() < 6
    np.testing.assert_allclose(values["pointing"], pointing)
    np.testing.assert_allclose(values["energy_inside"], mass, rtol=1e-5)
