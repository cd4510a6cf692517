"""Every kind of image classifier that torchvision, timm and transformers have, untrained, for `bench.models`.

A model's name is its library and its name there: `torchvision:resnet18`, `timm:vit_tiny_patch16_224`,
`transformers:SwinForImageClassification`. Weights are random and the same every time.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cfcam_gpu.capture.scoring import Scoring

#: Most million parameters times the image's area over 224x224 that a model of timm may have, to run in seconds.
MOST_COST = 150.0

#: Height and width of the images, in pixels, where a model takes them; others get the size they were made for.
SIDE = 160

#: Fewer blocks for those families of timm of which even the smallest model is larger than `MOST_COST`.
FEWER_BLOCKS: dict[str, dict[str, Any]] = {
    "deepseek_vit_412m": {"depth": 4},
    "gemma4_vit_167m": {"depth": 4},
    "qwen3_vit_88m": {"depth": 4},
    "naflexvit_base_patch16_gap": {"depth": 4},
    "nasnetalarge": {},
    "pnasnet5large": {},
}

_PATCHES = {
    "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96,
    "image_size": 64, "patch_size": 8,
}  # fmt: skip
_WINDOWS = {"image_size": 64, "patch_size": 2, "embed_dim": 24, "depths": [1, 1, 2], "num_heads": [2, 2, 4]}
_STAGES = {"hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 2, 1]}
_BOTTLENECKS = {"embedding_size": 16, "hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 2, 1]}
_PERCEIVER = {
    "num_latents": 16, "d_latents": 32, "num_blocks": 1, "num_self_attends_per_block": 2, "image_size": 56,
    "num_self_attention_heads": 1, "num_cross_attention_heads": 1,
}  # fmt: skip

#: The classes of transformers that classify pixels -> options of a small configuration. Left out are those that
#: take no pixels (ImageGPT, SigLIP 2, ShieldGemma 2) and DiNAT, which needs a library for NVIDIA GPUs.
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "BeitForImageClassification": _PATCHES,
    "BitForImageClassification": {**_BOTTLENECKS, "embedding_size": 32, "num_groups": 8},
    "CLIPForImageClassification": {"vision_config": _PATCHES},
    "ConvNextForImageClassification": _STAGES,
    "ConvNextV2ForImageClassification": _STAGES,
    "CvtForImageClassification": {"embed_dim": [16, 32, 64], "num_heads": [1, 2, 4], "depth": [1, 2, 3]},
    "Data2VecVisionForImageClassification": _PATCHES,
    "DeiTForImageClassification": _PATCHES,
    "DeiTForImageClassificationWithTeacher": _PATCHES,
    "Dinov2ForImageClassification": {**_PATCHES, "mlp_ratio": 2},
    "Dinov2WithRegistersForImageClassification": {**_PATCHES, "mlp_ratio": 2},
    "DonutSwinForImageClassification": _WINDOWS,
    "EfficientNetForImageClassification": {
        "image_size": 128, "width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640,
    },
    "FocalNetForImageClassification": {
        "image_size": 64, "patch_size": 2, "embed_dim": 24, "depths": [1, 1, 2, 1],
    },
    "HGNetV2ForImageClassification": {},
    "HieraForImageClassification": {"embed_dim": 24, "num_heads": [1, 1, 2, 4], "depths": [1, 1, 2, 1]},
    "IJepaForImageClassification": _PATCHES,
    "LevitForImageClassification": {},
    "LevitForImageClassificationWithTeacher": {},
    "MetaClip2ForImageClassification": {"vision_config": _PATCHES},
    "MobileNetV1ForImageClassification": {},
    "MobileNetV2ForImageClassification": {},
    "MobileViTForImageClassification": {"image_size": 128},
    "MobileViTV2ForImageClassification": {"image_size": 128},
    "PerceiverForImageClassificationConvProcessing": _PERCEIVER,
    "PerceiverForImageClassificationFourier": _PERCEIVER,
    "PerceiverForImageClassificationLearned": _PERCEIVER,
    "PoolFormerForImageClassification": _STAGES,
    "PPLCNetForImageClassification": {},
    "PvtForImageClassification": {},
    "PvtV2ForImageClassification": {},
    "RegNetForImageClassification": {**_BOTTLENECKS, "groups_width": 16},
    "ResNetForImageClassification": _BOTTLENECKS,
    "SegformerForImageClassification": {},
    "SiglipForImageClassification": {"vision_config": _PATCHES},
    "SwiftFormerForImageClassification": {},
    "SwinForImageClassification": _WINDOWS,
    "Swinv2ForImageClassification": {**_WINDOWS, "window_size": 4},
    "TextNetForImageClassification": {"image_size": 160},
    "TimmWrapperForImageClassification": {"architecture": "resnet18"},
    "ViTForImageClassification": _PATCHES,
    "ViTMSNForImageClassification": _PATCHES,
}  # fmt: skip


@dataclass(frozen=True)
class Built:
    """A model in eval mode, and the size (channels,H,W) of its images."""

    model: nn.Module
    size: tuple[int, int, int]


def torchvision_names() -> list[str]:
    """All classifiers of torchvision, the one of the fewest parameters first."""
    from torchvision import models

    names = models.list_models(module=models)
    counts = {name: models.get_model_weights(name).DEFAULT.meta["num_params"] for name in names}
    return [f"torchvision:{name}" for name in sorted(names, key=lambda name: counts[name])]


def timm_names(costs: Mapping[str, float], per_family: int) -> list[str]:
    """The cheapest of each module of timm, and of each first word of the names in it; the cheapest first.

    Args:
        costs: of all models, as `timm_cost` gives them; those above `MOST_COST` are left out, except for
            the ones with `FEWER_BLOCKS`.
        per_family: so many of each module.
    """
    import timm
    from timm.models import _registry

    chosen: list[str] = []
    counts: Counter[str] = Counter()
    for name in sorted(timm.list_models(), key=lambda name: (costs[name], name)):
        if costs[name] > MOST_COST and name not in FEWER_BLOCKS:
            continue
        module = _registry._model_to_module[name]
        groups = (module, f"{module}:{re.split(r'[_0-9]', name)[0]}")
        if counts[groups[0]] < per_family or not counts[groups[1]]:
            chosen.append(name)
        counts.update(groups)
    return [f"timm:{name}" for name in chosen]


def transformers_names() -> list[str]:
    """The classes of transformers that classify pixels."""
    return [f"transformers:{name}" for name in TRANSFORMERS]


def timm_cost(name: str) -> float:
    """Million parameters times the image's area over 224x224; on the meta device, where nothing is computed."""
    import timm

    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    _, height, width = _input_size(model)
    return sum(p.numel() for p in model.parameters()) / 1e6 * height * width / 224**2


