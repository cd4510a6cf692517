"""A dataset run: one row per sample, in order, right in every column, with the right overlay."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cfcam_gpu.dataset import open_results
from cfcam_gpu.dataset.execution.observer import Tally
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.errors import CFCAMError, InputError, ModelError, StoreError, TargetError, TooManyErrors
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.images.overlay import colorize, draw_overlay, fit_heatmap, upsample_grid
from cfcam_gpu.models import LoadedModel
from tests.helpers.launcher import child_processes, is_alive, wait_until
from tests.helpers.smallnet import PLAIN, make_loaded, photo, rows, run, save

CROPPED = dataclasses.replace(PLAIN, resize=40)


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("batch_size", "part_size"), [(2, 4), (16, 1), (3, 256)])
def test_every_sample_has_one_row_in_order(mixed, tmp_path, workers, batch_size, part_size):
    out = tmp_path / "out"
    summary = run(mixed, out, batch_size=batch_size, part_size=part_size, workers=workers)
    stored_rows = rows(out)
    assert [row["sample_id"] for row in stored_rows] == [f"{name}.png" for name in "abcdef"]
    assert [row["status"] for row in stored_rows] == ["ok", "error", "ok", "error", "ok", "error"]
    assert [row["stage"] for row in stored_rows] == [None, "decode", None, "explain", None, "decode"]
    types = [None, "UnidentifiedImageError", None, "InvalidImagesError", None, "ImageError"]
    assert [row["error_type"] for row in stored_rows] == types
    assert stored_rows[3]["message"] == "the layer's activations contain NaN or Inf"
    assert stored_rows[3]["width"] == 9
    assert stored_rows[5]["message"] == "empty file"
    assert summary.tally == Tally(ok=3, skipped=3, blank=sum(bool(row["blank"]) for row in stored_rows))
    assert (summary.total, summary.before, summary.others_left) == (6, 0, 0)
    pictures = sorted(path.name for path in out.glob("*.png"))
    assert pictures == ["a_cfcam.png", "c_cfcam.png", "e_cfcam.png"]
    assert [row["overlay"] for row in stored_rows if row["overlay"]] == pictures
    assert not list((out / ".cfcam").glob("temporary-*"))


@pytest.mark.parametrize("target", [None, 0, "cat"])
def test_a_row_tells_what_the_model_and_the_map_say(tmp_path, target):
    folder = save(tmp_path / "in", a=photo(1), b=photo(2, (31, 77)))
    loaded = make_loaded(CROPPED)
    run(folder, tmp_path / "out", model=loaded, target=target)
    batch = torch.stack([CROPPED(photo(1)), CROPPED(photo(2, (31, 77)))])
    probabilities = loaded.model(batch).detach().softmax(1)
    index = None if target is None else loaded.class_index(str(target))
    with CFCAM(loaded.model, "conv:relu") as cam:
        result = cam(batch, targets=index)
    assert result.n_clusters is not None
    assert result.noise_fraction is not None
    for i, row in enumerate(rows(tmp_path / "out")):
        best = int(probabilities[i].argmax())
        explained = best if index is None else index
        assert (row["target"], row["target_name"]) == (explained, ("ant", "bee", "cat")[explained])
        assert row["target_prob"] == pytest.approx(float(probabilities[i, explained]), abs=1e-6)
        assert (row["pred"], row["pred_name"]) == (best, ("ant", "bee", "cat")[best])
        assert row["prob"] == pytest.approx(float(probabilities[i, best]), abs=1e-6)
        assert row["n_clusters"] == int(result.n_clusters[i])
        assert row["noise_fraction"] == pytest.approx(float(result.noise_fraction[i]))
        assert row["blank"] is bool(result.blank[i])
        np.testing.assert_allclose(row["grid"], result.grid[i].numpy(), atol=1e-7)
        raw = nn.functional.interpolate(result.grid[i][None, None], (32, 32), mode="bilinear")
        assert row["heatmap_max"] == pytest.approx(float(raw.max()), rel=1e-5)
        assert (row["width"], row["height"]) == [(60, 45), (31, 77)][i]
        assert row["box"] == pytest.approx(CROPPED.visible_box(row["width"], row["height"]))
        assert row["label"] is None


@pytest.mark.parametrize("preprocess", [PLAIN, CROPPED], ids=["squashed", "cropped"])
@pytest.mark.parametrize("size", [(60, 45), (31, 77), (5, 3)])
def test_pictures_have_the_originals_size_and_the_right_pixels(tmp_path, preprocess, size):
    image, loaded = photo(4, size), make_loaded(preprocess)
    run(save(tmp_path / "in", a=image), tmp_path / "out", model=loaded, cmap="jet", alpha=0.3)
    with CFCAM(loaded.model, "conv:relu") as cam:
        heatmap = cam(preprocess(image)[None]).heatmap[0].numpy()
    fitted = fit_heatmap(heatmap, preprocess.visible_box(*size), *size)
    expected = draw_overlay(np.asarray(image), fitted, "jet", 0.3)
    # The map is upsampled again from the grid: a step of colour at most.
    shown = pixels(tmp_path / "out/a_cfcam.png").astype(int)
    assert np.abs(shown - expected).max() <= 2
    assert (shown != expected).mean() < 0.01


def test_what_the_model_does_not_see_is_not_coloured_as_evidence(tmp_path):
    folder = save(tmp_path / "in", a=photo(4, (100, 40)))
    run(folder, tmp_path / "out", model=make_loaded(CROPPED), alpha=1.0)
    shown, zero = pixels(tmp_path / "out/a_cfcam.png"), colorize([[0.0]])[0, 0]
    assert (shown[:, :30] == zero).all()
    assert (shown[:, 70:] == zero).all()
    assert (shown[4:36, 36:64] != zero).any()


def test_a_blank_map_is_told_and_its_picture_is_the_colour_of_zero(tmp_path):
    loaded = make_loaded()
    with torch.no_grad():
        loaded.model.get_parameter("head.weight").copy_(-loaded.model.get_parameter("head.weight").abs())
    run(save(tmp_path / "in", a=photo(1)), tmp_path / "out", model=loaded, alpha=1.0)
    (row,) = rows(tmp_path / "out")
    assert (row["status"], row["blank"], row["heatmap_max"]) == ("ok", True, 0.0)
    assert (pixels(tmp_path / "out/a_cfcam.png") == colorize([[0.0]])[0, 0]).all()


def test_samples_bring_their_labels_and_targets(tmp_path):
    folder = save(tmp_path / "in", a=photo(1))
    targets = [None, "2", "ANT", "dog", "7", "-1"]
    samples = [
        Sample(f"s{i}", str(folder / "a.png"), label=f"l{i}", target=t, name=f"deep/er/{i}")
        for i, t in enumerate(targets)
    ]
    run(samples, tmp_path / "out")
    stored_rows = rows(tmp_path / "out")
    predicted = stored_rows[0]["pred"]
    assert [row["target"] for row in stored_rows] == [predicted, 2, 0, None, None, None]
    assert [row["label"] for row in stored_rows] == [f"l{i}" for i in range(6)]
    assert [row["error_type"] for row in stored_rows[3:]] == ["TargetError"] * 3
    assert stored_rows[3]["message"] == "no class is called 'dog'; give the index"
    assert "must be from 0 to 2, got 7" in stored_rows[4]["message"]
    assert stored_rows[1]["overlay"] == "deep/er/1_cfcam.png"
    assert pixels(tmp_path / "out/deep/er/1_cfcam.png").shape == (45, 60, 3)


def test_a_name_that_leads_out_of_the_folder_is_an_error_row(tmp_path):
    folder = save(tmp_path / "in", a=photo(1))
    run([Sample("evil", str(folder / "a.png"), name="../evil")], tmp_path / "out", max_errors=1)
    (row,) = rows(tmp_path / "out")
    assert (row["status"], row["stage"], row["overlay"]) == ("error", "write", None)
    assert row["message"].endswith("leads out of the output folder")
    assert not (tmp_path / "evil_cfcam.png").exists()


def test_a_picture_that_cannot_be_written_is_an_error_row_and_the_others_go_on(tmp_path):
    out = tmp_path / "out"
    (out / "a_cfcam.png").mkdir(parents=True)
    run(save(tmp_path / "in", a=photo(1), b=photo(2)), out)
    bad, good = rows(out)
    assert (bad["status"], bad["stage"], bad["error_type"]) == ("error", "write", "IsADirectoryError")
    assert bad["message"] == f"cannot write {out / 'a_cfcam.png'}: Is a directory"
    assert bad["grid"] is not None
    assert good["status"] == "ok"


def test_many_pictures_lie_in_folders_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr("cfcam_gpu.dataset.store.resume._MOST_IN_ONE_FOLDER", 4)
    folder = save(tmp_path / "in", **{f"p{i}": photo(i) for i in range(5)})
    run(folder, tmp_path / "out", part_size=2)
    names = [row["overlay"] for row in rows(tmp_path / "out")]
    assert names == [f"overlays/part-{i // 2:05d}/p{i}_cfcam.png" for i in range(5)]
    assert all((tmp_path / "out" / name).exists() for name in names)
    run(folder, tmp_path / "out", overwrite=True, overlays="none", part_size=2)
    assert not (tmp_path / "out/overlays").exists()


def test_a_repeated_run_writes_the_same_rows_and_a_finished_one_does_nothing(mixed, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    run(mixed, first, part_size=2, batch_size=2)
    run(mixed, second, part_size=2, batch_size=2, workers=2)
    assert open_results(first).table().equals(open_results(second).table())
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*.p*")}
    summary = run(mixed, first, batch_size=2)
    assert (summary.before, summary.now) == (6, 0)
    assert summary.tally.ok == 3
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*.p*")} == before


def test_too_many_errors_stop_the_run_and_what_is_finished_stays(tmp_path):
    good = {f"a{i}": photo(i) for i in range(4)}
    folder = save(tmp_path / "in", **good, **{f"b{i}": b"" for i in range(4)})
    message = r"stopped: 3 of 7 samples failed, more than the 2 allowed; .* higher --max-errors goes on"
    with pytest.raises(TooManyErrors, match=message):
        run(folder, tmp_path / "out", part_size=2, max_errors=2)
    assert len(open_results(tmp_path / "out")) == 6
    with pytest.raises(TooManyErrors, match="stopped: 4 of 8"):
        run(folder, tmp_path / "out", max_errors=2)
    tally = run(folder, tmp_path / "out", max_errors="50%").tally
    assert (tally.ok, tally.skipped) == (4, 4)


def test_what_concerns_the_whole_run_is_said_before_anything_is_written(tmp_path):
    folder = save(tmp_path / "in", a=photo(1))
    with pytest.raises(InputError, match=r"input .*missing' does not exist"):
        run(tmp_path / "missing", tmp_path / "out")
    with pytest.raises(TargetError, match="must be from 0 to 2, got 7"):
        run(folder, tmp_path / "out", target=7)
    assert not (tmp_path / "out").exists()


def test_the_model_comes_back_to_its_device_and_mode(tmp_path):
    loaded = make_loaded()
    run(save(tmp_path / "in", a=photo(1)), tmp_path / "out", model=loaded)
    assert next(loaded.model.parameters()).requires_grad
    assert next(loaded.model.parameters()).device.type == "cpu"


def test_a_run_in_another_thread_needs_no_signals(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    folder = save(tmp_path / "in", a=photo(1))
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(run, folder, tmp_path / "out").result().tally.ok == 1


def test_the_choice_made_in_decoding_is_recorded(tmp_path):
    folder = save(tmp_path / "in", b=photo(1))
    gray = np.linspace(0, 4095, 60 * 45).astype(np.uint16).reshape(45, 60)
    Image.fromarray(gray).save(folder / "a.tif", tiffinfo={340: 0, 341: 4095})  # S{Min,Max}SampleValue
    run(folder, tmp_path / "out")
    wide, plain = rows(tmp_path / "out")
    assert wide["decoding"].startswith("0 to 4095")
    assert plain["decoding"] is None


def test_narrow_values_are_warned_about_once_and_a_value_range_is_part_of_the_run(tmp_path, caplog):
    folder = tmp_path / "in"
    folder.mkdir()
    ramp = np.linspace(0, 4095, 48 * 40).astype(np.uint16).reshape(48, 40)
    for name in "ab":
        Image.fromarray(ramp).save(folder / f"{name}.png")
    out = tmp_path / "out"
    run(folder, out)
    warning = "values 0 to 4095 fill 6.2% of 0 to 65535, so few gray levels are left"
    assert [row["decoding"].partition(";")[0] for row in rows(out)] == [warning] * 2
    assert [record.message.partition(";")[0] for record in caplog.records] == [f"a.png: {warning}"]
    with pytest.raises(StoreError, match=r"value_range was None, now '0,4095'"):
        run(folder, out, value_range="0,4095")
    run(folder, tmp_path / "spread", value_range=" 0, 4095 ")
    assert [row["decoding"] for row in rows(tmp_path / "spread")] == ["0 to 4095 (value range 0,4095)"] * 2
    original = np.rint(ramp * (255 / 4095)).astype(np.uint8)
    for row in rows(tmp_path / "spread"):
        heatmap = fit_heatmap(upsample_grid(row["grid"], PLAIN.size), PLAIN.visible_box(40, 48), 40, 48)
        expected = draw_overlay(np.dstack([original] * 3), heatmap, "inferno", 0.4)
        assert (pixels(tmp_path / "spread" / row["overlay"]) == expected).all()


def test_images_of_more_pixels_fail_and_the_option_allows_them(tmp_path):
    folder = save(tmp_path / "in", a=photo(1, (40, 30)))
    run(folder, tmp_path / "out", max_pixels=1199)
    (row,) = rows(tmp_path / "out")
    assert row["message"] == "40×30 = 1,200 pixels is over the limit of 1,199; --max-pixels allows more"  # noqa: RUF001
    run(folder, tmp_path / "out", max_pixels=1200, retry_failed=True)
    assert [row["status"] for row in rows(tmp_path / "out")] == ["ok"]


def test_workers_start_while_the_model_is_loaded_and_end_where_it_fails(tmp_path):
    folder = save(tmp_path / "in", **{f"p{i}": photo(i) for i in range(12)})
    before, started = set(child_processes()), list[int]()

    def model() -> LoadedModel:
        wait_until(lambda: len(set(child_processes()) - before) == 2)
        started.extend(set(child_processes()) - before)
        raise ModelError("no weights")

    with pytest.raises(ModelError, match="no weights"):
        run(folder, tmp_path / "out", model=model, workers=2)
    assert len(started) == 2
    assert not any(map(is_alive, started))


@pytest.mark.parametrize("kind", [KeyError, TypeError, ZeroDivisionError, RuntimeError])
@pytest.mark.parametrize("at", [1, 3])
def test_a_model_that_raises_is_one_sentence_and_the_run_resumes(tmp_path, kind, at):
    """At the first pass, which chooses the layer, and in a batch of the run."""
    folder = save(tmp_path / "in", **{f"{i}": photo(i) for i in range(6)})
    loaded = make_loaded()
    shapes: list[tuple[int, ...]] = []

    def fail(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        shapes.append(tuple(inputs[0].shape))
        if len(shapes) >= at:
            raise kind("backbone")

    handle = loaded.model.register_forward_pre_hook(fail)
    with pytest.raises(CFCAMError) as caught:
        run(folder, tmp_path / "out", model=loaded, batch_size=2, part_size=2)
    words = "backbone" if kind is RuntimeError else f"{kind.__name__}: {kind('backbone')}"
    sentence = f"the model failed on images {shapes[-1]}: {words}; check that it accepts this --size"
    assert str(caught.value) == sentence
    handle.remove()
    assert run(folder, tmp_path / "out", model=loaded, batch_size=2, part_size=2).tally.ok == 6


def test_pictures_on_a_disk_are_not_looked_for_again(tmp_path, monkeypatch):
    """Only those of a folder at a URL may be elsewhere; on network disks each look takes a round trip."""
    looked: list[str] = []
    is_file = Path.is_file

    def counted(path: Path) -> bool:
        looked.append(path.name)
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", counted)
    run(save(tmp_path / "in", a=photo(1), b=photo(2)), tmp_path / "out", workers=0)
    assert is_file(tmp_path / "out/a_cfcam.png")
    assert not [name for name in looked if "_cfcam." in name]
