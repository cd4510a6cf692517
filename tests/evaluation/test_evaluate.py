"""Evaluations: right rows, the same however a run is cut up or ended, masks in the model's view, and clear refusals."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cfcam_gpu import cli
from cfcam_gpu.capture import model_runner
from cfcam_gpu.config import CFCAMConfig
from cfcam_gpu.dataset import explain_dataset, open_results
from cfcam_gpu.dataset.execution.observer import Interrupted, Observer
from cfcam_gpu.dataset.store.plan import Plan
from cfcam_gpu.dataset.store.schema import table_to_rows
from cfcam_gpu.errors import ConfigError, InputError, ModelError, StoreError
from cfcam_gpu.evaluation import cost, evaluate
from cfcam_gpu.evaluation import run as evaluation_run
from cfcam_gpu.evaluation.evaluator import sample_seed
from cfcam_gpu.evaluation.maps import BatchMaps, normaliser
from cfcam_gpu.evaluation.store import EvaluationStore
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.images.preprocess import Preprocess
from cfcam_gpu.methods import METHODS as METHOD_TABLE
from cfcam_gpu.metrics.options import MetricOptions
from tests.helpers.launcher import Launcher, is_alive, wait_until
from tests.helpers.smallnet import PLAIN, POISON, make_loaded, photo, save

OK, FAILED, USAGE, SKIPPED = 0, 1, 2, 3
METHODS = ("cfcam", "gradcam")
FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 3)
    )
"""
FAST = ("--metrics", "drop,class_sensitivity", "--no-plots")
TINY = (
    "--model",
    "py:evalnet:make",
    "--size",
    "32",
    "--device",
    "cpu",
    "--engine",
    "torch",
    "--workers",
    "0",
)


def measure(inputs: str | Path | list[str], out: Path, **settings: Any) -> Any:
    """An evaluation of the small network without worker processes and plots."""
    defaults = {"workers": 0, "device": "cpu", "engine": "torch", "layer": "conv:relu", "plots": False}
    defaults |= {"metrics": ("drop", "class_sensitivity")}
    given = inputs if isinstance(inputs, list) else [str(inputs)]
    settings = {**defaults, **settings}
    return evaluate(given, out, settings.pop("model", None) or make_loaded(), **settings)


def table(out: Path) -> pa.Table:
    return pq.read_table(out / "metrics.parquet", partitioning=None)


