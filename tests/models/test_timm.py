"""Models of timm: their weights, their own preprocessing, their failed downloads."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from PIL import Image
from torch import nn

from cfcam_gpu.models import load_model
from cfcam_gpu.models.timm import preprocess_of
from tests.helpers.load_models import OTHERS, levels_apart, problem


def test_unknown_timm_tag_lists_the_choices() -> None:
    message = problem("timm:resnet18.nope")
    assert message.startswith("timm has no weights 'nope' for 'resnet18'; choose ")
    assert "a1_in1k" in message


def test_timm_untrained_takes_classes_and_timms_own_preprocessing(photos: list[Image.Image]) -> None:
    loaded = load_model("timm:resnet18@none", num_classes=3)
    assert loaded.model.num_classes == 3
    assert loaded.weights == "untrained (random, seed 0)"
    assert loaded.class_names is None
    config = timm.data.resolve_model_data_config(loaded.model)
    theirs = timm.data.create_transform(**config, is_training=False)
    assert levels_apart(loaded.preprocess, theirs, photos[0]) <= 1.001


@pytest.mark.parametrize(
    ("name", "resize"),
    [("resnet18", 235), ("tf_efficientnetv2_b0", 219), ("volo_d5_512", 512), ("dm_nfnet_f0", None)],
)
def test_timm_crops(name: str, resize: int | None) -> None:
    """Cropped from the shorter side, never beyond the image; "squash" keeps the whole image."""

    config = timm.get_pretrained_cfg(name)
    assert config is not None
    data_config = timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
    assert preprocess_of(data_config).resize == resize


def test_timm_pretrained_has_imagenet_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever timm fetches; here it makes the model without fetching."""
    create = timm.create_model

    def offline(name: str, *, pretrained: bool) -> nn.Module:
        assert pretrained
        return create(name, pretrained=False)

    monkeypatch.setattr(timm, "create_model", offline)
    loaded = load_model("timm:resnet18.tv_in1k")
    assert loaded.class_name(285) == "Egyptian cat"
    assert loaded.weights == "timm/resnet18.tv_in1k"
    assert loaded.preprocess.interpolation == "bilinear"


def test_timm_takes_own_weights_without_download(tmp_path: Path) -> None:
    trained = timm.create_model("resnet18", num_classes=2)
    safetensors.torch.save_file(trained.state_dict(), tmp_path / "w.safetensors")
    loaded = load_model("timm:resnet18", weights=tmp_path / "w.safetensors", num_classes=2)
    assert torch.equal(loaded.model.get_parameter("fc.weight"), trained.get_parameter("fc.weight"))


def test_timm_backbone_without_classifier_is_refused() -> None:
    assert problem("timm:vit_small_patch14_dinov2") == (
        "timm:vit_small_patch14_dinov2 has no classifier of its own; "
        "pass --num-classes N and --weights FILE, trained"
    )


@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError(
            "An error happened while trying to locate the file.\nPlease check your connection"
        ),
        OfflineModeIsEnabled("Cannot reach the hub: offline mode is enabled."),
    ],
)
def test_failed_timm_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr("timm.models._hub.hf_hub_download", fail)
    reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    assert problem("timm:resnet18") == (
        f"timm:resnet18: the weights timm/resnet18.a1_in1k could not be downloaded ({reason}); {OTHERS}"
    )
