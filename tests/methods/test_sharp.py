"""cfcam-sharp beside a plain reference of its steps, and the cases in which they are undefined."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfcam_gpu import CFCAM, CaptureError
from cfcam_gpu.errors import ConfigError
from cfcam_gpu.methods import METHODS, sharp
from tests.helpers.method_cases import CLOSE, Deeper, explain

#: The equivalence contract: maps within this of their maximum.
TOLERANCE = 1e-4


def spread(class_map: np.ndarray, features: np.ndarray) -> np.ndarray:
    """A class map (h,w) spread over places whose features (C,h,w) are alike, in float64, place by place."""
    places = features.reshape(len(features), -1).T.astype(np.float64)
    places = places - places.mean(0)
    norms = np.sqrt((places**2).sum(1))
    values, means = class_map.ravel().astype(np.float64), np.zeros(class_map.size)
    for i in np.flatnonzero(norms):
        cosines = places @ places[i] / np.where(norms, norms * norms[i], np.inf)
        likeness = np.where(cosines > 0, cosines, 0) ** 2
        means[i] = (likeness * values).sum() / likeness.sum()
    return means.reshape(class_map.shape)


def reference(class_map: np.ndarray, features: np.ndarray, gradients: np.ndarray) -> Tensor:
    """Grid (h,w) of a class map (h,w), and the earlier layer's features and gradients (C,h,w), channel by channel."""
    wide, evidence = spread(class_map, features), np.zeros(class_map.shape)
    for positive in np.maximum(features.astype(np.float64) * gradients, 0):
        norm = np.linalg.norm(positive) * np.linalg.norm(wide)
        if norm > 0:
            evidence += ((positive * wide).sum() / norm) ** 2 * positive
    grid = wide * (0.5 + 0.5 * np.sqrt(evidence / (evidence.max() or 1)))
    share = grid / (grid.max() or 1)
    curve = share**6 / (share**6 + 0.375**6) * (1 + 0.375**6)
    return torch.from_numpy(grid.max() * curve).float()


def upsampled(class_map: Tensor, like: Tensor) -> np.ndarray:
    """A map (h,w) at the size of the features (C,h',w')."""
    size = like.shape[1:]
    return F.interpolate(class_map[None, None], size=size, mode="bilinear")[0, 0].numpy()


def contrasted(of_classes: Tensor, logits: Tensor, target: int) -> Tensor:
    """The gradient of the target's score against all others, from those of every class (classes,...)."""
    share = (logits / 2).masked_fill(torch.arange(len(logits)) == target, -torch.inf).softmax(0)
    return of_classes[target] - torch.tensordot(share, of_classes, 1)


def test_the_map_equals_the_reference(net, images):
    """The contrast is made of the gradients of every class, one after the other."""
    cams = CFCAM(net, "conv:relu", method="gradcam"), CFCAM(net, "stem", method="gradcam")
    found = explain(net, "cfcam-sharp", images, [0, 1, 2, 1], finer_layer="stem").grid
    late, early = (cam.features(images, [[0, 1, 2]] * 4) for cam in cams)
    for i, target in enumerate((0, 1, 2, 1)):
        weights = contrasted(late.gradients[i], late.logits[i], target).mean((1, 2))
        class_map = torch.einsum("c,chw->hw", weights, late.activations[i]).relu()
        gradients = contrasted(early.gradients[i], early.logits[i], target).numpy()
        features = early.activations[i]
        expected = reference(upsampled(class_map, features), features.numpy(), gradients)
        assert expected.max() > 0
        torch.testing.assert_close(found[i], expected, rtol=0, atol=TOLERANCE * float(expected.max()))


def test_real_features_equal_the_reference(lite0, photo_batch):
    """At this head every class's gradient is the same in all places: its weights, over the number of places."""
    cam, photos, targets = CFCAM(lite0.model, method="cfcam-sharp"), photo_batch[:3], [285, 967, 670]
    found = cam(photos, targets).grid
    late = CFCAM(lite0.model, cam.layer_name, method="gradcam").features(photos, targets)

    def against_others(target: int) -> Callable[[Tensor], Tensor]:
        others = torch.arange(1000) != target
        return lambda logits: logits[target] - 2 * (logits[others] / 2).logsumexp(0)

    early = CFCAM(lite0.model, cam.finer_layer_name, method="gradcam").features(
        photos, [against_others(target) for target in targets]
    )
    of_classes = lite0.model._fc.weight.detach() / late.activations[0, 0].numel()
    for i, target in enumerate(targets):
        weights = contrasted(of_classes, late.logits[i], target)
        class_map = torch.einsum("c,chw->hw", weights, late.activations[i]).relu()
        features, gradients = early.activations[i], early.gradients[i, 0].numpy()
        expected = reference(upsampled(class_map, features), features.numpy(), gradients)
        torch.testing.assert_close(found[i], expected, rtol=0, atol=TOLERANCE * float(expected.max()))


