"""More heatmaps of a batch, for the metrics that disturb something."""

from __future__ import annotations

import pytest
import torch

from cfcam_gpu.evaluation.maps import BatchMaps, normaliser
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.images.preprocess import Preprocess
from tests.helpers.smallnet import make_loaded


def test_more_maps_of_a_batch_agree_with_its_own():
    loaded = make_loaded()
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    preprocess = Preprocess((32, 32), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    normalise = normaliser(preprocess)
    targets = loaded.model(normalise(images)).argmax(1)
    for method in ("cfcam", "gradcam"):
        cam = CFCAM(loaded.model, "conv:relu", engine="auto", method=method)
        features = cam.features(normalise(images), targets)
        own = cam.explain(features).heatmap
        maps = BatchMaps(cam, features, normalise, batch_size=2)
        assert maps.gradients is not None
        torch.testing.assert_close(maps.of_gradients(maps.gradients), own, rtol=0, atol=0)
        torch.testing.assert_close(maps.of_images(images, targets), own, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(maps.of_model(make_loaded().model), own, rtol=1e-4, atol=1e-5)
        both = maps.of_images(images, torch.stack([targets, (targets + 1) % 3], 1))
        torch.testing.assert_close(both[:, 0], own, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(both[:, 1], own, atol=1e-2)
    eigen = BatchMaps(CFCAM(loaded.model, "conv:relu", method="eigencam"), features, normalise, 2)
    assert eigen.gradients is None, "gradient noise must not make it look robust"


def test_normalising_floats_is_normalising_bytes():
    preprocess = Preprocess((8, 8), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    views = torch.randint(0, 256, (2, 8, 8, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images = views.permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(normaliser(preprocess)(images), preprocess.normalise(views), rtol=0, atol=0)


def test_every_further_map_can_be_ended():
    """Also by methods that run no model themselves, whose maps take their time on large batches."""

    def check() -> None:
        raise KeyboardInterrupt

    model, images = make_loaded().model, torch.rand(2, 3, 32, 32)
    cam = CFCAM(model, "conv:relu", method="gradcam")
    maps = BatchMaps(cam, cam.features(images), lambda x: x, 2, check)
    with pytest.raises(KeyboardInterrupt):
        maps.of_gradients(maps.features.gradients[:, 0])
    with pytest.raises(KeyboardInterrupt):
        maps.of_images(images, torch.tensor([0, 1]))
    with pytest.raises(KeyboardInterrupt):
        maps.of_model(model)
