"""The packaged model: its classes, its weights, its architecture with other weights."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from cfcam_gpu.models import LoadedModel, load_model


def test_packaged_model_knows_the_cat_and_the_coffee(lite0: LoadedModel, photos: list[Image.Image]) -> None:
    batch = torch.stack([lite0.preprocess(photo) for photo in photos[:2]])
    with torch.no_grad():
        probability, index = lite0.model(batch).softmax(1).max(1)
    assert index.tolist() == [285, 967]
    assert [lite0.class_name(i) for i in index.tolist()] == ["Egyptian cat", "espresso"]
    assert (probability > torch.tensor([0.7, 0.85])).all()
    assert not lite0.model.training
    assert (lite0.spec, lite0.weights) == ("efficientnet-lite0", "ImageNet-1k (packaged)")


def test_packaged_architecture_takes_own_weights(tmp_path: Path, lite0: LoadedModel) -> None:
    state = {
        key: value[:5] if key.startswith("_fc") else value for key, value in lite0.model.state_dict().items()
    }
    torch.save(state, tmp_path / "five.pth")
    loaded = load_model("efficientnet-lite0", weights=tmp_path / "five.pth", num_classes=5)
    image = torch.zeros(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(image), lite0.model(image)[:, :5])
    assert loaded.class_names is None
