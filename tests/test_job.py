"""A run over files: one row each, in order; nothing lost, nothing half written, and the pixels are right."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cfcam_gpu import job
from cfcam_gpu.dataset.sources import Source
from cfcam_gpu.errors import BackendError, CFCAMError, ConfigError, InputError, TargetError
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.job import SAVES, Row, Tally, explain_images, resolve_device
from cfcam_gpu.models import LoadedModel, Preprocess
from cfcam_gpu.overlay import colorize, fit_heatmap, overlay

#: A picture of this colour makes the network below put out NaN.
POISON = (255, 0, 255)


class Net(nn.Module):
    """Three classes; NaN activations for an image that is all `POISON`."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.conv = nn.Conv2d(3, 24, 3, stride=4, padding=1)
            self.head = nn.Linear(24, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        poison = torch.tensor(POISON, device=images.device)[None, :, None, None] / 255
        poisoned = ((images - poison).abs() < 1e-3).flatten(1).all(1)
        features = self.conv(images.masked_fill(poisoned[:, None, None, None], torch.nan)).relu()
        return self.head(features.mean((2, 3)))


PLAIN = Preprocess((32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CROPPED = dataclasses.replace(PLAIN, resize=40)


@pytest.fixture
def loaded() -> LoadedModel:
    return LoadedModel(Net().eval(), PLAIN, ("ant", "bee", "cat"), "test", "random")


def photo(seed: int, size: tuple[int, int] = (60, 45)) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., list[Source]]:
    """Saves pictures, or bytes as they are, and gives their sources in that order."""

    def save(**files: Image.Image | bytes) -> list[Source]:
        sources = []
        for name, content in files.items():
            path = tmp_path / f"{name}.png"
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                content.save(path)
            sources.append(Source(path, name))
        return sources

    return save


def run(loaded: LoadedModel, sources: list[Source], out: Path, **options) -> list[Row]:
    with CFCAM(loaded.model, "conv:relu", on_invalid="flag") as cam:
        return list(explain_images(loaded, cam, sources, out, **options))


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_rows_come_in_order_and_every_input_has_one(loaded, folder, tmp_path):
    sources = folder(
        a=photo(1), b=b"no image", c=photo(2), d=Image.new("RGB", (9, 9), POISON), e=photo(3), f=b""
    )
    rows = run(loaded, sources, tmp_path / "out", batch_size=2)
    assert [row.name for row in rows] == list("abcdef")
    assert [row.status for row in rows] == ["ok", "error", "ok", "error", "ok", "error"]
    assert [row.stage for row in rows] == [None, "decode", None, "explain", None, "decode"]
    assert rows[3].error == "the layer's activations contain NaN or Inf"
    assert rows[5].error == "empty file"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a_cfcam.png", "c_cfcam.png", "e_cfcam.png",
    ]  # fmt: skip


@pytest.mark.parametrize("target", [None, 0, 2])
def test_a_row_tells_what_the_model_and_the_map_say(loaded, folder, tmp_path, target):
    sources = folder(a=photo(1), b=photo(2))
    rows = run(loaded, sources, tmp_path / "out", target=target)
    batch = torch.stack([PLAIN(photo(1)), PLAIN(photo(2))])
    probabilities = loaded.model(batch).detach().softmax(1)
    with CFCAM(loaded.model, "conv:relu") as cam:
        result = cam(batch, targets=target)
    for i, row in enumerate(rows):
        best = int(probabilities[i].argmax())
        explained = best if target is None else target
        assert (row.class_index, row.class_name) == (explained, ("ant", "bee", "cat")[explained])
        assert row.probability == pytest.approx(float(probabilities[i, explained]), abs=1e-6)
        assert (row.predicted_index, row.predicted_name) == (best, ("ant", "bee", "cat")[best])
        assert row.predicted_probability == pytest.approx(float(probabilities[i, best]), abs=1e-6)
        assert row.n_clusters == int(result.n_clusters[i])
        assert row.noise_fraction == pytest.approx(float(result.noise_fraction[i]))
        assert row.blank is bool(result.blank[i])


@pytest.mark.parametrize("preprocess", [PLAIN, CROPPED], ids=["squashed", "cropped"])
@pytest.mark.parametrize("size", [(60, 45), (31, 77), (5, 3)])
def test_pictures_have_the_originals_size_and_the_right_pixels(loaded, folder, tmp_path, preprocess, size):
    loaded = dataclasses.replace(loaded, preprocess=preprocess)
    image = photo(4, size)
    (row,) = run(loaded, folder(a=image), tmp_path / "out", save=list(SAVES), cmap="jet", alpha=0.3)
    with CFCAM(loaded.model, "conv:relu") as cam:
        heatmap = cam(preprocess(image)[None]).heatmap[0].numpy()
    fitted = fit_heatmap(heatmap, preprocess.visible_box(*size), *size)
    assert list(row.outputs) == ["overlay", "heatmap", "original"]
    np.testing.assert_array_equal(pixels(row.outputs["original"]), np.asarray(image))
    np.testing.assert_array_equal(pixels(row.outputs["heatmap"]), colorize(fitted, "jet"))
    np.testing.assert_array_equal(
        pixels(row.outputs["overlay"]), overlay(np.asarray(image), fitted, "jet", 0.3)
    )


def test_what_the_model_does_not_see_is_not_coloured_as_evidence(loaded, folder, tmp_path):
    loaded = dataclasses.replace(loaded, preprocess=CROPPED)
    (row,) = run(loaded, folder(a=photo(4, (100, 40))), tmp_path / "out", save=["heatmap"])
    shown = pixels(row.outputs["heatmap"])
    zero = colorize([[0.0]])[0, 0]
    assert (shown[:, :30] == zero).all()
    assert (shown[:, 70:] == zero).all()
    assert (shown[4:36, 36:64] != zero).any()


def test_the_result_does_not_depend_on_the_batch_size(loaded, folder, tmp_path):
    sources = folder(a=photo(1), b=b"no image", c=photo(2), d=photo(3), e=photo(5))
    runs = [run(loaded, sources, tmp_path / f"out{n}", batch_size=n) for n in (1, 2, 16)]
    for other in runs[1:]:
        for row, same in zip(runs[0], other, strict=True):
            assert row.class_index == same.class_index
            assert row.n_clusters == same.n_clusters
            for kind, path in row.outputs.items():
                # The convolutions' rounding may differ with the batch: at most a step of colour.
                assert np.abs(pixels(path).astype(int) - pixels(same.outputs[kind])).max() <= 2


def test_names_with_folders_make_folders(loaded, folder, tmp_path):
    (source,) = folder(a=photo(1))
    (row,) = run(loaded, [Source(source.path, "deep/er/a")], tmp_path / "out")
    assert row.outputs == {"overlay": str(tmp_path / "out/deep/er/a_cfcam.png")}
    assert pixels(row.outputs["overlay"]).shape == (45, 60, 3)


def test_only_one_batch_is_decoded_ahead(loaded, folder, tmp_path, monkeypatch):
    decoded = []
    load = job.load_image
    monkeypatch.setattr(job, "load_image", lambda path: decoded.append(path) or load(path))
    sources = folder(**{f"p{i}": photo(i) for i in range(7)})
    with CFCAM(loaded.model, "conv:relu", on_invalid="flag") as cam:
        rows = explain_images(loaded, cam, sources, tmp_path / "out", batch_size=3)
        seen = [(next(rows).name, len(decoded)) for _ in sources]
    assert seen == [("p0", 3), ("p1", 3), ("p2", 3), ("p3", 6), ("p4", 6), ("p5", 6), ("p6", 7)]


def test_a_picture_that_cannot_be_written_is_an_error_row_and_the_others_go_on(loaded, folder, tmp_path):
    out = tmp_path / "out"
    (out / "a_heatmap.png").mkdir(parents=True)
    sources = folder(a=photo(1), b=photo(2))
    bad, good = run(loaded, sources, out, save=["overlay", "heatmap"])
    assert (bad.status, bad.stage) == ("error", "write")
    assert bad.error.startswith(f"cannot write {out / 'a_heatmap.png'}: ")
    assert bad.outputs == {"overlay": str(out / "a_cfcam.png")}
    assert good.status == "ok"
    assert sorted(path.name for path in out.iterdir()) == [
        "a_cfcam.png", "a_heatmap.png", "b_cfcam.png", "b_heatmap.png",
    ]  # fmt: skip


def test_an_interrupted_write_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def interrupted(*paths: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        job.write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_blank_map_is_told_and_its_picture_is_the_colour_of_zero(loaded, folder, tmp_path):
    with torch.no_grad():
        loaded.model.head.weight.copy_(-loaded.model.head.weight.abs())
    (row,) = run(loaded, folder(a=photo(1)), tmp_path / "out", save=["heatmap"])
    assert row.status == "ok"
    assert row.blank is True
    assert (pixels(row.outputs["heatmap"]) == colorize([[0.0]])[0, 0]).all()


class FailingCam:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, *args: object, **options: object) -> None:
        raise self.error


MEMORY = r"out of memory with images \(1, 3, 32, 32\); use a smaller --size"
FAILED = r"the model failed on images \(1, 3, 32, 32\): %s; check that --size"


@pytest.mark.parametrize(
    ("error", "count", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), 2, MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, MEMORY),
        (RuntimeError("not enough memory: you tried"), 1, MEMORY),
        (RuntimeError("mat1 and mat2 differ\nmore"), 1, FAILED % "mat1 and mat2 differ"),
        (AssertionError(), 1, FAILED % "AssertionError"),
    ],
)
def test_a_model_that_fails_ends_the_run_in_one_line(loaded, folder, tmp_path, error, count, message):
    sources = folder(**{f"p{i}": photo(i) for i in range(count)})
    with pytest.raises(CFCAMError, match=message) as caught:
        list(explain_images(loaded, FailingCam(error), sources, tmp_path / "out"))
    assert "\n" not in str(caught.value)


