"""Whether the heatmap lies on the object, for images that have a mask of the object's pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from cfcam_gpu.metrics.base import Case, Column
from cfcam_gpu.metrics.options import MetricOptions

#: Thresholds with a column of their own: such a column means the same in all results, whatever the options are.
_IOU_COLUMNS = {"iou_15": 0.15, "iou_25": 0.25, "iou_50": 0.5}


def localisation(case: Case, options: MetricOptions) -> dict[str, Tensor]:
    """Pointing game, energy inside the object, and overlap with the object.

    NaN for images without a mask. A blank map points nowhere: it has 0 in every column but `mask_share`.

    Returns:
        pointing: (B,) float32 in [0,1]: 1 where the map's maximum lies on the object, 0 elsewhere. Where several
            pixels are the maximum, the share of them on the object. Zhang et al. 2018, "Top-down neural attention by
            excitation backprop"; they also count 15 pixels around the object.
        energy_inside: (B,) float32 in [0,1], share of the map's sum that lies on the object: the energy-based
            pointing game of Wang et al. 2020, "Score-CAM", there with the object's box.
        iou_15, iou_25, iou_50: (B,) float32 in [0,1], intersection over union of the object with the pixels of at
            least 15, 25 and 50 % of the map's maximum. After Zhou et al. 2016, "Learning deep features for
            discriminative localization"; they compare the box around these pixels.
        iou_curve: (B,S) float32, the same for each of `options.iou_thresholds`.
        mask_share: (B,) float32 in [0,1], the object's share of the image, which an even map has as `energy_inside`.

    Example:
        >>> heatmaps = torch.tensor([[[1.0, 0.5], [0.0, 0.0]]])
        >>> masks = torch.tensor([[[True, False], [True, False]]])
        >>> image = torch.ones(1, 3, 2, 2)
        >>> case = Case.of_heatmaps(lambda x: x[:, :2, 0, 0], image, torch.tensor([0]), heatmaps, masks=masks)
        >>> values = localisation(case, MetricOptions())
        >>> values["pointing"], values["energy_inside"], values["iou_50"]
        (tensor([1.]), tensor([0.6667]), tensor([0.3333]))
    """
    masks = torch.zeros_like(case.heatmaps, dtype=torch.bool) if case.masks is None else case.masks
    masks = masks.to(case.heatmaps.device)
    values = {
        "pointing": _pointing(case.heatmaps, masks),
        "energy_inside": _energy_inside(case.heatmaps, masks),
        **{name: _overlap(case.heatmaps, masks, share) for name, share in _IOU_COLUMNS.items()},
    }
    values = {name: value.masked_fill(case.blank, 0) for name, value in values.items()}
    values["mask_share"] = masks.float().mean((1, 2))
    curve = torch.stack([_overlap(case.heatmaps, masks, share) for share in options.iou_thresholds], dim=1)
    without = ~masks.flatten(1).any(1)
    return {
        **{name: value.masked_fill(without, torch.nan) for name, value in values.items()},
        "iou_curve": curve.masked_fill(case.blank[:, None], 0).masked_fill(without[:, None], torch.nan),
    }


def _pointing(heatmaps: Tensor, masks: Tensor) -> Tensor:
    """(B,) share on the mask (B,H,W) of the pixels where the heatmap (B,H,W) has its maximum."""
    highest = heatmaps == heatmaps.amax((1, 2), keepdim=True)
    return (highest & masks).sum((1, 2)) / highest.sum((1, 2))


def _energy_inside(heatmaps: Tensor, masks: Tensor) -> Tensor:
    """(B,) share on the mask (B,H,W) of the sum of the heatmap (B,H,W); NaN where that is zero."""
    return (heatmaps * masks).sum((1, 2)) / heatmaps.sum((1, 2))


def _overlap(heatmaps: Tensor, masks: Tensor, threshold: float) -> Tensor:
    """(B,) intersection over union of the mask (B,H,W) and the pixels ≥ threshold × the heatmap's maximum."""
    marked = heatmaps >= threshold * heatmaps.amax((1, 2), keepdim=True)
    return (marked & masks).sum((1, 2)) / (marked | masks).sum((1, 2))


_IOU = "Intersection over union (0 to 1) of the object with the pixels from {} of the map's maximum."
COLUMNS = (
    Column("pointing", "higher", "Share (0 to 1) of the map's maximal pixels that lie on the object."),
    Column("energy_inside", "higher", "Share (0 to 1) of the map's sum that lies on the object."),
    *(Column(name, "higher", _IOU.format(f"{share:.0%}")) for name, share in _IOU_COLUMNS.items()),
    Column("iou_curve", "higher", _IOU.format("each threshold"), curve=True),
    Column("mask_share", "", "The object's share (0 to 1) of the image, an even map's energy inside."),
)
SOURCE = (
    "Zhang et al. 2018, arXiv 1608.00507; Wang et al. 2020, arXiv 1910.01279; "
    "Zhou et al. 2016, arXiv 1512.04150"
)
