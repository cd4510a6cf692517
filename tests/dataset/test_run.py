"""A dataset run: one row per sample, in order, right in every column; resumed, repeated, shared and refused."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cfcam_gpu.config import CFCAMConfig
from cfcam_gpu.dataset import open_results
from cfcam_gpu.dataset.execution.batch_explainer import BatchExplainer
from cfcam_gpu.dataset.execution.observer import Observer, Tally
from cfcam_gpu.dataset.execution.parts import PendingPart
from cfcam_gpu.dataset.execution.pipeline import Pipeline
from cfcam_gpu.dataset.execution.pool import InlinePool
from cfcam_gpu.dataset.execution.worker import View
from cfcam_gpu.dataset.options import RunOptions, share
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.fingerprint import differences, weights_hash
from cfcam_gpu.errors import CFCAMError, ConfigError, InputError, StoreError, TargetError, TooManyErrors
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.images.overlay import colorize, draw_overlay, fit_heatmap
from tests.helpers.smallnet import PLAIN, POISON, make_loaded, photo, run, save

CROPPED = dataclasses.replace(PLAIN, resize=40)


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def rows(out: Path) -> list[dict]:
    return list(open_results(out).rows())


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Six inputs, of which b and f cannot be decoded and d cannot be explained."""
    poison = Image.new("RGB", (9, 9), POISON)
    return save(tmp_path / "in", a=photo(1), b=b"no image", c=photo(2), d=poison, e=photo(3), f=b"")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("batch_size", "part_size"), [(2, 4), (16, 1), (3, 256)])
def test_every_sample_has_one_row_in_order(mixed, tmp_path, workers, batch_size, part_size):
    out = tmp_path / "out"
    summary = run(mixed, out, batch_size=batch_size, part_size=part_size, workers=workers)
    found = rows(out)
    assert [row["sample_id"] for row in found] == [f"{name}.png" for name in "abcdef"]
    assert [row["status"] for row in found] == ["ok", "error", "ok", "error", "ok", "error"]
    assert [row["stage"] for row in found] == [None, "decode", None, "explain", None, "decode"]
    types = [None, "UnidentifiedImageError", None, "InvalidImagesError", None, "ImageError"]
    assert [row["error_type"] for row in found] == types
    assert found[3]["message"] == "the layer's activations contain NaN or Inf"
    assert found[3]["width"] == 9
    assert found[5]["message"] == "empty file"
    assert summary.tally == Tally(ok=3, skipped=3, blank=sum(bool(row["blank"]) for row in found))
    assert (summary.total, summary.before, summary.others_left) == (6, 0, 0)
    pictures = sorted(path.name for path in out.glob("*.png"))
    assert pictures == ["a_cfcam.png", "c_cfcam.png", "e_cfcam.png"]
    assert [row["overlay"] for row in found if row["overlay"]] == pictures
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
        loaded.model.head.weight.copy_(-loaded.model.head.weight.abs())
    run(save(tmp_path / "in", a=photo(1)), tmp_path / "out", model=loaded, alpha=1.0)
    (row,) = rows(tmp_path / "out")
    assert (row["status"], row["blank"], row["heatmap_max"]) == ("ok", True, 0.0)
    assert (pixels(tmp_path / "out/a_cfcam.png") == colorize([[0.0]])[0, 0]).all()


def test_samples_bring_their_labels_and_targets(tmp_path):
    folder = save(tmp_path / "in", a=photo(1))
    targets = [None, "2", "ANT", "dog", "7", "-1"]
    given = [
        Sample(f"s{i}", str(folder / "a.png"), label=f"l{i}", target=t, name=f"deep/er/{i}")
        for i, t in enumerate(targets)
    ]
    run(given, tmp_path / "out")
    found = rows(tmp_path / "out")
    predicted = found[0]["pred"]
    assert [row["target"] for row in found] == [predicted, 2, 0, None, None, None]
    assert [row["label"] for row in found] == [f"l{i}" for i in range(6)]
    assert [row["error_type"] for row in found[3:]] == ["TargetError"] * 3
    assert found[3]["message"] == "no class is called 'dog'; give the index"
    assert "must be from 0 to 2, got 7" in found[4]["message"]
    assert found[1]["overlay"] == "deep/er/1_cfcam.png"
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
    monkeypatch.setattr("cfcam_gpu.dataset.store.resume.MOST_IN_ONE_FOLDER", 4)
    folder = save(tmp_path / "in", **{f"p{i}": photo(i) for i in range(5)})
    run(folder, tmp_path / "out", part_size=2)
    found = [row["overlay"] for row in rows(tmp_path / "out")]
    assert found == [f"overlays/part-{i // 2:05d}/p{i}_cfcam.png" for i in range(5)]
    assert all((tmp_path / "out" / name).exists() for name in found)
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