class SmallMemory(CFCAM):
    """Holds two images at once; remembers what it was given."""

    def __call__(self, images, targets=None):
        self.seen = [*getattr(self, "seen", []), len(images)]
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().__call__(images, targets)


def test_out_of_memory_halves_the_batch_and_the_run_goes_on(loaded, folder, tmp_path, caplog):
    sources = folder(**{f"p{i}": photo(i) for i in range(11)})
    cam = SmallMemory(loaded.model, on_invalid="flag")
    with caplog.at_level(logging.WARNING, logger="cfcam_gpu"):
        rows = list(explain_images(loaded, cam, sources, tmp_path / "small", batch_size=5))
    assert cam.seen == [5, 2, 2, 1, 2, 2, 1, 1]
    assert caplog.messages == ["out of memory with 5 images at once; going on with 2"]
    plain = run(loaded, sources, tmp_path / "large")
    assert [row.probability for row in rows] == pytest.approx([row.probability for row in plain])
    assert all(row.status == "ok" for row in rows)


def test_a_target_that_no_image_can_have_ends_the_run(loaded, folder, tmp_path):
    with pytest.raises(TargetError, match="targets must be from 0 to 2"):
        run(loaded, folder(a=photo(1)), tmp_path / "out", target=7)


def test_parameters_are_checked_before_anything_is_read(loaded, tmp_path):
    nowhere = [Source(tmp_path / "missing.png", "missing")]
    for options, message in [
        ({"cmap": "rainbow"}, "unknown colour map 'rainbow'"),
        ({"alpha": 2.0}, "alpha must be"),
        ({"batch_size": 0}, "batch size must be at least 1, got 0"),
        ({"save": ["movie"]}, "outputs to save must be among overlay, heatmap, original; got 'movie'"),
        ({"save": []}, "outputs to save must be among overlay, heatmap, original; got nothing"),
    ]:
        with pytest.raises(ConfigError, match=message):
            explain_images(loaded, FailingCam(RuntimeError()), nowhere, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_made_is_named(loaded, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot make the output folder .*file: File exists"):
        explain_images(loaded, FailingCam(RuntimeError()), [], tmp_path / "file")


def test_tally_counts_rows_once():
    tally = Tally()
    for row in (Row("a", "a", blank=False), Row("b", "b", blank=True), Row("c", "c", status="error")):
        tally.add(row)
    assert tally == Tally(ok=2, skipped=1, blank=1)


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:-1", "mps", ""])
def test_unknown_devices_are_refused(text):
    with pytest.raises(ConfigError, match=f"unknown device {text!r}; choose auto, cpu, cuda or cuda:N"):
        resolve_device(text)


def test_a_device_asked_for_is_never_replaced_by_another(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(
        BackendError, match=r"device 'cuda:1' was asked for, but PyTorch .* sees 1 CUDA device"
    ):
        resolve_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(BackendError, match=r"sees 0 CUDA devices; use --device cpu"):
        resolve_device("cuda")