def build(name: str) -> Built:
    """The model called `name`, the same every time."""
    library, _, model_name = name.partition(":")
    make = {"torchvision": _torchvision, "timm": _timm, "transformers": _transformers}[library]
    built = make(model_name)
    model = lively(built.model)
    _calibrate(model, built.size)
    if not _puts_out_numbers(model, built.size):
        # Bilinear attention multiplies what has grown by itself.
        model = lively(make(model_name).model)
    return Built(model, built.size)


def images_of(size: tuple[int, int, int]) -> Tensor:
    """(2,channels,H,W): the two images with which a model is examined."""
    return torch.randn(2, *size, generator=torch.Generator().manual_seed(0))


def _puts_out_numbers(model: nn.Module, size: tuple[int, int, int]) -> bool:
    with torch.no_grad():
        logits = Scoring().logits(model(images_of(size)[:1]))
    return bool(logits.isfinite().all())


def _torchvision(name: str) -> Built:
    from torchvision import models

    options: dict[str, Any] = {}
    if name in ("inception_v3", "googlenet"):
        options = {"init_weights": False}
    side = {"maxvit_t": 224, "vit_h_14": 154}.get(name, SIDE)
    if name.startswith("vit"):
        options = {"image_size": side}
    torch.manual_seed(0)
    return Built(models.get_model(name, weights=None, **options), (3, side, side))


def _timm(name: str) -> Built:
    """At `SIDE`, or 154 for patches of 14, where the model can be made for this size and runs."""
    import timm

    options = {"num_classes": 1000, **FEWER_BLOCKS.get(name, {})}  # some have no head unless asked for
    attempts: list[tuple[int, dict[str, Any]]] = [(side, {"img_size": side}) for side in (SIDE, 154)]
    for side, more in [*attempts, (SIDE, {})]:
        with contextlib.suppress(Exception):
            torch.manual_seed(0)
            model = timm.create_model(name, pretrained=False, **options, **more).eval()
            channels, height, width = _input_size(model)
            if min(height, width) < side:
                break
            with torch.no_grad():
                model(torch.rand(1, channels, side, side))
            return Built(model, (channels, side, side))
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, **options)
    return Built(model, _input_size(model))


def _input_size(model: Any) -> tuple[int, int, int]:
    """Channels, height and width that a timm model was made for."""
    channels, height, width = model.pretrained_cfg.get("input_size") or (3, 224, 224)
    return channels, height, width


def _transformers(name: str) -> Built:
    import transformers

    kind = getattr(transformers, name)
    config = kind.config_class(**TRANSFORMERS[name], num_labels=10)
    side = getattr(getattr(config, "vision_config", config), "image_size", None) or SIDE
    side = side[0] if isinstance(side, (list, tuple)) else side
    torch.manual_seed(0)
    return Built(kind(config), (3, side, side))


def lively(model: nn.Module) -> nn.Module:
    """The model in eval mode, with random numbers where untrained weights vanish.

    Heads that start at zero, zero weights of a residual branch's last normalisation, tiny scales of layers and
    convolutions with tiny weights make an untrained model blind; trained ones have none.
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
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.weight[0].numel() > 1:
                # PyTorch's own deviation of a fresh convolution.
                least = (3 * module.weight[0].numel()) ** -0.5
                module.weight.mul_((least / module.weight.std()).clamp(1, 1e4))
    return model.eval()


def _calibrate(model: nn.Module, size: tuple[int, int, int]) -> None:
    """Gives batch normalisations the statistics of four made-up images.

    With those of untrained ones, mean 0 and variance 1, signals shrink from layer to layer, and deep models
    put out the same for every image.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    norms = [module for module in norms if module.track_running_stats]
    generator = torch.Generator().manual_seed(2)
    coarse = torch.randn(4, size[0], 5, 5, generator=generator)
    images = nn.functional.interpolate(coarse, size[1:], mode="bilinear")
    images += 0.3 * torch.randn(images.shape, generator=generator)
    momenta = [module.momentum for module in norms]
    for module in norms:
        module.train()
        module.momentum = 1.0
    if norms:
        with torch.no_grad():
            model(images)
    for module, momentum in zip(norms, momenta, strict=True):
        module.momentum = momentum
        module.eval()
        mean, variance = module.running_mean, module.running_var
        assert mean is not None
        assert variance is not None
        # Channels that hardly vary would come out as rounding errors.
        variance.copy_(torch.maximum(variance, torch.maximum(0.1 * variance.mean(), 1e-2 * mean.square())))


def _is_scale(parameter: Tensor) -> bool:
    """Whether it has one value per channel, as (1,C) or (C,1,1)."""
    return sum(n > 1 for n in parameter.shape) <= 1
