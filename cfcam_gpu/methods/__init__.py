"""Class activation map methods by name: each a small function of a layer's features, batched, on their device.

Importing this package imports neither PyTorch nor the methods themselves.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from cfcam_gpu._utils.lazy import lazy
from cfcam_gpu._utils.messages import unknown
from cfcam_gpu.config import PRESETS, CFCAMConfig
from cfcam_gpu.errors import ConfigError
from cfcam_gpu.methods.base import Method

if TYPE_CHECKING:
    from cfcam_gpu.methods.features import CapturedFeatures, Features

__all__ = ["METHODS", "CapturedFeatures", "Features", "Method", "find_method", "parse_method", "smoothed"]

__getattr__, __dir__ = lazy(__name__, globals(), {"CapturedFeatures": "features", "Features": "features"})

#: The fields of a configuration that the published method reads.
_CFCAM_FIELDS = (
    "dominant_percentile", "eps_percentile", "min_samples_fraction", "filter", "sigma_space", "sigma_range",
    "diameter", "weighting",
)  # fmt: skip

#: In the order in which people see them.
_ALL = (
    Method(
        "cfcam",
        "gradient:cfcam",
        "clustered channels, filtered gradients",
        "He et al. 2025, arXiv 2504.00060",
        uses_gradients=True,
        is_cfcam=True,
        has_engines=True,
        is_whole=True,
        reads_config=_CFCAM_FIELDS,
        weights="gradient:cfcam_weights",
    ),
    Method(
        "cfcam-fine",
        "sharpened:cfcam_fine",
        "cfcam, sharpened by an earlier layer with larger maps",
        uses_gradients=True,
        needs_model=True,
        needs_finer=True,
        is_cfcam=True,
        has_engines=True,
        reads_config=(*_CFCAM_FIELDS, "fine_share"),
    ),
    Method(
        "gradcam-fine",
        "sharpened:gradcam_fine",
        "gradcam, sharpened likewise by layercam",
        uses_gradients=True,
        needs_model=True,
        needs_finer=True,
        reads_config=("fine_share",),
    ),
    Method(
        "cfcam-sharp",
        "sharp:cfcam_sharp",
        "contrasted class map, spread over alike places of an earlier layer",
        uses_gradients=True,
        needs_model=True,
        needs_finer=True,
        contrasts=True,
        engines=("triton",),
    ),
    Method(
        "gradcam",
        "gradient:gradcam",
        "mean gradients",
        "Selvaraju et al. 2017, arXiv 1610.02391",
        uses_gradients=True,
        weights="gradient:gradcam_weights",
    ),
    Method(
        "gradcam++",
        "gradient:gradcam_plus_plus",
        "weighted positive gradients",
        "Chattopadhay et al. 2018, arXiv 1710.11063",
        uses_gradients=True,
        weights="gradient:gradcam_plus_plus_weights",
    ),
    Method(
        "smoothgradcam++",
        "gradient:smoothgradcam_plus_plus",
        "gradcam++ over noisy copies of the image",
        "Omeiza et al. 2019, arXiv 1908.01224",
        needs_model=True,
        weights="gradient:smoothgradcam_plus_plus_weights",
    ),
    Method(
        "hirescam",
        "gradient:hirescam",
        "gradient times activation",
        "Draelos and Carin 2020, arXiv 2011.08891",
        uses_gradients=True,
        weights="gradient:hirescam_weights",
    ),
    Method(
        "layercam",
        "gradient:layercam",
        "positive gradient times activation",
        "Jiang et al. 2021, doi 10.1109/TIP.2021.3089943",
        uses_gradients=True,
        weights="gradient:layercam_weights",
    ),
    Method(
        "gradcam-elementwise",
        "gradient:gradcam_elementwise",
        "what is positive of gradient times activation",
        "pytorch-grad-cam's GradCAMElementWise",
        uses_gradients=True,
        weights="gradient:gradcam_elementwise_weights",
    ),
    Method(
        "xgradcam",
        "gradient:xgradcam",
        "gradients averaged by activation",
        "Fu et al. 2020, arXiv 2008.02312",
        uses_gradients=True,
        weights="gradient:xgradcam_weights",
    ),
    Method(
        "scorecam",
        "gradient_free:scorecam",
        "scores of the image masked by each channel",
        "Wang et al. 2020, arXiv 1910.01279",
        needs_model=True,
        many_passes=True,
        weights="gradient_free:scorecam_weights",
    ),
    Method(
        "ablationcam",
        "gradient_free:ablationcam",
        "drop of the score without each channel",
        "Desai and Ramaswamy 2020, doi 10.1109/WACV45572.2020.9093360",
        needs_model=True,
        many_passes=True,
        weights="gradient_free:ablationcam_weights",
    ),
    Method(
        "groupcam",
        "confidence:groupcam",
        "groups of channels, weighted by what each raises the probability",
        "Zhang et al. 2021, arXiv 2103.13859",
        uses_gradients=True,
        needs_model=True,
        many_passes=True,
    ),
    Method(
        "reciprocam",
        "confidence:reciprocam",
        "probability where one cell of the map is left",
        "Byun and Lee 2022, arXiv 2209.14074",
        needs_model=True,
        many_passes=True,
    ),
    Method(
        "refinecam",
        "sharpened:refinecam",
        "gradcam++ of the layer times that of an earlier one",
        "Domeniconi et al. 2026, arXiv 2605.14641",
        uses_gradients=True,
        needs_model=True,
        needs_finer=True,
    ),
    Method(
        "eigencam",
        "gradient_free:eigencam",
        "first principal component, no class",
        "Muhammad and Yeasin 2020, arXiv 2008.00299",
    ),
    Method(
        "segeigencam",
        "gradient:segeigencam",
        "first principal component of activations times absolute gradients",
        "Chung and Ying 2025, doi 10.3390/app15137562",
        uses_gradients=True,
    ),
    Method(
        "fem",
        "gradient_free:fem",
        "channels weighted by how much of them stands out, no class",
        "Fuad et al. 2020, IPTA 2020, hal-02963298",
        weights="gradient_free:fem_weights",
    ),
    Method("random", "gradient_free:random", "uniform noise, the least to beat"),
)

#: Name -> method.
METHODS: dict[str, Method] = {method.name: method for method in _ALL}


def find_method(name: str) -> Method:
    """The method called `name`, in whatever spelling: capitals, hyphens, "pp" and "PlusPlus" for "++".

    Raises:
        ConfigError: there is none; the choices are listed.

    Example:
        >>> [find_method(name).name for name in ("layercam", "GradCAM", "Grad-CAM++", "GradCAMPlusPlus", "xgrad_cam")]
        ['layercam', 'gradcam', 'gradcam++', 'gradcam++', 'xgradcam']
    """
    method = METHODS.get(name) or _BY_SPELLING.get(_spelling(str(name)))
    if method is None:
        raise ConfigError(unknown("method", name, METHODS))
    return method


def _spelling(name: str) -> str:
    """Equal for all spellings of a method's name."""
    letters = re.sub(r"[^a-z0-9+]", "", name.lower())
    return re.sub(r"(pp|plusplus)$", "++", letters)