class Recorder(Observer):
    """Remembers what it is told."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.notes: list[str] = []
        self.seen: list[str] = []
        self.stop_after = stop_after

    def note(self, line: str) -> None:
        self.notes.append(line)

    def row(self, row: dict) -> None:
        self.seen.append(row["sample_id"])
        if len(self.seen) >= self.stop_after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5, 6])
def test_a_run_goes_on_where_it_was_ended(mixed, tmp_path, stop_after):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(mixed, whole, part_size=2, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        run(mixed, broken, part_size=2, batch_size=2, observer=Recorder(stop_after))
    kept = (stop_after - 1) // 2 * 2
    assert len(open_results(broken)) == kept
    rest = Recorder()
    run(mixed, broken, batch_size=2, observer=rest)
    assert rest.seen == [f"{name}.png" for name in "abcdef"[kept:]]
    assert open_results(broken).table().equals(open_results(whole).table())


def test_new_inputs_are_added_and_lost_ones_become_error_rows(tmp_path):
    folder, out = save(tmp_path / "in", b=photo(1), d=photo(2), e=photo(3)), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(folder, out, part_size=2, batch_size=2, observer=Recorder(3))
    first = open_results(out).table()
    (folder / "e.png").unlink()
    save(folder, a=photo(4), **{"d-2": photo(5)})
    (folder / "D.jpg").write_bytes((folder / "a.png").read_bytes())
    observer = Recorder()
    summary = run(folder, out, observer=observer)
    assert observer.notes == [
        "1 planned sample is no longer among the inputs; the run keeps it",
        f"3 new samples are added to the run in {out}",
    ]
    found = rows(out)
    assert [row["sample_id"] for row in found] == ["b.png", "d.png", "e.png", "D.jpg", "a.png", "d-2.png"]
    assert open_results(out).table().slice(0, 2).equals(first)
    assert (found[2]["status"], found[2]["stage"], found[2]["error_type"]) == (
        "error",
        "read",
        "FileNotFoundError",
    )
    names = [row["overlay"] for row in found if row["overlay"]]
    assert len({name.casefold() for name in names}) == 5
    assert summary.tally == Tally(ok=5, skipped=1, blank=summary.tally.blank)


def test_the_same_id_in_another_place_is_refused(tmp_path):
    out = tmp_path / "out"
    run(save(tmp_path / "one", a=photo(1)), out)
    with pytest.raises(StoreError, match=r"sample 'a.png' is .*/one/a.png, now it is .*/two/a.png; choose"):
        run(save(tmp_path / "two", a=photo(1)), out)


DIFFERENT = {
    "config": ({"config": CFCAMConfig(filter="none")}, "config.filter was 'bilateral', now 'none'"),
    "layer": ({"layer": "conv"}, "layer was 'conv:relu', now 'conv'"),
    "target": ({"target": 1}, "target was None, now 1"),
    "precision": ({"precision": "bfloat16"}, "precision was 'float32', now 'bfloat16'"),
    "size": (
        {"model": make_loaded(dataclasses.replace(PLAIN, size=(40, 32)))},
        r"preprocess.size was \[32, 32\], now \[40, 32\]",
    ),
    "weights": ({"model": "other"}, r"weights_sha256 was '[0-9a-f]{19}….{4}, now '[0-9a-f]{19}…"),
    "overlays": (
        {"overlays": "none"},
        "overlays.kind was 'png', now 'none'; overlays.cmap was 'inferno', now None",
    ),
    "alpha": ({"alpha": 0.5}, "overlays.alpha was 0.4, now 0.5"),
    "part size": ({"part_size": 3}, "part_size was 2, now 3"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_run_in_the_folder_is_refused_with_the_fields_that_differ(tmp_path, name):
    settings, message = DIFFERENT[name]
    if settings.get("model") == "other":
        other = make_loaded()
        with torch.no_grad():
            other.model.head.bias[0] += 1e-6
        settings = {"model": other}
    folder, out = save(tmp_path / "in", a=photo(1)), tmp_path / "out"
    run(folder, out, part_size=2)
    before = (out / "run.json").read_bytes()
    with pytest.raises(
        StoreError, match=rf"out holds another run: {message}.*; choose another output folder, or"
    ):
        run(folder, out, **settings)
    assert (out / "run.json").read_bytes() == before
    (out / "mine.txt").write_text("keep")
    run(folder, out, overwrite=True, **settings)
    assert (out / "mine.txt").exists()
    assert (out / "a_cfcam.png").exists() == (name != "overlays")


def test_versions_and_weights_belong_to_the_fingerprint(tmp_path):
    run(save(tmp_path / "in", a=photo(1)), tmp_path / "out")
    stored = json.loads((tmp_path / "out/run.json").read_text())
    assert set(stored["fingerprint"]["versions"]) == {"cfcam_gpu", "torch", "torchvision"}
    assert stored["fingerprint"]["weights_sha256"] == weights_hash(make_loaded().model)
    assert stored["grid"] == [8, 8]
    assert stored["size"] == [32, 32]
    assert stored["class_names"] == ["ant", "bee", "cat"]
    assert set(stored["info"]) >= {"engine", "device", "precision", "created", "command"}
    old = {"a": 1, "b": {"c": [1], "d": 2}, "gone": 0}
    assert differences(old, {"a": 1, "b": {"c": (1,), "d": 3}, "new": "x"}) == [
        "b.d was 2, now 3", "gone was 0, now None", "new was None, now 'x'",
    ]  # fmt: skip


def test_parts_without_run_json_are_no_finished_work(tmp_path):
    folder, out = save(tmp_path / "in", a=photo(1)), tmp_path / "out"
    run(folder, out)
    (out / "run.json").unlink()
    with pytest.raises(StoreError, match=r"shards holds parts but .*run.json is missing"):
        run(folder, out)
    run(folder, out, overwrite=True)
    assert len(rows(out)) == 1


@pytest.mark.parametrize("name", ["plan.parquet", "run.json"])
def test_a_damaged_store_can_be_begun_anew(tmp_path, name):
    folder, out = save(tmp_path / "in", a=photo(1)), tmp_path / "out"
    run(folder, out)
    (out / name).write_bytes(b"damaged")
    with pytest.raises(StoreError, match=rf"{name} (is missing or damaged|cannot be read)"):
        run(folder, out)
    run(folder, out, overwrite=True)
    assert len(rows(out)) == 1


def test_a_folder_that_cannot_be_read_is_named_and_costs_nothing_that_is_done(tmp_path, monkeypatch):
    folder, out = save(tmp_path / "in", a=photo(1)), tmp_path / "out"
    save(folder / "sub", b=photo(2))
    scandir = os.scandir

    def denied(path: object) -> object:
        if str(path).endswith("/sub"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    with pytest.raises(KeyboardInterrupt):
        run(folder, out, part_size=1, batch_size=1, observer=Recorder(2))
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", denied)
        with pytest.raises(InputError, match=r"folder '.*/in/sub' cannot be read: Permission denied"):
            run(folder, out)
    assert len(open_results(out)) == 1
    assert run(folder, out).tally.ok == 2


def test_retry_failed_redoes_the_failed_rows_alone(mixed, tmp_path):
    out = tmp_path / "out"
    run(mixed, out, part_size=2)
    before = rows(out)
    save(mixed, b=photo(7))
    observer = Recorder()
    summary = run(mixed, out, retry_failed=True, observer=observer)
    assert observer.seen == ["b.png", "d.png", "f.png"]
    after = rows(out)
    for old, new in zip(before, after, strict=True):
        if old["sample_id"] != "b.png":
            np.testing.assert_equal(new, old)
    assert after[1]["status"] == "ok"
    assert (out / "b_cfcam.png").exists()
    assert summary.tally == Tally(ok=4, skipped=2, blank=summary.tally.blank)
    assert (summary.before, summary.now) == (3, 3)


@pytest.mark.parametrize(
    ("max_errors", "total", "allowed"),
    [("1%", 100, 20), ("1%", 5000, 50), ("50 %", 41, 20), ("50%", 42, 21), (3, 100, 3), ("0", 100, 0)],
)
def test_so_many_samples_may_fail(max_errors, total, allowed):
    assert RunOptions(max_errors=max_errors).allowed_errors(total) == allowed


def test_too_many_errors_stop_the_run_and_what_is_finished_stays(tmp_path):
    good = {f"a{i}": photo(i) for i in range(4)}
    folder = save(tmp_path / "in", **good, **{f"b{i}": b"" for i in range(4)})
    message = r"stopped: 3 of 7 samples failed, more than the 2 allowed; .* higher --max-errors goes on"
    with pytest.raises(TooManyErrors, match=message):
        run(folder, tmp_path / "out", part_size=2, max_errors=2)
    assert len(open_results(tmp_path / "out")) == 6
    with pytest.raises(TooManyErrors, match="stopped: 3 of 7"):
        run(folder, tmp_path / "out", max_errors=2)
    tally = run(folder, tmp_path / "out", max_errors="50%").tally
    assert (tally.ok, tally.skipped) == (4, 4)


def test_shares_do_their_own_parts_and_together_all_of_them(tmp_path):
    folder = save(tmp_path / "in", **{f"p{i}": photo(i) for i in range(7)})
    run(folder, tmp_path / "whole", part_size=2, batch_size=2)
    shared = {"part_size": 2, "batch_size": 2, "world_size": 3}
    out, left = tmp_path / "out", []
    for index in (2, 0, 1):
        summary = run(folder, out, rank=index, **shared)
        left.append(summary.others_left)
        assert summary.parts == list(range(index, 4, 3))
        assert summary.total == sum(min(2, 7 - 2 * part) for part in summary.parts)
    assert left == [3, 1, 0]
    assert open_results(out).table().equals(open_results(tmp_path / "whole").table())


def test_new_inputs_wait_while_others_share_the_folder(tmp_path):
    folder, out = save(tmp_path / "in", a=photo(1)), tmp_path / "out"

    class Intruder(Observer):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def row(self, row: dict) -> None:
            save(folder, b=photo(2))
            other = Recorder()
            run(folder, out, rank=1, world_size=2, observer=other)
            self.notes += other.notes

    intruder = Intruder()
    run(folder, out, world_size=2, observer=intruder)
    assert intruder.notes == [f"1 new sample is left to the next run, since others are writing to {out}"]
    assert len(rows(out)) == 1
    run(folder, out)
    assert [row["sample_id"] for row in rows(out)] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        ((None, None), {}, (0, 1)),
        ((1, 4), {"RANK": "0", "WORLD_SIZE": "8"}, (1, 4)),
        ((None, None), {"RANK": "3", "WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (3, 8)),
        ((None, None), {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (1, 2)),
        ((None, None), {"SLURM_NTASKS": "2"}, (0, 1)),
    ],
)
def test_the_share_is_given_or_the_launchers(given, environment, expected):
    assert share(*given, environment) == expected


def test_half_a_share_is_refused():
    with pytest.raises(ConfigError, match="--rank and --world-size belong together"):
        share(1, None, {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cmap": "rainbow"}, "unknown colour map 'rainbow'"),
        ({"alpha": 2.0}, "alpha must be"),
        ({"batch_size": 0}, "batch size must be at least 1, got 0"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"part_size": 0}, "part size must be at least 1, got 0"),
        ({"world_size": 0}, "world size must be at least 1, got 0"),
        ({"rank": 2, "world_size": 2}, "rank must be from 0 to 1 for a world size of 2, got 2"),
        ({"world_size": 2, "overwrite": True}, "several runs that share a folder cannot each begin it anew"),
        ({"sample_timeout": float("nan")}, "sample timeout must be a number of seconds above 0, got nan"),
        ({"overlays": "gif"}, "unknown overlays 'gif'; choose one of: none, png, jpeg, webp"),
        ({"max_errors": "1/2"}, "max errors must be a number or a share like 50 or 1%, got '1/2'"),
        ({"max_errors": "101%"}, "max errors must be a number or a share like 50 or 1%, got '101%'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_settings_are_checked_before_anything_is_read(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "missing", tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_what_concerns_the_whole_run_is_said_before_anything_is_written(tmp_path):
    folder = save(tmp_path / "in", a=photo(1))
    with pytest.raises(InputError, match=r"input .*missing' does not exist"):
        run(tmp_path / "missing", tmp_path / "out")
    with pytest.raises(TargetError, match="must be from 0 to 2, got 7"):
        run(folder, tmp_path / "out", target=7)
    assert not (tmp_path / "out").exists()


def test_only_a_few_batches_are_decoded_ahead(tmp_path, monkeypatch):
    folder = save(tmp_path / "in", **{f"p{i:02}": photo(i) for i in range(40)})
    decoded = itertools.count()

    class Counting(InlinePool):
        def submit(self, task, *arguments):
            self.count = next(decoded) + 1
            return super().submit(task, *arguments)

    pool = Counting()
    explainer = BatchExplainer(
        make_loaded(), CFCAM(make_loaded().model, on_invalid="flag"), torch.device("cpu"), 4
    )
    pipeline = Pipeline(explainer, pool, 4, 8, None, lambda: None)
    works = (
        PendingPart(
            part, [Sample(str(i), str(folder / f"p{i:02}.png")) for i in range(part * 4, part * 4 + 4)]
        )
        for part in range(10)
    )
    ahead = [pool.count - 4 * (part + 1) for part, _ in pipeline(works, lambda row: None)]
    assert max(ahead) <= 16
    assert ahead[-1] == 0


def decoded(count: int) -> tuple[list[View], list[Sample]]:
    """The first photos as the worker processes give them, and their samples."""
    views = [View(PLAIN.view(photo(i)), 60, 45) for i in range(count)]
    return views, [Sample(str(i), f"{i}.png") for i in range(count)]


class SmallMemory(CFCAM):
    """Holds two images at once; remembers what it was given."""

    def __call__(self, images, targets=None, **kwargs):
        self.seen = [*getattr(self, "seen", []), len(images)]
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().__call__(images, targets, **kwargs)


def test_out_of_memory_halves_the_batch_and_the_run_goes_on(caplog):
    loaded = make_loaded()
    views, samples = decoded(11)
    cam = SmallMemory(loaded.model, on_invalid="flag")
    explainer = BatchExplainer(loaded, cam, torch.device("cpu"), 5)
    with caplog.at_level(logging.WARNING, logger="cfcam_gpu"):
        found = [row for i in (0, 5, 10) for row in explainer.explain(views[i : i + 5], samples[i : i + 5])]
    assert cam.seen == [5, 2, 2, 1, 2, 2, 1, 1]
    assert caplog.messages == ["out of memory with 5 images at once; going on with 2"]
    plain = BatchExplainer(loaded, CFCAM(loaded.model, on_invalid="flag"), torch.device("cpu"), 16)
    expected = plain.explain(views, samples)
    assert [row["prob"] for row in found] == pytest.approx([row["prob"] for row in expected])


class FailingCam:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, *args: object, **options: object) -> None:
        raise self.error


MEMORY = r"out of memory with images \(1, 3, 32, 32\); use a smaller --size"
FAILED = r"the model failed on images \(1, 3, 32, 32\): %s; check that it accepts this --size"


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
def test_a_model_that_fails_ends_the_run_in_one_line(error, count, message):
    explainer = BatchExplainer(make_loaded(), FailingCam(error), torch.device("cpu"), 16)
    with pytest.raises(CFCAMError, match=message) as caught:
        explainer.explain(*decoded(count))
    assert "\n" not in str(caught.value)


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


def test_a_second_run_into_the_folder_at_the_same_time_is_refused(tmp_path):
    folder, out, caught = save(tmp_path / "in", a=photo(1)), tmp_path / "out", []

    class Second(Observer):
        def row(self, row: dict) -> None:
            with pytest.raises(StoreError, match=rf"by another run \(process {os.getpid()} on"):
                run(folder, out)
            caught.append(time.monotonic())

    run(folder, out, observer=Second())
    assert len(caught) == 1


def test_the_choice_made_in_decoding_is_recorded(tmp_path):
    folder = save(tmp_path / "in", b=photo(1))
    gray = np.linspace(0, 4095, 60 * 45).astype(np.uint16).reshape(45, 60)
    Image.fromarray(gray).save(folder / "a.tif", tiffinfo={340: 0, 341: 4095})  # S{Min,Max}SampleValue
    run(folder, tmp_path / "out")
    wide, plain = rows(tmp_path / "out")
    assert wide["decoding"].startswith("0 to 4095")
    assert plain["decoding"] is None
