"""Image classifiers of transformers from folders: pixels as their processors make them, names, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from cfcam_gpu import CFCAM
from cfcam_gpu.errors import ModelError
from cfcam_gpu.images.preprocess import Preprocess
from cfcam_gpu.models import load_model
from cfcam_gpu.models.huggingface import preprocess_of
from tests.helpers.load_models import Trap, problem

NAMES = {0: "normal", 1: "pneumonia", 2: "effusion"}


def _vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=64,
        patch_size=8, id2label=NAMES,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


def _resnet() -> nn.Module:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=NAMES
    )
    return transformers.ResNetForImageClassification(config)


def _swin() -> nn.Module:
    config = transformers.SwinConfig(
        image_size=64,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1],
        num_heads=[1, 2],
        window_size=4,
        id2label=NAMES,
    )
    return transformers.SwinForImageClassification(config)


_SIZE = {"height": 64, "width": 64}

#: Model, its processor, what the processor does, and a layer with the function that makes maps of its output.
CASES: dict[str, tuple[Callable[[], nn.Module], Any, Preprocess, str, Any]] = {
    "vit": (
        _vit,
        lambda: transformers.ViTImageProcessor(size=_SIZE),
        Preprocess((64, 64), (0.5,) * 3, (0.5,) * 3),
        "vit.layers.0",
        lambda out: out[:, 1:].transpose(1, 2).unflatten(2, (8, 8)),
    ),
    "resnet": (
        _resnet,
        lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875),
        Preprocess((64, 64), (0.5,) * 3, (0.5,) * 3, 73, "bicubic"),
        "resnet.encoder.stages.1",
        None,
    ),
    "swin": (
        _swin,
        lambda: transformers.DeiTImageProcessor(
            size={"height": 72, "width": 80}, crop_size=_SIZE, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
        ),
        Preprocess((64, 64), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (72, 80), "bicubic"),
        "swin.layernorm",
        lambda out: out.transpose(1, 2).unflatten(2, (8, 8)),
    ),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    def saved(name: str) -> Path:
        torch.manual_seed(5)
        make, processor, *_ = CASES[name]
        make().save_pretrained(tmp_path)  # type: ignore[operator]
        processor().save_pretrained(tmp_path)
        return tmp_path

    return saved


def _photo() -> Image.Image:
    levels = np.random.default_rng(7).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((200, 150), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("name", CASES)
def test_a_folder_gives_the_processors_pixels_and_the_models_map(
    folder: Callable[[str], Path], name: str
) -> None:
    place = folder(name)
    loaded = load_model(f"hf:{place}")
    _, _, preprocess, layer, reshape = CASES[name]
    assert loaded.preprocess == preprocess
    assert loaded.class_names == tuple(NAMES.values())
    processor = transformers.AutoImageProcessor.from_pretrained(place)
    pixels = processor(images=_photo(), return_tensors="pt")["pixel_values"]
    std = torch.tensor(preprocess.std).view(3, 1, 1)
    levels = (loaded.preprocess(_photo()) - pixels[0]).abs() * std * 255
    assert float(levels.mean()) < 0.3
    assert float(levels.max()) < 3
    model = transformers.AutoModelForImageClassification.from_pretrained(place).eval()
    assert not loaded.model.training
    explained = [
        CFCAM(one, layer, reshape_transform=reshape, engine="torch")(image)
        for one, image in ((loaded.model, loaded.preprocess(_photo())[None]), (model, pixels))
    ]
    torch.testing.assert_close(explained[0].logits, explained[1].logits, atol=2e-3, rtol=0)
    assert not bool(explained[1].blank)
    torch.testing.assert_close(explained[0].heatmap, explained[1].heatmap, atol=0.05, rtol=0)
    # The same pixels give the same map.
    same = CFCAM(loaded.model, layer, reshape_transform=reshape, engine="torch")(pixels)
    assert torch.equal(same.heatmap, explained[1].heatmap)


def test_the_layer_is_chosen_for_a_model_from_a_folder(folder: Callable[[str], Path]) -> None:
    loaded = load_model(f"hf:{folder('vit')}")
    cam = CFCAM(loaded.model, engine="torch")
    assert cam(loaded.preprocess(_photo())[None]).grid.shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        # Normalises twice, the second time by the standard deviation alone.
        (
            transformers.EfficientNetImageProcessor(size=_SIZE, include_top=True),
            Preprocess((64, 64), (0.5,) * 3, (0.25,) * 3, None, "bicubic"),
        ),
        # Divides by 127.5 and takes 1 away, where others divide by 255.
        (
            transformers.EfficientNetImageProcessor(
                size=_SIZE,
                rescale_factor=1 / 127.5,
                rescale_offset=True,
                do_normalize=False,
                include_top=False,
            ),
            Preprocess((64, 64), (0.5,) * 3, (0.5,) * 3, None, "bicubic"),
        ),
        (
            transformers.LevitImageProcessor(size={"shortest_edge": 70}, crop_size=_SIZE),
            Preprocess((64, 64), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 80, "bicubic"),
        ),
        (
            transformers.ViTImageProcessor(size=_SIZE, do_normalize=False),
            Preprocess((64, 64), (0.0,) * 3, (1.0,) * 3),
        ),
    ],
)
def test_processors_with_ways_of_their_own(processor: Any, expected: Preprocess) -> None:
    assert preprocess_of(processor, "its processor") == expected


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (
            transformers.MobileViTImageProcessor(),
            r"^hf:mine: its processor prepares images in a way that cfcam cannot repeat \(the pixels "
            r"differ by \d+\.\d of 255 on average\); in Python, call CFCAM with the tensors that it makes$",
        ),
        (
            transformers.ViTImageProcessor(size={"shortest_edge": 64}),
            r"^hf:mine: its processor makes inputs of shape \(3, \d+, \d+\) or another; expected three "
            "channels and one size for all images$",
        ),
    ],
)  # fmt: skip
def test_processors_that_cannot_be_repeated(processor: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        preprocess_of(processor, "hf:mine: its processor")


def test_placeholders_are_no_class_names(folder: Callable[[str], Path]) -> None:
    place = folder("vit")
    config = transformers.AutoConfig.from_pretrained(place, num_labels=3)
    config.id2label = {index: f"LABEL_{index}" for index in range(3)}
    config.save_pretrained(place)
    assert load_model(f"hf:{place}").class_names is None


def test_own_weights_of_another_number_of_classes(folder: Callable[[str], Path], tmp_path: Path) -> None:
    place = folder("resnet")
    model = load_model(f"hf:{place}").model
    state: dict[str, Tensor] = dict(model.state_dict())
    state["classifier.1.weight"], state["classifier.1.bias"] = torch.ones(2, 16), torch.zeros(2)
    torch.save({"state_dict": {f"net.{name}": value for name, value in state.items()}}, tmp_path / "own.pth")
    loaded = load_model(f"hf:{place}", weights=tmp_path / "own.pth", num_classes=2)
    assert bool((loaded.model.get_parameter("classifier.1.weight") == 1).all())
    assert loaded.class_names is None
    assert problem(f"hf:{place}", num_classes=2).startswith(f"2 classes give hf:{place} an untrained head")


def test_weights_that_hold_code_are_not_loaded(folder: Callable[[str], Path]) -> None:
    place = folder("vit")
    (place / "model.safetensors").unlink()
    torch.save({"a": Trap(place / "sprung")}, place / "pytorch_model.bin")
    assert problem(f"hf:{place}").startswith(f"hf:{place}: the weights cannot be loaded (")
    assert not (place / "sprung").exists()


def test_folders_that_hold_no_classifier(folder: Callable[[str], Path]) -> None:
    place = folder("vit")
    transformers.ViTModel(transformers.AutoConfig.from_pretrained(place)).save_pretrained(place)
    assert problem(f"hf:{place}") == (
        f"hf:{place} is ViTModel without trained weights for classifier.bias, classifier.weight, so it is no image "
        "classifier yet; give one whose head is trained"
    )
    transformers.BertConfig(architectures=["BertModel"]).save_pretrained(place)
    assert problem(f"hf:{place}") == (
        f"hf:{place} is BertModel, which is no image classifier; expected one with a trained head"
    )
    (place / "preprocessor_config.json").unlink()
    message = problem(f"hf:{place}")
    assert message.startswith(f"hf:{place}: preprocessor_config.json cannot be loaded (")
    assert message.endswith("; processor.save_pretrained(FOLDER) writes it")
    (place / "config.json").unlink()
    assert problem(f"hf:{place}") == (
        f"hf:{place}: the folder has no config.json; give one that model.save_pretrained(FOLDER) wrote"
    )
    assert problem(f"hf:{place}/nowhere") == (
        f"hf:{place}/nowhere: there is no such folder, and a name on the hub is like microsoft/resnet-50"
    )
