"""What an explanation says, shows and keeps, also of images that cannot be explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cfcam_gpu import CFCAM, ConfigError, InputError, overlay
from cfcam_gpu.explanation import Explanation, Problem, status_of
from tests.helpers.capture_net import make_images, make_net


def test_the_numbers_of_the_problems_stay():
    """`Explanation.status` holds them, and users compare with them."""
    assert {problem.name: int(problem) for problem in Problem} == {
        "ACTIVATIONS_NOT_FINITE": 1,
        "GRADIENTS_NOT_FINITE": 2,
        "TARGET_OUT_OF_RANGE": 3,
        "ZERO_GRADIENT": 4,
        "MAP_NOT_FINITE": 5,
    }
    assert all(problem.sentence for problem in Problem)


def test_the_lowest_problem_of_an_image_is_its_status():
    masks = {
        Problem.MAP_NOT_FINITE: torch.tensor([True, False, True, False]),
        Problem.GRADIENTS_NOT_FINITE: torch.tensor([True, True, False, False]),
    }
    assert status_of(masks).tolist() == [2, 2, 5, 0]


def explained(*, targets: list[list[int]] | list[int] | None = None) -> tuple[Explanation, torch.Tensor]:
    """An explanation of three images of 12 by 10 pixels by the small net."""
    images = make_images()
    cam = CFCAM(make_net(), "relu", engine="torch", on_invalid="flag")
    return cam(images, targets=targets if targets is None else torch.tensor(targets)), images


def test_an_explanation_is_a_sequence_of_images() -> None:
    result, _images = explained(targets=[1, 2, 0])
    assert len(result) == 3
    one = result[-1]
    assert torch.equal(one.heatmap, result.heatmap[2:])
    assert one.targets is not None
    assert one.targets.tolist() == [0]
    assert [len(each) for each in result] == [1, 1, 1]
    chosen = result[torch.tensor([True, False, True])]
    assert torch.equal(chosen.grid, result.grid[[0, 2]])
    assert torch.equal(result[[2, 0]].heatmap, result.heatmap[[2, 0]])
    for last in (np.int64(2), np.array(2), torch.tensor(-1)):
        assert torch.equal(result[last].heatmap, result.heatmap[2:])
    assert torch.equal(result[np.array([True, False, True])].grid, result.grid[[0, 2]])
    for outside in (3, -4, np.int64(3)):
        with pytest.raises(IndexError, match=f"has 3 images, got index {outside}"):
            result[outside]
    assert set(result.numpy()) >= {"heatmap", "grid", "labels", "eps"}
    assert len(repr(result)) < 100
    assert repr(result) == "Explanation(3 images, heatmaps 12x10, engine torch, cpu)"


def test_a_saved_explanation_loads_again(tmp_path: Path) -> None:
    result, _ = explained(targets=[1, 2, 0])
    again = Explanation.load(result.save(tmp_path / "new/folder").parent)
    for name, values in result.numpy().items():
        np.testing.assert_array_equal(again.numpy()[name], values, err_msg=name)
    assert (again.engine, again.activation) == (result.engine, result.activation)


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_other_files_are_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "explanation.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"explanation\.pt (cannot be read|is no saved explanation): "):
        Explanation.load(tmp_path)


def test_a_file_with_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"heatmap": Evil()}, tmp_path / "explanation.pt")
    with pytest.raises(InputError, match="is no saved explanation"):
        Explanation.load(tmp_path)
    assert not Evil.ran


class Evil:
    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Evil, "ran", True)


def test_a_notebook_gets_thumbnails_of_bounded_size() -> None:
    result, _ = explained(targets=[[1, 2], [2, 0], [0, 3]])
    page = result._repr_html_()
    assert page.count("<img") == 6
    assert "image 2, class 3, " in page
    many = result[[0] * 1000]
    assert many._repr_html_().count("<img") == 16
    assert "the first 16 of 2000 heatmaps" in many._repr_html_()
    assert len(many._repr_html_()) < 300_000


def test_a_figure_has_a_picture_for_each_map() -> None:
    pytest.importorskip("matplotlib").use("Agg")
    result, images = explained(targets=[[1, 2], [2, 0], [0, 3]])
    axes = result.plot(images).axes
    assert [axis.get_title().split(",")[:2] for axis in axes[:6]] == [
        [f"image {image}", f" class {target}"]
        for image, pair in enumerate([[1, 2], [2, 0], [0, 3]])
        for target in pair
    ]
    with pytest.raises(ConfigError, match="one picture for each of the 3 images is needed, got 2"):
        result.plot(images[:2])
    with pytest.raises(ConfigError, match="no images, so there is nothing to draw"):
        result[3:].plot()


def test_a_picture_alone_is_that_of_the_only_image() -> None:
    pytest.importorskip("matplotlib").use("Agg")
    result, images = explained(targets=[1, 2, 0])
    in_batch = result[0].plot(images[:1]).axes[0].images[0].get_array()
    alone = result[0].plot(images[0]).axes[0].images[0].get_array()
    np.testing.assert_array_equal(np.asarray(alone), np.asarray(in_batch))
    pixels = np.arange(120, dtype=np.uint16).reshape(12, 10) * 500
    from_file, from_array = [
        np.asarray(result[0].plot(picture).axes[0].images[0].get_array())
        for picture in (Image.fromarray(pixels), pixels / pixels.max())
    ]
    np.testing.assert_array_equal(from_file, from_array)  # sixteen bits are not cut off at eight
    with pytest.raises(ConfigError, match="each of the 3 images is needed, got 1"):
        result.plot(Image.fromarray(pixels))


@pytest.mark.parametrize("targets", [[1, 0], [[1, 0], [0, 1]]])
def test_volumes_are_shown_by_the_slice_with_the_maximum(targets: Any) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2))
    volumes = torch.rand(2, 1, 6, 12, 10)
    result = CFCAM(net, method="gradcam", on_invalid="flag")(volumes, targets=torch.tensor(targets))
    several = ", 2 targets each" if result.blank.ndim == 2 else ""
    assert repr(result) == f"Explanation(2 images, heatmaps 6x12x10{several}, engine torch, cpu)"
    assert result._repr_html_().count("<img") == result.blank.numel()
    slices = result.heatmap.flatten(0, -4).amax((-2, -1)).argmax(-1).tolist()
    titles = [axis.get_title() for axis in result.plot(volumes).axes[: len(slices)]]
    assert [title.split(", ")[1] for title in titles] == [f"slice {depth}" for depth in slices]
    first = result[0].plot(volumes[0]).axes[0].images[0].get_array()
    expected = overlay(volumes[0, :, slices[0]], result.heatmap.flatten(0, -4)[0, slices[0]])
    np.testing.assert_array_equal(np.asarray(first), expected)