_BY_SPELLING = {_spelling(name): method for name, method in METHODS.items()}


def smoothed(method: Method) -> Method:
    """The method with `eigen_smooth`, as pytorch-grad-cam has it: it runs in PyTorch and tells no clusters.

    Raises:
        ConfigError: its map is no weighted sum of channels.

    Example:
        >>> smoothed(METHODS["gradcam"]).function
        'gradient:gradcam_weights'
    """
    if not method.weights:
        names = ", ".join(name for name, one in METHODS.items() if one.weights)
        raise ConfigError(
            f"eigen_smooth is for methods whose map is a weighted sum of channels ({names}), got {method.name!r}; "
            "choose one of these, or leave eigen_smooth out"
        )
    return replace(method, function=method.weights, is_smoothed=True, has_engines=False, is_whole=False)


def parse_method(text: str) -> tuple[str, CFCAMConfig]:
    """The name and configuration that `NAME` or `cfcam:PRESET` stands for.

    Raises:
        ConfigError: unknown method or preset, or a preset of another method than cfcam.

    Example:
        >>> name, config = parse_method("cfcam:upstream")
        >>> name, config.weighting
        ('cfcam', 'softmax')
    """
    name, colon, preset = text.partition(":")
    method = find_method(name)
    if colon and not method.is_cfcam:
        raise ConfigError(f"only cfcam has presets ({', '.join(PRESETS)}), got method {text!r}")
    return method.name, CFCAMConfig.preset(preset if colon else "default")
