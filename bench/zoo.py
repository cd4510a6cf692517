"""Every kind of image classifier that torchvision, timm and transformers have, untrained, for `bench.models`.

A model's name is its library and its name there: `torchvision:resnet18`, `timm:vit_tiny_patch16_224`,
`transformers:swin`. Weights are random and the same every time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

#: Most million parameters times the image's area over 224x224 that a model may have, to run in seconds.
MOST_COST = 150.0

#: Parameters of small models of transformers, by the type of their configuration.
_PATCHES = {
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": 64,
    "patch_size": 8,
}
_WINDOWS = {"image_size": 64, "patch_size": 2, "embed_dim": 24, "depths": [1, 1, 2], "num_heads": [2, 2, 4]}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "beit": _PATCHES,
    "bit": {"embedding_size": 16, "hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 1, 1]},
    "clip": {"vision_config": _PATCHES},
    "convnext": {"hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 2, 1]},
    "convnextv2": {"hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 2, 1]},
    "cvt": {},
    "data2vec-vision": _PATCHES,
    "deit": _PATCHES,
    "dinov2": {**_PATCHES, "mlp_ratio": 2},
    "dinov2_with_registers": {**_PATCHES, "mlp_ratio": 2},
    "donut-swin": _WINDOWS,
    "efficientnet": {"image_size": 128, "width_coefficient": 0.5, "depth_coefficient": 0.5},
    "focalnet": {"image_size": 64, "patch_size": 2, "embed_dim": 24, "depths": [1, 1, 2, 1]},
    "hgnet_v2": {},
    "hiera": {},
    "ijepa": _PATCHES,
    "imagegpt": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "levit": {},
    "metaclip_2": {"vision_config": _PATCHES},
    "mobilenet_v1": {},
    "mobilenet_v2": {},
    "mobilevit": {},
    "mobilevitv2": {},
    "perceiver": {"num_latents": 16, "d_latents": 32, "num_blocks": 1},
    "poolformer": {"hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 2, 1]},
    "pp_lcnet": {},
    "pvt": {},
    "pvt_v2": {},
    "regnet": {
        "embedding_size": 16,
        "hidden_sizes": [32, 64, 128, 256],
        "depths": [1, 1, 2, 1],
        "groups_width": 16,
    },
    "resnet": {"embedding_size": 16, "hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 2, 1]},
    "segformer": {},
    "siglip": {"vision_config": _PATCHES},
    "swiftformer": {},
    "swin": _WINDOWS,
    "swinv2": {**_WINDOWS, "window_size": 4},
    "textnet": {},
    "vit": _PATCHES,
    "vit_msn": _PATCHES,
}


@dataclass(frozen=True)
class Built:
    """A model in eval mode, and the size (channels,H,W) of its images."""

    model: nn.Module
    size: tuple[int, int, int]


class TooLarge(Exception):
    """The model costs more than `MOST_COST`."""


def torchvision_names() -> list[str]:
    """All classifiers of torchvision."""
    from torchvision import models

    return [f"torchvision:{name}" for name in models.list_models(module=models)]


def timm_names(costs: Mapping[str, float], per_family: int) -> list[str]:
    """The cheapest models of each module of timm, at most `per_family`, the smallest of each in any case.

    Args:
        costs: of the names that are cheap enough, as `timm_cost` gives them.
    """
    import timm
    from timm.models import _registry

    families: dict[str, list[str]] = defaultdict(list)
    for name in timm.list_models():
        if name in costs:
            families[_registry._model_to_module[name]].append(name)
    return [
        f"timm:{name}"
        for family in sorted(families)
        for name in sorted(families[family], key=costs.__getitem__)[:per_family]
    ]


def transformers_names() -> list[str]:
    """The classes of transformers that classify images, by their configuration's type."""
    return [f"transformers:{name}" for name in TRANSFORMERS]


def timm_cost(name: str) -> float:
    """Million parameters times the image's area over 224x224; on the meta device, where nothing is computed."""
    import timm

    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    _, height, width = _input_size(model)
    return sum(p.numel() for p in model.parameters()) / 1e6 * height * width / 224**2


def build(name: str) -> Built:
    """The model called `name`, the same every time.

    Raises:
        TooLarge: it costs more than `MOST_COST`.
    """
    library, _, model_name = name.partition(":")
    torch.manual_seed(0)
    built = {"torchvision": _torchvision, "timm": _timm, "transformers": _transformers}[library](model_name)
    return Built(lively(built.model), built.size)


def _torchvision(name: str) -> Built:
    from torchvision import models

    with torch.device("meta"):
        parameters = sum(p.numel() for p in models.get_model(name, weights=None).parameters()) / 1e6
    if parameters > MOST_COST:
        raise TooLarge(f"{parameters:.0f} million parameters")
    weights = models.get_model_weights(name).DEFAULT
    side = 224
    if name == "inception_v3":
        side = 299
    if name.startswith("maxvit"):
        side = weights.transforms().crop_size[0]
    options = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    return Built(models.get_model(name, weights=None, **options), (3, side, side))


def _timm(name: str) -> Built:
    import timm

    model = timm.create_model(name, pretrained=False)
    return Built(model, _input_size(model))


def _input_size(model: Any) -> tuple[int, int, int]:
    """Channels, height and width that a timm model was made for."""
    channels, height, width = model.pretrained_cfg.get("input_size") or (3, 224, 224)
    return channels, height, width


def _transformers(name: str) -> Built:
    from transformers import AutoConfig, AutoModelForImageClassification

    config = AutoConfig.for_model(name, **{**TRANSFORMERS[name], "num_labels": 10})
    side = getattr(getattr(config, "vision_config", config), "image_size", None) or 224
    side = side[0] if isinstance(side, (list, tuple)) else side
    return Built(AutoModelForImageClassification.from_config(config), (3, side, side))


def lively(model: nn.Module) -> nn.Module:
    """The model in eval mode, with random numbers where untrained weights vanish.

    Heads that start at zero, zero weights of a residual branch's last normalisation and tiny scales of
    layers make an untrained model blind; trained ones have none.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.numel() or parameter.abs().max() >= 1e-2 or name.endswith("bias"):
                continue
            if not bool((parameter == parameter.flatten()[0]).all()):
                continue
            random = torch.rand(parameter.shape, generator=generator)
            parameter.copy_(
                0.5 + 0.5 * random if parameter.ndim <= 1 or _is_scale(parameter) else 0.1 * (random - 0.5)
            )
    return model.eval()


def _is_scale(parameter: Tensor) -> bool:
    """Whether it has one value per channel, as (1,C) or (C,1,1)."""
    return sum(n > 1 for n in parameter.shape) <= 1
