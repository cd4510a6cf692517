"""cfcam-sharp beside a plain reference of its steps, and the cases in which they are undefined."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import softmax
from torch import Tensor, nn

from cfcam_gpu import CFCAM, CaptureError
from cfcam_gpu.methods import sharp
from tests.helpers.method_cases import CLOSE, Deeper, explain

#: The equivalence contract: maps within this of their maximum.
TOLERANCE = 1e-4


def reference(class_map: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Grid (h,w) of a class map (h,w), and the earlier layer's features (C,h,w), in float64, place by place."""
    places = features.reshape(len(features), -1).T.astype(np.float64)
    places = places - places.mean(0)
    norms = np.sqrt((places**2).sum(1))
    values, spread = class_map.ravel().astype(np.float64), np.zeros(class_map.size)
    for i in np.flatnonzero(norms):
        cosines = places @ places[i] / np.where(norms, norms * norms[i], np.inf)
        likeness = np.where(cosines > 0, cosines, 0) ** 2
        spread[i] = (likeness * values).sum() / likeness.sum()
    highest = spread.max()
    if highest > 0:
        share = spread / highest
        spread = highest * share**6 / (share**6 + 0.5**6) * (1 + 0.5**6)
    return spread.reshape(class_map.shape)


def plain_grid(cams: tuple[CFCAM, CFCAM], image: Tensor, target: int) -> np.ndarray:
    """The reference's grid of one image, from features that two plain captures give.

    The contrast is made of the gradients of every class, one after the other.
    """
    late, early = (cam.features(image[None], [target]) for cam in cams)
    logits = late.logits[0].double().numpy()
    share = softmax(logits / 2)
    classes = torch.arange(len(logits))[None]
    of_all = cams[0].features(image[None], classes).gradients[0].double().numpy()
    gradient = of_all[target] - np.tensordot(share, of_all, 1)
    activations = late.activations[0].double().numpy()
    class_map = np.maximum((gradient.mean((1, 2))[:, None, None] * activations).sum(0), 0)
    size = early.activations.shape[2:]
    upsampled = F.interpolate(torch.from_numpy(class_map)[None, None], size=size, mode="bilinear")[0, 0]
    return reference(upsampled.numpy(), early.activations[0].numpy())


def test_the_map_equals_the_reference(net, images):
    cams = CFCAM(net, "conv:relu", method="gradcam"), CFCAM(net, "stem", method="gradcam")
    found = explain(net, "cfcam-sharp", images, [0, 1, 2, 1], finer_layer="stem").grid
    for image, target, grid in zip(images, (0, 1, 2, 1), found, strict=True):
        expected = torch.from_numpy(plain_grid(cams, image, target)).float()
        assert expected.max() > 0
        torch.testing.assert_close(grid, expected, rtol=0, atol=TOLERANCE * float(expected.max()))


def test_real_features_equal_the_reference(lite0, photo_batch):
    """At this head every class's gradient is the same in all places: its weights, over the number of places."""
    cam, photos = CFCAM(lite0.model, method="cfcam-sharp"), photo_batch[:3]
    found = cam(photos, [285, 967, 670]).grid
    late = CFCAM(lite0.model, cam.layer_name, method="gradcam").features(photos, [285, 967, 670])
    early = CFCAM(lite0.model, cam.finer_layer_name, method="gradcam").features(photos).activations
    of_classes = lite0.model._fc.weight.detach() / late.activations[0, 0].numel()
    for i, target in enumerate((285, 967, 670)):
        weights = of_classes[target] - (late.logits[i] / 2).softmax(0) @ of_classes
        class_map = torch.einsum("c,chw->hw", weights, late.activations[i]).relu()
        upsampled = F.interpolate(class_map[None, None], size=early.shape[2:], mode="bilinear")[0, 0]
        expected = torch.from_numpy(reference(upsampled.numpy(), early[i].numpy())).float()
        torch.testing.assert_close(found[i], expected, rtol=0, atol=TOLERANCE * float(expected.max()))


def test_one_forward_pass_and_no_gradient_at_the_earlier_layer(net, images):
    with CFCAM(net, "conv:relu", method="cfcam-sharp", finer_layer="stem") as cam:
        first = cam(images, 1)
        runs: list[int] = []
        handle = net.register_forward_hook(lambda *_: runs.append(1))
        features = cam.features(images, 1)
        handle.remove()
    assert len(runs) == 1
    assert features.finer is not None
    assert features.finer.gradients.shape[1] == 0
    torch.testing.assert_close(cam.explain(features).grid, first.grid, **CLOSE)
    later = cam.explain(CFCAM(net, "conv:relu", method="gradcam").features(images, 1))
    torch.testing.assert_close(later.grid, first.grid, **CLOSE)


def test_rows_in_parts_give_the_same_map(net, images, monkeypatch):
    expected = explain(net, "cfcam-sharp", images, 1, finer_layer="stem").grid
    monkeypatch.setattr(sharp, "_MOST", 4 * 1024 * 100)  # of 1,024 places 100 at a time
    torch.testing.assert_close(
        explain(net, "cfcam-sharp", images, 1, finer_layer="stem").grid, expected, **CLOSE
    )


def test_one_class_is_explained_by_its_score_alone(images):
    class One(Deeper):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(24, 1)
            nn.init.ones_(self.head.weight)

    one = One().eval()
    class_map = explain(one, "gradcam", images, 0).grid
    early = CFCAM(one, "stem", method="gradcam").features(images, 0).activations
    upsampled = F.interpolate(class_map[:, None], size=(32, 32), mode="bilinear")[:, 0]
    for grid, plain, features in zip(
        explain(one, "cfcam-sharp", images, 0, finer_layer="stem").grid, upsampled, early, strict=True
    ):
        expected = torch.from_numpy(reference(plain.numpy(), features.numpy())).float()
        torch.testing.assert_close(grid, expected, rtol=0, atol=TOLERANCE * float(expected.max()))


def test_a_function_is_explained_as_it_is(net, images):
    """The target's score less that of all classes, written out, has the map of the class."""

    def contrasted(logits: Tensor) -> Tensor:
        return logits[1] - 2 * (logits / 2).logsumexp(0)

    found = explain(net, "cfcam-sharp", images, contrasted, finer_layer="stem").grid
    torch.testing.assert_close(
        found, explain(net, "cfcam-sharp", images, 1, finer_layer="stem").grid, **CLOSE
    )


def test_places_without_features_and_equal_places():
    """Dead places get nothing; where all places are equal no correlation is defined, and the map is blank."""
    features = torch.zeros(2, 3, 2, 2)
    features[0, :, 0] = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    features[1] = 0.1 + torch.tensor([5.1, 0.3, 7.7])[:, None, None]
    spread = sharp._spread(torch.ones(2, 1, 2, 2), features)
    assert spread[0].max() == 1
    assert not spread[1].any()
    assert torch.isfinite(spread).all()


def test_no_earlier_layer_is_an_error():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(CaptureError, match="has maps of twice its resolution"):
        CFCAM(model, "1", method="cfcam-sharp")(torch.rand(1, 3, 8, 8))


def test_the_contrast_tells_classes_apart(net, images):
    """The maps of two classes are less alike than Grad-CAM's."""
    sharp_maps = explain(net, "cfcam-sharp", images, [[0, 1]] * 4, finer_layer="stem")
    both = [found.heatmap.flatten(2) for found in (sharp_maps, explain(net, "gradcam", images, [[0, 1]] * 4))]
    alike = [float(torch.stack([torch.corrcoef(pair)[0, 1] for pair in maps]).mean()) for maps in both]
    assert alike[0] < alike[1]