def test_one_forward_pass_and_features_of_other_methods(net, images):
    with CFCAM(net, "conv:relu", method="cfcam-sharp", finer_layer="stem") as cam:
        first = cam(images, 1)
        runs: list[int] = []
        handle = net.register_forward_hook(lambda *_: runs.append(1))
        features = cam.features(images, 1)
        handle.remove()
    assert len(runs) == 1
    torch.testing.assert_close(cam.explain(features).grid, first.grid, **CLOSE)
    plain = CFCAM(net, "conv:relu", method="gradcam")
    torch.testing.assert_close(cam.explain(plain.features(images, 1)).grid, first.grid, **CLOSE)
    torch.testing.assert_close(plain.explain(features).grid, plain(images, 1).grid, **CLOSE)


def test_rows_in_parts_give_the_same_map(net, images, monkeypatch):
    expected = explain(net, "cfcam-sharp", images, 1, finer_layer="stem").grid
    monkeypatch.setattr(sharp, "_MOST", 4 * 1024 * 100)  # of 1,024 places 100 at a time
    torch.testing.assert_close(
        explain(net, "cfcam-sharp", images, 1, finer_layer="stem").grid, expected, **CLOSE
    )


def test_the_kernels_give_the_map_of_pytorch(net, images, device):
    """Two targets; the kernels are taken when they are asked for, and only then."""
    pixels, targets, maps = images[:2].to(device), [[0, 1]] * 2, {}
    for engine in ("torch", "triton"):
        with CFCAM(
            copy.deepcopy(net).to(device),
            "conv:relu",
            engine=engine,
            method="cfcam-sharp",
            finer_layer="stem",
        ) as cam:
            found = cam(pixels, targets)
        assert found.engine == engine
        maps[engine] = found.grid.cpu()
    assert not torch.equal(maps["triton"], maps["torch"])
    torch.testing.assert_close(
        maps["triton"], maps["torch"], rtol=0, atol=TOLERANCE * float(maps["torch"].max())
    )
    sharp_method = METHODS["cfcam-sharp"]
    for name, kind in itertools.product(("auto", "torch"), ("cuda", "cpu")):
        assert sharp_method.engine(name, torch.device(kind)) == "torch"
    with pytest.raises(ConfigError, match=r"cfcam-sharp runs in PyTorch, engine auto or triton$"):
        sharp_method.engine("reference", torch.device("cpu"))


def test_one_class_is_explained_by_its_score_alone(images):
    class One(Deeper):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(24, 1)
            nn.init.ones_(self.head.weight)

    one = One().eval()
    found = explain(one, "cfcam-sharp", images, 1, finer_layer="stem").grid
    class_maps = explain(one, "gradcam", images, 1).grid
    early = CFCAM(one, "stem", method="gradcam").features(images, 1)
    for i, class_map in enumerate(class_maps):
        features, gradients = early.activations[i], early.gradients[i, 0].numpy()
        expected = reference(upsampled(class_map, features), features.numpy(), gradients)
        assert expected.max() > 0
        torch.testing.assert_close(found[i], expected, rtol=0, atol=TOLERANCE * float(expected.max()))


def test_a_function_is_explained_as_it_is(net, images):
    """The target's score less that of all classes, written out, has the map of the class."""

    def against_others(logits: Tensor) -> Tensor:
        return logits[1] - 2 * (logits[[0, 2]] / 2).logsumexp(0)

    found = explain(net, "cfcam-sharp", images, against_others, finer_layer="stem").grid
    torch.testing.assert_close(
        found, explain(net, "cfcam-sharp", images, 1, finer_layer="stem").grid, **CLOSE
    )


def test_places_without_features_and_equal_places():
    """Dead places get nothing; where all places are equal no correlation is defined, and the map is blank."""
    features = torch.zeros(2, 3, 2, 2)
    features[0, :, 0] = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    features[1] = 0.1 + torch.tensor([5.1, 0.3, 7.7])[:, None, None]
    found = sharp._spread(torch.ones(2, 1, 2, 2), features)
    assert found[0].max() == 1
    assert not found[1].any()
    assert torch.isfinite(found).all()


def test_no_earlier_layer_is_an_error():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(CaptureError, match="has maps of twice its resolution"):
        CFCAM(model, "1", method="cfcam-sharp")(torch.rand(1, 3, 8, 8))


def test_the_contrast_tells_classes_apart(lite0, photo_batch):
    """On photos the maps of the two likeliest classes are less alike than Grad-CAM's."""
    with torch.inference_mode():
        two = lite0.model(photo_batch).topk(2).indices
    alike = {}
    for name in ("cfcam-sharp", "gradcam"):
        pairs = CFCAM(lite0.model, method=name)(photo_batch, two).heatmap.flatten(2)
        alike[name] = float(torch.stack([torch.corrcoef(pair)[0, 1] for pair in pairs]).mean())
    assert alike["cfcam-sharp"] < alike["gradcam"]


def test_a_class_that_the_model_is_sure_of(images):
    """The softmax of the target is 1 in float32, its gradient 0; the score against all others goes on to tell."""
    sure = Deeper().eval()
    with torch.no_grad():
        sure.head.weight *= 1e4
    targets = sure(images).argmax(1)
    assert (sure(images).softmax(1).amax(1) == 1).all()
    found = explain(sure, "cfcam-sharp", images, targets, finer_layer="stem")
    assert (found.grid.amax((1, 2)) > 0).any()
    assert torch.isfinite(found.grid).all()