def rows(out: Path, *names: str) -> list[dict[str, Any]]:
    return table(out).select(["sample_id", "method", *names]).to_pylist()


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The tensors are small: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds are not looked at but in the test of the turns."""
    monkeypatch.setattr(cost, "FEWEST", 1)
    monkeypatch.setattr(cost, "ENOUGH", 0.0)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return save(tmp_path / "in", **{f"p{i}": photo(i) for i in range(5)})


@dataclass
class Ended:
    status: int
    out: str
    err: str


def command(*arguments: str) -> Ended:
    """`cfcam evaluate in --out out` of a small model; later arguments count."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(
        cli.app, ["evaluate", "in", "--out", "out", *TINY, *FAST, *arguments]
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def work(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of commands: a model, and five pictures in `in/`."""
    folder = pictures.parent
    (folder / "evalnet.py").write_text(FACTORY)
    monkeypatch.chdir(folder)
    return folder


def test_rows_hold_what_the_methods_and_metrics_give(pictures, tmp_path):
    loaded, out = make_loaded(), tmp_path / "out"
    summary = measure(pictures, out, methods=["cfcam", "gradcam", "random"], batch_size=2, part_size=3)
    found = table(out)
    assert found["method"].to_pylist() == ["cfcam", "gradcam", "random"] * 5
    assert summary.run.tally.ok == summary.run.total == 5
    views = torch.stack([torch.from_numpy(PLAIN.view(photo(i))) for i in range(5)])
    images = views.permute(0, 3, 1, 2).float() / 255
    for position, method in enumerate(("cfcam", "gradcam")):
        with CFCAM(loaded.model, "conv:relu", engine="torch", method=method) as cam:
            expected = cam(images)
        mine = found.slice(position).take(list(range(0, 15 - position, 3)))
        grids = torch.tensor(mine["grid"].combine_chunks().to_numpy_ndarray())
        torch.testing.assert_close(grids, expected.grid, rtol=1e-5, atol=1e-7)
        clean = expected.logits.softmax(1).amax(1)
        masked = loaded.model(images * expected.heatmap[:, None]).softmax(1)
        left = masked.gather(1, expected.targets[:, None])[:, 0]
        drop = ((clean - left) / clean).clamp_min(0).detach()
        torch.testing.assert_close(torch.tensor(mine["average_drop"].to_pylist()), drop, rtol=1e-4, atol=1e-5)
        mean = summary.found["methods"][method]["average_drop"]["mean"]
        assert mean == pytest.approx(drop.mean().item(), rel=1e-4, abs=1e-5)


def test_an_image_does_not_depend_on_its_batch_or_its_neighbours(pictures, tmp_path):
    metrics = ("drop", "deletion", "gradient_noise", "input_noise")
    measuring = MetricOptions(steps=5, noise_draws=1)
    settings = {"metrics": metrics, "measuring": measuring, "methods": ["gradcam"]}
    measure(pictures, tmp_path / "all", batch_size=5, **settings)
    measure([str(pictures / "p3.png")], tmp_path / "one", batch_size=1, **settings)
    (pictures / "p0.png").unlink()
    measure(pictures, tmp_path / "fewer", batch_size=3, **settings)
    names = ["average_drop", "deletion_black_auc", "gradient_noise_ssim", "input_noise_ssim"]
    whole = {row["sample_id"]: [row[name] for name in names] for row in rows(tmp_path / "all", *names)}
    fewer = {row["sample_id"]: [row[name] for name in names] for row in rows(tmp_path / "fewer", *names)}
    assert fewer.keys() == whole.keys() - {"p0.png"}
    for key, values in fewer.items():
        assert values == pytest.approx(whole[key], abs=1e-5), key


def test_a_repeated_run_gives_the_same_bytes_of_rows(pictures, tmp_path):
    measure(pictures, tmp_path / "a", metrics=("drop", "gradient_noise"))
    measure(pictures, tmp_path / "b", metrics=("drop", "gradient_noise"))
    assert table(tmp_path / "a").equals(table(tmp_path / "b"))
    first, second = (json.loads((tmp_path / n / "summary.json").read_text()) for n in "ab")
    assert {**first, "cost": 0} == {**second, "cost": 0}


def test_a_signal_ends_a_run_in_the_middle_of_a_batch(pictures, tmp_path):
    class Stopping(Observer):
        ticks = 0

        def tick(self) -> None:
            self.ticks += 1
            if self.ticks == 60:
                raise Interrupted(signal.SIGTERM)

    settings = {"metrics": ["deletion"], "measuring": MetricOptions(batch_size=4)}
    with pytest.raises(Interrupted):
        measure(pictures, tmp_path / "out", observer=Stopping(), **settings)
    measure(pictures, tmp_path / "out", **settings)
    assert len(table(tmp_path / "out")) == 10


def test_shares_make_the_same_table_as_one_run(pictures, tmp_path):
    settings = {"part_size": 2, "batch_size": 2}
    measure(pictures, tmp_path / "one", **settings)
    first = measure(pictures, tmp_path / "two", rank=0, world_size=2, **settings)
    assert first.found is None
    assert first.run.others_left == 1
    assert not (tmp_path / "two/metrics.parquet").exists()
    second = measure(pictures, tmp_path / "two", rank=1, world_size=2, **settings)
    assert second.run.others_left == 0
    assert table(tmp_path / "two").equals(table(tmp_path / "one"))
    assert second.found["methods"] == json.loads((tmp_path / "one/summary.json").read_text())["methods"]


def test_a_failed_sample_is_a_row_and_a_repaired_one_is_redone(pictures, tmp_path):
    good = (pictures / "p1.png").read_bytes()
    measure(pictures, tmp_path / "whole", part_size=3)
    (pictures / "p1.png").write_bytes(good[:100])
    out = tmp_path / "out"
    first = measure(pictures, out, part_size=3)
    assert (first.run.tally.ok, first.run.tally.skipped) == (4, 1)
    (row,) = [row for row in rows(out, "status", "stage", "message", "blank") if row["status"] != "ok"]
    assert (row["sample_id"], row["method"], row["stage"], row["blank"]) == ("p1.png", None, "decode", None)
    assert row["message"]
    assert first.found["failed"] == 1
    (pictures / "p1.png").write_bytes(good)
    again = measure(pictures, out, part_size=3, retry_failed=True)
    assert (again.run.now, again.run.before, again.run.tally.skipped) == (1, 4, 0)
    names = [name for name in table(out).column_names if name != "decoding"]
    assert len(names) == 24
    for redone, whole in zip(rows(out, *names), rows(tmp_path / "whole", *names), strict=True):
        grids = redone.pop("grid"), whole.pop("grid")
        assert grids[0] == pytest.approx(grids[1], abs=1e-6)
        numbers = {name for name, value in whole.items() if isinstance(value, float)}
        for name in whole:  # the redone one was in a batch of its own: equal but for rounding
            expected = pytest.approx(whole[name], abs=1e-5) if name in numbers else whole[name]
            assert redone[name] == expected, name


def test_an_image_that_a_method_cannot_explain_counts_for_none(tmp_path):
    folder = save(tmp_path / "in", a=photo(1), b=Image.new("RGB", (60, 45), POISON), c=photo(2))
    summary = measure(folder, tmp_path / "out", batch_size=3)
    alone = measure(save(tmp_path / "two", a=photo(1), c=photo(2)), tmp_path / "alone", batch_size=3)
    (row,) = [row for row in rows(tmp_path / "out", "status", "stage", "message") if row["method"] is None]
    assert row["message"] == "cfcam: the layer's activations contain NaN or Inf"
    assert row["stage"] == "explain"
    found, expected = (s.found["methods"]["gradcam"]["average_drop"] for s in (summary, alone))
    assert found == pytest.approx(expected)


def test_configurations_of_ones_own_have_a_name_of_ones_own(pictures, tmp_path):
    methods = {"all clustered": CFCAMConfig(dominant_percentile=None), "plain": "gradcam"}
    summary = measure(pictures, tmp_path / "out", methods=methods, baseline="plain")
    assert list(summary.found["methods"]) == ["all clustered", "plain"]
    assert list(summary.found["paired"]) == ["all clustered"]
    stored = json.loads((tmp_path / "out/evaluation.json").read_text())["fingerprint"]["methods"]
    assert stored["all clustered"]["config"]["dominant_percentile"] is None
    assert stored["plain"] == {"method": "gradcam"}


def test_maps_of_two_resolutions_are_stored_at_the_larger(pictures, tmp_path):
    """And a share of the finer layer is part of what makes two evaluations the same."""
    methods = {"coarse": "cfcam", "fine": ("cfcam-fine", CFCAMConfig(fine_share=0.5))}
    measure(pictures, tmp_path / "out", methods=methods, finer_layer="stem")
    grids = {row["method"]: row["grid"] for row in table_to_rows(table(tmp_path / "out"))}
    assert {name: grid.shape for name, grid in grids.items()} == {"coarse": (32, 32), "fine": (32, 32)}
    again = {**methods, "fine": ("cfcam-fine", CFCAMConfig(fine_share=0.6))}
    with pytest.raises(StoreError, match=r"methods.fine.config.fine_share was 0.5, now 0.6"):
        measure(pictures, tmp_path / "out", methods=again, finer_layer="stem")
    with pytest.raises(ConfigError, match="looks at one layer"):
        measure(pictures, tmp_path / "other", finer_layer="stem")


def test_more_maps_of_a_batch_agree_with_its_own():
    loaded = make_loaded()
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    preprocess = Preprocess((32, 32), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    normalise = normaliser(preprocess)
    for method in METHODS:
        cam = CFCAM(loaded.model, "conv:relu", engine="auto", method=method)
        features = cam.features(normalise(images))
        own, targets = cam.explain(features).heatmap, features.targets[:, 0]
        maps = BatchMaps(cam, features, normalise, at_once=2)
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


def test_seeds_belong_to_the_id_alone():
    seeds = [sample_seed(f"p{i}.png") for i in range(1000)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sample_seed("a.png") == sample_seed("a.png")


def test_methods_take_turns_and_the_median_counts(monkeypatch):
    calls, now = [], [0.0]
    durations = {"slow": 2.0, "fast": 0.25}
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])

    def cam(name: str) -> Any:
        def run(images: torch.Tensor, targets: torch.Tensor, **_: Any) -> None:
            calls.append(name)
            now[0] += 50.0 if calls == ["slow"] else durations[name]

        run.method = METHOD_TABLE["gradcam"]
        return run

    images = torch.zeros(4, 3, 8, 8)
    for name, value in {"FEWEST": 3, "ENOUGH": 1.0, "TOO_LONG": 100.0}.items():
        monkeypatch.setattr(cost, name, value)
    found = cost.images_per_second({n: cam(n) for n in durations}, images, torch.zeros(4))
    assert calls == ["slow", "fast"] * 3
    assert found == {"slow": 2.0, "fast": 16.0}


def mask_of(picture: Image.Image) -> np.ndarray:
    """(45,60) uint8, 255 in a rectangle, of the size of a `photo`."""
    mask = np.zeros((picture.height, picture.width), np.uint8)
    mask[5:25, 10:40] = 255
    return mask


LOCALISATION = ("pointing", "energy_inside", "iou_25")


def test_masks_of_a_folder_a_manifest_and_boxes_agree(pictures, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for i in range(3):
        Image.fromarray(mask_of(photo(i))).save(masks / f"p{i}.png")
    lines = [f"in/p{i}.png,masks/p{i}.png," for i in range(2)] + ['in/p2.png,,"10,5,40,25"', "in/p3.png,,"]
    (tmp_path / "list.csv").write_text("\n".join(["path,mask,box", *lines, "in/p4.png,,"]))
    metrics = {"metrics": ("localisation", "drop")}
    measure(pictures, tmp_path / "folder", masks=masks, **metrics)
    summary = measure([str(tmp_path / "list.csv")], tmp_path / "list", **metrics)
    names = ("masked", "average_drop", *LOCALISATION)
    folder, manifest = (rows(tmp_path / name, *names) for name in ("folder", "list"))
    assert [{**row, "sample_id": f"in/{row['sample_id']}"} for row in folder] == manifest
    assert [row["masked"] for row in folder] == [True] * 6 + [False] * 4
    assert all(row["iou_25"] is not None for row in folder[:6])
    assert all(row["iou_25"] is None for row in folder[6:])
    assert summary.found["methods"]["cfcam"]["iou_25"]["n"] == 3
    assert summary.found["methods"]["cfcam"]["average_drop"]["n"] == 5


def test_the_default_measures_localisation_where_there_are_masks(pictures, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.fromarray(mask_of(photo(0))).save(masks / "p0.png")
    few = {"methods": ["gradcam"], "measuring": MetricOptions(steps=3, noise_draws=1), "metrics": None}
    measure(pictures, tmp_path / "with", masks=masks, **few)
    measure(pictures, tmp_path / "without", **few)
    assert "iou_25" in table(tmp_path / "with").column_names
    assert "iou_25" not in table(tmp_path / "without").column_names


def test_a_mask_that_changed_is_noticed_when_a_run_goes_on(pictures, tmp_path):
    masks, out = tmp_path / "masks", tmp_path / "out"
    save(masks, p0=Image.fromarray(mask_of(photo(0))))
    measure(pictures, out, masks=masks)
    save(masks, p1=Image.fromarray(mask_of(photo(1))))
    with pytest.raises(
        StoreError, match=r"mask of sample 'p1\.png' is None, now it is .*masks/p1\.png; choose"
    ):
        measure(pictures, out, masks=masks)


def test_a_mask_of_another_size_is_a_failed_row(pictures, tmp_path):
    masks = save(tmp_path / "masks", p0=Image.fromarray(mask_of(photo(0))), p1=Image.new("L", (4, 4), 1))
    summary = measure(pictures, tmp_path / "out", masks=masks, metrics=["localisation"])
    (row,) = [row for row in rows(tmp_path / "out", "status", "stage", "message") if row["status"] != "ok"]
    assert (row["sample_id"], row["stage"]) == ("p1.png", "mask")
    assert "has 4 by 4 pixels, its image 60 by 45" in row["message"]
    assert summary.run.tally.skipped == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('in/p0.png,,"4,5,3,9"', "line 2: box '4,5,3,9' must be x0,y0,x1,y1 in pixels with x0 < x1"),
        ("in/p0.png,,wide", "line 2: box 'wide' must be"),
        ("in/p0.png,../m.png,", r"line 2: mask '\.\./m\.png' leaves the manifest's folder"),
        ('in/p0.png,m.png,"0,0,4,4"', "line 2: there are a mask and a box; leave one empty"),
    ],
)
def test_a_mistake_in_a_manifests_masks_concerns_only_evaluations(pictures, tmp_path, line, message):
    (tmp_path / "list.csv").write_text(f"path,mask,box\n{line}\n")
    with pytest.raises(InputError, match=message):
        measure([str(tmp_path / "list.csv")], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    settings = {"workers": 0, "device": "cpu", "overlays": "none", "layer": "conv:relu"}
    summary = explain_dataset([str(tmp_path / "list.csv")], tmp_path / "maps", make_loaded(), **settings)
    assert summary.tally.ok == 1


def test_a_parquet_manifest_may_hold_boxes_as_lists(pictures, tmp_path):
    columns = {"path": ["in/p0.png", "in/p1.png"], "box": [[10.0, 5.0, 40.0, 25.0], None]}
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    measure([str(tmp_path / "list.parquet")], tmp_path / "out", metrics=["localisation"])
    assert [row["masked"] for row in rows(tmp_path / "out", "masked")] == [True, True, False, False]


def test_a_plan_of_before_masks_is_read(pictures, tmp_path):
    measure(pictures, tmp_path / "out")
    plan = pq.read_table(tmp_path / "out/plan.parquet")
    pq.write_table(plan.drop_columns(["mask"]), tmp_path / "old.parquet")
    assert [sample.mask for sample in Plan(tmp_path / "old.parquet").samples(0)] == [None] * 5


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"metrics": ["deletoin"]},
            ConfigError,
            r"unknown metric 'deletoin' \(did you mean deletion\?\); choose",
        ),
        (
            {"methods": ["gradcma"]},
            ConfigError,
            r"unknown method 'gradcma' \(did you mean gradcam\?\); choose",
        ),
        ({"methods": ["gradcam:upstream"]}, ConfigError, "only cfcam has presets"),
        ({"methods": ["gradcam", "gradcam"]}, ConfigError, "method 'gradcam' is named twice"),
        ({"methods": []}, ConfigError, "no method is given"),
        ({"metrics": "drop"}, ConfigError, "metrics must be a list of names, got the text 'drop'"),
        (
            {"metrics": ["drop", "localisation"]},
            ConfigError,
            "metric 'localisation' needs masks .* no image has",
        ),
        ({"masks": "nowhere"}, InputError, "the folder of masks 'nowhere' does not exist"),
        ({"masks": "."}, InputError, "has none for any of the inputs; the mask of 'p0.png' would be p0.png"),
        ({"level": 1.0}, ConfigError, "a level between 0 and 1"),
        ({"overlays": "png"}, ConfigError, "an evaluation takes no overlays"),
        ({"method": "gradcam"}, ConfigError, "an evaluation takes no method; give methods"),
        ({"config": CFCAMConfig(filter="none")}, ConfigError, "an evaluation takes no config; give methods"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(work, settings, error, message):
    def loads() -> None:
        pytest.fail("nothing may run before the settings are known to be good")

    with pytest.raises(error, match=message):
        measure("in", work / "out", model=loads, **settings)
    assert not (work / "out").exists()


def test_another_evaluation_in_the_folder_is_refused_by_its_differences(pictures, tmp_path):
    out = tmp_path / "out"
    measure(pictures, out)
    with pytest.raises(StoreError, match=r"another run: methods\.gradcam was .*'gradcam'.*, now None"):
        measure(pictures, out, methods=["cfcam"])
    with pytest.raises(StoreError, match=r"another run: metrics was .*, now \['drop'\]"):
        measure(pictures, out, metrics=["drop"])
    with pytest.raises(StoreError, match=r"measuring\.seed was 0, now 1"):
        measure(pictures, out, measuring=MetricOptions(seed=1))
    assert measure(pictures, out).run.before == 5


def test_explanations_and_evaluations_do_not_share_a_folder(pictures, tmp_path):
    settings = {"workers": 0, "device": "cpu", "overlays": "none", "layer": "conv:relu"}
    explain_dataset([str(pictures)], tmp_path / "maps", make_loaded(), **settings)
    with pytest.raises(StoreError, match="holds a run of cfcam explain; choose another output folder"):
        measure(pictures, tmp_path / "maps")
    measure(pictures, tmp_path / "measured")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match=r"holds an evaluation, .*; choose another output folder"):
            explain_dataset(
                [str(pictures)], tmp_path / "measured", make_loaded(), overwrite=overwrite, **settings
            )
    assert len(table(tmp_path / "measured")) == 10
    with pytest.raises(StoreError, match=r"holds an evaluation, .* needs the folder of a cfcam explain run"):
        open_results(tmp_path / "measured")


def test_overwriting_removes_what_the_evaluation_made_and_nothing_else(pictures, tmp_path):
    out = tmp_path / "out"
    measure(pictures, out, part_size=1, plots=True)
    assert {path.name for path in (out / "plots").iterdir()} >= {"bars.png", "grid.png"}
    (out / "notes.txt").write_text("mine")
    measure(pictures, out, metrics=["drop"], overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert not list((out / "plots").iterdir())
    assert len(EvaluationStore(out, ()).finished_parts()) == 1
    assert "similarity_least" not in table(out).column_names
    assert "class_sensitivity" not in (out / "report.html").read_text()


def test_without_matplotlib_the_numbers_are_there_and_a_line_says_so(pictures, tmp_path, monkeypatch, caplog):
    def missing() -> None:
        raise ModelError("matplotlib is not installed")

    monkeypatch.setattr(evaluation_run, "check_plots", missing)
    summary = measure(pictures, tmp_path / "out", plots=True)
    assert caplog.messages[-1] == "no plots are drawn: matplotlib is not installed"
    assert summary.plots == ()
    assert summary.page.exists()


def test_the_command_prints_a_table_with_marks_and_speed(work):
    ended = command("--methods", "cfcam,cfcam:upstream,gradcam")
    assert ended.status == OK
    lines = ended.out.splitlines()
    assert lines[0].split() == ["metric", "cfcam", "cfcam:upstream", "gradcam"]
    assert "average drop ↓" in ended.out
    assert "1.00 × gradcam" in ended.out  # noqa: RUF001
    stored = json.loads((work / "out/summary.json").read_text())
    entry = stored["methods"]["gradcam"]["average_drop"]
    assert f"{entry['mean']:.3f}" in ended.out
    assert f"[{entry['low']:.3f}, {entry['high']:.3f}]" in ended.out
    assert lines[-2].startswith("evaluated 3 methods on 5 of 5 images in")
    assert lines[-1] == "report: out/report.html"
    assert stored["cost"].keys() == {"cfcam", "cfcam:upstream", "gradcam"}
    assert all(speed > 0 for speed in stored["cost"].values())


def test_json_is_one_object_and_a_bad_image_a_status_of_its_own(work):
    (work / "in/cut.png").write_bytes((work / "in/p0.png").read_bytes()[:90])
    ended = command("--json")
    assert ended.status == SKIPPED
    assert "skipped in/cut.png: " in ended.err
    found = json.loads(ended.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    blank = len({row["sample_id"] for row in rows(work / "out", "blank") if row["blank"]})
    assert found["counts"] == {"ok": 5, "skipped": 1, "blank": blank}
    assert found["methods"] == ["cfcam", "gradcam"]
    assert found["metrics"] == ["drop", "class_sensitivity"]
    assert found["summary"]["failed"] == 1
    assert found["summary"]["methods"]["cfcam"]["average_drop"]["n"] == 5
    assert "curves" not in found["summary"]
    assert found["report"] == "out/report.html"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ("--metrics", "drops"),
            USAGE,
            "error: unknown metric 'drops' (did you mean drop?); choose one of: ",
        ),
        (
            ("--metrics", "drop,,road"),
            USAGE,
            "error: --metrics takes names divided by commas, got 'drop,,road'",
        ),
        (("--methods", "cam"), USAGE, "error: unknown method 'cam'"),
        (
            ("--metrics", "localisation"),
            USAGE,
            "error: metric 'localisation' needs masks of the objects and no",
        ),
        (("--masks", "nowhere"), FAILED, "error: the folder of masks 'nowhere' does not exist"),
        (("--steps", "1"), USAGE, "error: steps must be an integer of at least 2, got 1"),
        (("--layer", "9"), FAILED, "error: "),
    ],
)
def test_mistakes_end_in_one_line(work, arguments, status, message):
    ended = command(*arguments)
    assert ended.status == status
    assert ended.err.startswith(message)
    assert ended.err.count("\n") == 1
    assert ended.out == ""


def test_a_share_says_that_others_are_left(work):
    ended = command("--part-size", "2", "--rank", "1", "--world-size", "2", "--json")
    assert ended.status == OK
    assert "2 parts of other processes are not done yet" in ended.err
    found = json.loads(ended.out)
    assert (found["summary"], found["report"], found["others_left"]) == (None, None, 2)


@pytest.fixture
def launcher(work: Path) -> Iterator[Launcher]:
    started = Launcher(work)
    yield started
    started.close()


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_ends_the_same(work, launcher):
    save(work / "in", **{f"q{i:02}": photo(i) for i in range(40)})
    arguments = ("evaluate", "in", *TINY, *FAST, "--part-size", "2", "--batch-size", "2", "--out")
    assert launcher.run(*arguments, "whole").status == OK
    for number in (signal.SIGKILL, signal.SIGINT):
        out = work / f"ended{number}"
        process = launcher.start(*arguments, str(out))
        store = EvaluationStore(out, ())
        wait_until(
            lambda store=store, process=process: len(store.finished_parts()) >= 2 or not is_alive(process.pid)
        )
        process.kill(number)
        assert process.wait().status == {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130}[number]
        assert not (out / "metrics.parquet").exists()
        ended = launcher.run(*arguments, str(out))
        assert ended.status == OK, ended.err
        assert "samples were done before" in ended.err
        assert table(out).equals(table(work / "whole"))
        assert not list(out.rglob("*.part"))


def test_a_slow_method_can_be_ended_in_the_middle(pictures, tmp_path, monkeypatch):
    """Score-CAM runs the model once for each channel: the signal is looked for between these passes."""
    monkeypatch.setitem(model_runner.CHUNK_BYTES, "cpu", 1)
    passes: list[int] = []
    loaded = make_loaded()
    loaded.model.register_forward_hook(lambda *_: passes.append(1))

    class Impatient(Observer):
        def tick(self) -> None:
            if len(passes) > 12:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(pictures, tmp_path / "out", model=loaded, methods=("scorecam",), observer=Impatient())
    assert len(passes) < 40


def test_a_baseline_must_be_among_the_methods(pictures, tmp_path):
    with pytest.raises(ConfigError, match="the baseline 'gradcma' is none of the methods: cfcam, gradcam"):
        measure(pictures, tmp_path / "out", baseline="gradcma")


@pytest.mark.parametrize("good", [0, 1])
def test_plots_of_an_evaluation_in_which_images_failed(tmp_path, good):
    """With none that succeeded there is nothing to draw, and a page that says so."""
    pictures = save(tmp_path / "in", bad=b"no image", **{f"good{i}": photo(i) for i in range(good)})
    found = measure(pictures, tmp_path / "out", plots=True)
    assert found.page == tmp_path / "out" / "report.html"
    assert [path.name for path in found.plots] == (["bars.png", "grid.png"] if good else [])
