"""Methods that sharpen a layer's map by the map of an earlier layer, which is larger."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cfcam_gpu.cfcam.maps import Maps, maps_of, over_maximum
from cfcam_gpu.config import CFCAMConfig
from cfcam_gpu.methods.features import CapturedFeatures, Features
from cfcam_gpu.methods.gradient import cfcam, gradcam, gradcam_plus_plus, layercam


def cfcam_fine(features: CapturedFeatures) -> Maps:
    """CF-CAM of the layer, sharpened by CF-CAM (preset `spatial`) of an earlier layer with larger maps.

    Reads `CFCAMConfig.fine_share`. Grid (B,K,h',w') at the resolution of the earlier layer.
    """
    coarse, (finer, bad) = cfcam(features), finite(features.at_finer_layer())
    fine = cfcam(replace(finer, config=CFCAMConfig.preset("spatial"))).grid
    grid = _sharpened(coarse.grid, fine.masked_fill(bad, torch.nan), features.config.fine_share)
    return maps_of(grid, features.size, coarse.clusters)


def gradcam_fine(features: CapturedFeatures) -> Tensor:
    """Grad-CAM of the layer, sharpened by LayerCAM of an earlier layer: `cfcam-fine` without clusters.

    Reads `CFCAMConfig.fine_share`. Grid (B,K,h',w') at the resolution of the earlier layer.
    """
    finer, bad = finite(features.at_finer_layer())
    fine = layercam(finer).masked_fill(bad, torch.nan)
    return _sharpened(gradcam(features), fine, features.config.fine_share)


def refinecam(features: CapturedFeatures) -> Tensor:
    """Domeniconi et al. 2026, arXiv 2605.14641: the product of several layers' Grad-CAM++ maps, each scaled to [0,1].

    Here of two layers, the target layer and an earlier one with larger maps. Grid (B,K,h',w') at the resolution of the
    earlier layer, in [0,1]; the authors' code in pytorch-grad-cam multiplies at the size of the image.
    """
    finer, bad = finite(features.at_finer_layer())
    fine = gradcam_plus_plus(finer).masked_fill(bad, torch.nan)
    coarse = F.interpolate(
        gradcam_plus_plus(features), size=fine.shape[2:], mode="bilinear", align_corners=False
    )
    return _from_zero_to_one(coarse) * _from_zero_to_one(fine)


def _from_zero_to_one(maps: Tensor) -> Tensor:
    """Maps (B,K,h,w) less their minimum, divided by their maximum then; zeros where all cells are equal."""
    return over_maximum(maps - maps.amin((2, 3), keepdim=True))


def finite(features: Features) -> tuple[Features, Tensor]:
    """The features with zeros for images that hold NaN or Inf, and the mask (B,1,1,1) bool of these images."""
    activations, gradients = features.not_finite()
    bad = activations | gradients
    return features.without(bad), bad[:, None, None, None]


def _sharpened(coarse: Tensor, fine: Tensor, share: float) -> Tensor:
    """The map M (B,K,h,w) at the resolution of m (B,K,h',w'): M · (1 - share + share · sqrt(m / max m)).

    M says where the class is; m, of an earlier layer, says where exactly. LayerCAM (Jiang et al. 2021)
    joins layers as well, by the larger value; here the map is zero where M is.
    """
    evidence = over_maximum(fine).sqrt()
    grid = F.interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=False)
    return grid * (1 - share * (1 - evidence))
