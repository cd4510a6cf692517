"""Every kind of target, and the errors of wrong ones."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from cfcam_gpu import CFCAM, Above, ConfigError, TargetError, TopK
from cfcam_gpu.capture import capture
from cfcam_gpu.capture.layers import find_layer
from tests.helpers.capture_net import Net

TARGETS: dict[str, tuple[Any, list[int]]] = {
    "int": (1, [1, 1, 1]),
    "list": ([0, 3, 2], [0, 3, 2]),
    "tensor": (torch.tensor([0, 3, 2]), [0, 3, 2]),
    "int32 tensor": (torch.tensor([0, 3, 2], dtype=torch.int32), [0, 3, 2]),
    "function": (lambda logits: logits[2], [2, 2, 2]),
    "functions": ([lambda logits: logits[0], lambda logits: logits[3], lambda logits: logits[2]], [0, 3, 2]),
}


@pytest.mark.parametrize("name", TARGETS)
def test_each_kind_of_target(net, images, name):
    targets, meant = TARGETS[name]
    layer = find_layer(net, "relu")
    captured = capture(net, layer, images, targets)
    for index, target in enumerate(meant):
        alone = capture(net, layer, images[index, None], target)
        torch.testing.assert_close(captured.gradients[index], alone.gradients[0])
    indices = None if captured.targets is None else captured.targets.tolist()
    assert indices == (None if "function" in name else meant)


def test_no_target_means_the_highest_logit(net, images):
    targets = capture(net, find_layer(net, "relu"), images).targets
    assert targets is not None
    assert torch.equal(targets, net(images).argmax(1))


BAD_TARGETS: dict[str, tuple[Any, str]] = {
    "too few": ([1, 2], r"expected targets of shape \(3,\) or \(3, K\), got \(2,\)"),
    "too large": (4, r"targets must be from 0 to 3 for this model, got 4$"),
    "negative": ([0, -1, 2], r"targets must be from 0 to 3 for this model, got -1$"),
    "float": (torch.zeros(3), r"targets must be integers, got dtype torch.float32"),
    "bool": (True, r"targets must be integers"),
    "text": ("cat", r"targets must be class indices, one or K for each image, got 'cat'"),
    "no class for an image": (
        [[1], [], [0]],
        r"an image has no target; name at least one class for each image",
    ),
    "one-hot": (
        torch.eye(4, dtype=torch.int64)[:3],
        r"one-hot rows, not class indices; pass targets\.argmax\(1\)",
    ),
    "float one-hot": (torch.eye(4)[:3], r"dtype torch\.float32; of one-hot rows pass targets\.argmax\(1\)"),
    "numbers of functions": ([[max], [max, min], [max]], r"as many functions for each image, got 1, 2, 1"),
    "more than the classes": (TopK(5), r"the 5 likeliest classes are asked for, but the model has 4"),
    "three axes": (torch.zeros(3, 1, 1, dtype=torch.int64), r"got \(3, 1, 1\)"),
    "no targets": (torch.zeros(3, 0, dtype=torch.int64), r"got \(3, 0\)"),
    "too few functions": ([lambda logits: logits[0]], r"expected one function per image \(3\), got 1"),
    "mixed": ([0, lambda logits: logits[0], 1], r"do not mix functions and classes"),
    "function of many numbers": (
        lambda logits: logits,
        r"must return one number as a tensor, got a float32 tensor",
    ),
    "function of a float": (lambda _: 1.0, r"must return one number as a tensor, got a float"),
}


@pytest.mark.parametrize("name", BAD_TARGETS)
def test_wrong_targets_are_errors(net, images, name):
    targets, message = BAD_TARGETS[name]
    with pytest.raises(TargetError, match=message):
        capture(net, find_layer(net, "relu"), images, targets)


def test_several_targets_an_image_share_one_forward_pass(net, images):
    layer, passes = find_layer(net, "relu"), []
    handle = net.conv1.register_forward_hook(lambda *_: passes.append(1))
    several: dict[str, Any] = {
        "classes": [[0, 3], [1, 2], [2, 0]],
        "functions": [[lambda z, k=k: z[k] for k in classes] for classes in ([0, 3], [1, 2], [2, 0])],
    }
    found = {
        name: capture(net, layer, images, targets, calls=2).gradients for name, targets in several.items()
    }
    handle.remove()
    assert len(passes) == len(several)
    torch.testing.assert_close(found["functions"], found["classes"])
    for place, classes in enumerate(([0, 1, 2], [3, 2, 0])):
        alone = capture(net, layer, images, classes).gradients[:, 0]
        torch.testing.assert_close(found["classes"][:, place], alone)


def test_the_likeliest_classes(net, images):
    result: Any = CFCAM(net, "relu")(images, TopK(3))
    assert torch.equal(result.targets, net(images).topk(3).indices)
    for place in range(3):
        alone = CFCAM(net, "relu")(images, result.targets[:, place])
        torch.testing.assert_close(result.heatmap[:, place], alone.heatmap)


@pytest.mark.parametrize("method", ["cfcam", "gradcam", "scorecam", "ablationcam"])
def test_images_with_different_numbers_of_targets(net, images, method):
    cam = CFCAM(net, "relu", method=method)
    classes = [[2], [1, 0, 3], [3, 2]]
    result: Any = cam(images, classes)
    assert result.targets.tolist() == [[2, -1, -1], [1, 0, 3], [3, 2, -1]]
    for image, row in enumerate(classes):
        alone = cam(images[image, None], [row])
        torch.testing.assert_close(result.heatmap[image, : len(row)], alone.heatmap[0], rtol=0, atol=1e-5)
    absent = result.targets == -1
    assert result.blank[absent].all()
    assert not result.heatmap[absent].any()
    assert not result.peak[absent].any()


def test_every_class_above_a_threshold_or_the_likeliest(net, images):
    logits = net(images).detach()
    threshold = float(logits.sigmoid().flatten().sort().values[-4])
    result: Any = CFCAM(net, "relu", activation="sigmoid")(images, Above(threshold))
    for row, targets in zip(logits.sigmoid(), result.targets.tolist(), strict=True):
        wanted = [k for k in row.argsort(descending=True).tolist() if row[k] > threshold]
        assert [k for k in targets if k >= 0] == (wanted or [int(row.argmax())])
    none: Any = CFCAM(net, "relu", activation="sigmoid")(images, Above(0.999))
    assert none.targets.tolist() == logits.argmax(1)[:, None].tolist()


def test_both_classes_of_two_are_no_one_hot_rows(images):
    torch.manual_seed(0)
    result: Any = CFCAM(Net(classes=2).eval(), "relu")(images, torch.tensor([[0, 1], [1, 0], [0, 1]]))
    assert result.targets.tolist() == [[0, 1], [1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopK(0), r"number of likeliest classes must be at least 1, got 0"),
        (lambda: Above(1.0), r"must be at least 0 and below 1, got 1\.0"),
        (lambda: Above(cast(float, "x")), r"must be at least 0 and below 1, got 'x'"),
    ],
)
def test_wrong_selectors_are_errors(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_target_function_that_fails_is_named(net, images):
    message = (
        r"a target function failed on a float32 tensor of shape \(\d+,\), what the model puts out for one image: "
        r"IndexError: index 99 is out of bounds"
    )
    with pytest.raises(TargetError, match=message):
        CFCAM(net, "relu", method="gradcam")(images, lambda logits: logits[99])


def test_functions_of_an_output_without_a_row_for_each_image(net, images):
    def first(logits: torch.Tensor) -> torch.Tensor:
        return logits[0]

    for change, shape in ((torch.sum, r"\(\)"), (lambda logits: logits[:2], r"\(2, \d+\)")):
        handle = net.register_forward_hook(lambda _net, _args, out, change=change: change(out))
        message = rf"a row of the output for each of {len(images)} images, the model gave .* of shape {shape}"
        with pytest.raises(TargetError, match=message):
            CFCAM(net, "relu", method="gradcam")(images, first)
        handle.remove()
