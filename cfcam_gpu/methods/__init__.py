"""Class activation map methods by name: each a small function of a layer's features, batched, on their device."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cfcam_gpu.capture.model_runner import Features
from cfcam_gpu.cfcam.maps import Maps, maps_of, over_maximum
from cfcam_gpu.config import PRESETS, CFCAMConfig
from cfcam_gpu.engines import ENGINES, resolve_engine
from cfcam_gpu.errors import ConfigError
from cfcam_gpu.methods.gradient import (
    gradcam,
    gradcam_plus_plus,
    hirescam,
    layercam,
    smoothgradcam_plus_plus,
    xgradcam,
)
from cfcam_gpu.methods.gradient_free import ablationcam, eigencam, random, scorecam


def cfcam(features: Features) -> Maps:
    """He, Pan and Yao 2025, arXiv 2504.00060; see the modules of its stages."""
    f = features
    return ENGINES[f.engine].run(f.activations, f.gradients, f.size, f.config)


def cfcam_fine(features: Features) -> Maps:
    """CF-CAM of the layer, sharpened by CF-CAM (preset `spatial`) of an earlier layer with larger maps."""
    coarse, (finer, bad) = cfcam(features), _finite(features.finer())
    fine = cfcam(replace(finer, config=CFCAMConfig.preset("spatial"))).grid
    grid = _sharpened(coarse.grid, fine.masked_fill(bad, torch.nan), features.config.fine_share)
    return maps_of(grid, features.size, coarse.clusters)


def gradcam_fine(features: Features) -> Tensor:
    """Grad-CAM of the layer, sharpened likewise by LayerCAM: what `cfcam-fine` is without clusters."""
    finer, bad = _finite(features.finer())
    fine = layercam(finer).masked_fill(bad, torch.nan)
    return _sharpened(gradcam(features), fine, features.config.fine_share)


def _finite(features: Features) -> tuple[Features, Tensor]:
    """The features with zeros for images that hold NaN or Inf, and which these are, (B,1,1,1) bool."""
    a, g = features.activations, features.gradients
    bad = ~(a.isfinite().flatten(1).all(1) & g.isfinite().flatten(1).all(1))
    return features.without(bad), bad[:, None, None, None]


def _sharpened(coarse: Tensor, fine: Tensor, share: float) -> Tensor:
    """The map (B,K,h,w) M on the grid of m (B,K,h',w'): M · (1 - share + share · sqrt(m / max m)).

    M says where the class is, m, of an earlier layer, where exactly. LayerCAM (Jiang et al. 2021) joins
    layers as well, by the larger value; here the map is zero where M is.
    """
    evidence = over_maximum(fine).sqrt()
    grid = F.interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=False)
    return grid * (1 - share * (1 - evidence))


@dataclass(frozen=True)
class Method:
    """A way to make maps.

    Attributes:
        function: features -> grid (B,K,h,w) float32, not negative, or `Maps`.
        uses_gradients: whether it reads `Features.gradients`.
        needs_model: whether it runs the model again.
        about: one line for people; source: where it was published.
        needs_finer: whether it looks at an earlier layer as well.
        per_channel: whether it runs the model, or its head, once for each channel.
    """

    name: str
    function: Callable[[Features], Maps | Tensor]
    uses_gradients: bool
    needs_model: bool
    about: str
    source: str
    needs_finer: bool = False
    per_channel: bool = False

    def __call__(self, features: Features) -> Maps:
        """The maps of B images for K targets.

        Raises:
            ConfigError: the features lack what the method needs.
        """
        if self.needs_model and features.runner is None:
            raise ConfigError(f"method {self.name!r} runs the model again; use CFCAM(model, method=...)")
        if self.uses_gradients and not features.gradients.shape[1]:
            raise ConfigError(f"method {self.name!r} needs gradients; capture or pass them")
        maps = self.function(features)
        return maps if isinstance(maps, Maps) else maps_of(maps, features.size)

    @property
    def clusters(self) -> bool:
        """Whether it is CF-CAM, which has engines and a configuration."""
        return self.function in (cfcam, cfcam_fine)

    def engine(self, name: str, device: torch.device) -> str:
        """The engine that runs on a device when `name` was asked for; only CF-CAM has several.

        Raises:
            BackendError: one that is unknown or cannot run there.
            ConfigError: another than PyTorch's for a method that has no other.
        """
        resolved = resolve_engine(name, device)
        if self.clusters:
            return resolved
        if name not in ("auto", "torch"):
            raise ConfigError(f"engine {name!r} is one of cfcam's; {self.name} runs in PyTorch, engine auto")
        return "torch"


#: In the order of a table for people; each with whether it uses gradients and needs the model.
_ALL = (
    Method(
        "cfcam", cfcam, True, False, "clustered channels, filtered gradients",
        "He et al. 2025, arXiv 2504.00060",
    ),
    Method(
        "cfcam-fine", cfcam_fine, True, True, "cfcam, sharpened by an earlier layer with larger maps", "",
        needs_finer=True,
    ),
    Method(
        "gradcam-fine", gradcam_fine, True, True, "gradcam, sharpened likewise by layercam", "",
        needs_finer=True,
    ),
    Method("gradcam", gradcam, True, False, "mean gradients", "Selvaraju et al. 2017, arXiv 1610.02391"),
    Method(
        "gradcam++", gradcam_plus_plus, True, False, "weighted positive gradients",
        "Chattopadhay et al. 2018, arXiv 1710.11063",
    ),
    Method(
        "smoothgradcam++", smoothgradcam_plus_plus, False, True, "gradcam++ over noisy copies of the image",
        "Omeiza et al. 2019, arXiv 1908.01224",
    ),
    Method(
        "hirescam", hirescam, True, False, "gradient times activation",
        "Draelos and Carin 2020, arXiv 2011.08891",
    ),
    Method(
        "layercam", layercam, True, False, "positive gradient times activation",
        "Jiang et al. 2021, doi 10.1109/TIP.2021.3089943",
    ),
    Method(
        "xgradcam", xgradcam, True, False, "gradients averaged by activation",
        "Fu et al. 2020, arXiv 2008.02312",
    ),
    Method(
        "scorecam", scorecam, False, True, "scores of the image masked by each channel",
        "Wang et al. 2020, arXiv 1910.01279", per_channel=True,
    ),
    Method(
        "ablationcam", ablationcam, False, True, "drop of the score without each channel",
        "Desai and Ramaswamy 2020, doi 10.1109/WACV45572.2020.9093360", per_channel=True,
    ),
    Method(
        "eigencam", eigencam, False, False, "first principal component, no class",
        "Muhammad and Yeasin 2020, arXiv 2008.00299",
    ),
    Method("random", random, False, False, "uniform noise, the least to beat", ""),
)  # fmt: skip
METHODS: dict[str, Method] = {method.name: method for method in _ALL}


def find_method(name: str) -> Method:
    """The method called `name`.

    Raises:
        ConfigError: there is none; the choices are listed.
    """
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ConfigError(f"unknown method {name!r}{hint}; choose one of: {', '.join(METHODS)}")
    return METHODS[name]


def parse_method(text: str) -> tuple[str, CFCAMConfig]:
    """Name and configuration that `NAME` or `cfcam:PRESET` stands for.

    Raises:
        ConfigError: unknown method or preset, or a preset of another method than cfcam.
    """
    name, colon, preset = text.partition(":")
    method = find_method(name)
    if colon and not method.clusters:
        raise ConfigError(f"only cfcam has presets ({', '.join(PRESETS)}), got method {text!r}")
    return method.name, CFCAMConfig.preset(preset if colon else "default")
