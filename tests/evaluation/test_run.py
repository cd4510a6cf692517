"""Evaluations from the inputs to the page: right rows, the same however a run is cut up or ended."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cfcam_gpu.capture import model_runner
from cfcam_gpu.config import CFCAMConfig
from cfcam_gpu.dataset.execution.observer import Interrupted, Observer
from cfcam_gpu.dataset.store.schema import table_to_rows
from cfcam_gpu.errors import ConfigError, MissingPackageError, StoreError
from cfcam_gpu.evaluation import run as evaluation_run
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.metrics.options import MetricOptions
from tests.helpers.small_evaluation import evaluate_small, finished, stored_rows, stored_table
from tests.helpers.smallnet import PLAIN, POISON, make_loaded, photo, save


def test_rows_hold_what_the_methods_and_metrics_give(pictures, tmp_path):
    loaded, out = make_loaded(), tmp_path / "out"
    summary = evaluate_small(pictures, out, methods=["cfcam", "gradcam", "random"], batch_size=2, part_size=3)
    table = stored_table(out)
    assert table["method"].to_pylist() == ["cfcam", "gradcam", "random"] * 5
    assert summary.run.tally.ok == summary.run.total == 5
    views = torch.stack([torch.from_numpy(PLAIN.view(photo(i))) for i in range(5)])
    images = views.permute(0, 3, 1, 2).float() / 255
    for position, method in enumerate(("cfcam", "gradcam")):
        with CFCAM(loaded.model, "conv:relu", engine="torch", method=method) as cam:
            expected = cam(images)
        assert expected.logits is not None
        assert expected.targets is not None
        mine = table.slice(position).take(list(range(0, 15 - position, 3)))
        grids = torch.tensor(mine["grid"].combine_chunks().to_numpy_ndarray())
        torch.testing.assert_close(grids, expected.grid, rtol=1e-5, atol=1e-7)
        clean = expected.logits.softmax(1).amax(1)
        masked = loaded.model(images * expected.heatmap[:, None]).softmax(1)
        left = masked.gather(1, expected.targets[:, None])[:, 0]
        drop = ((clean - left) / clean).clamp_min(0).detach()
        torch.testing.assert_close(torch.tensor(mine["average_drop"].to_pylist()), drop, rtol=1e-4, atol=1e-5)
        mean = finished(summary)["methods"][method]["average_drop"]["mean"]
        assert mean == pytest.approx(drop.mean().item(), rel=1e-4, abs=1e-5)


def test_an_image_does_not_depend_on_its_batch_or_its_neighbours(pictures, tmp_path):
    metrics = ("drop", "deletion", "gradient_noise", "input_noise")
    measuring = MetricOptions(steps=5, noise_draws=1)
    settings = {"metrics": metrics, "measuring": measuring, "methods": ["gradcam"]}
    evaluate_small(pictures, tmp_path / "all", batch_size=5, **settings)
    evaluate_small([str(pictures / "p3.png")], tmp_path / "one", batch_size=1, **settings)
    (pictures / "p0.png").unlink()
    evaluate_small(pictures, tmp_path / "fewer", batch_size=3, **settings)
    names = ["average_drop", "deletion_black_auc", "gradient_noise_ssim", "input_noise_ssim"]
    whole = {row["sample_id"]: [row[name] for name in names] for row in stored_rows(tmp_path / "all", *names)}
    fewer = {
        row["sample_id"]: [row[name] for name in names] for row in stored_rows(tmp_path / "fewer", *names)
    }
    assert fewer.keys() == whole.keys() - {"p0.png"}
    for key, values in fewer.items():
        assert values == pytest.approx(whole[key], abs=1e-5), key


def test_a_repeated_run_gives_the_same_bytes_of_rows(pictures, tmp_path):
    evaluate_small(pictures, tmp_path / "a", metrics=("drop", "gradient_noise"))
    evaluate_small(pictures, tmp_path / "b", metrics=("drop", "gradient_noise"))
    assert stored_table(tmp_path / "a").equals(stored_table(tmp_path / "b"))
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
        evaluate_small(pictures, tmp_path / "out", observer=Stopping(), **settings)
    evaluate_small(pictures, tmp_path / "out", **settings)
    assert len(stored_table(tmp_path / "out")) == 10


def test_an_observer_learns_how_far_a_batch_is(pictures, tmp_path):
    seen: list[int] = []

    class Steps(Observer):
        def step(self, steps: int) -> None:
            seen.append(steps)

    settings = {"metrics": ["deletion"], "measuring": MetricOptions(batch_size=4), "batch_size": 3}
    evaluate_small(pictures, tmp_path / "out", observer=Steps(), **settings)
    within = [steps for steps, before in zip(seen[1:], seen, strict=False) if steps != before]
    first = within[: within.index(max(within)) + 1]
    assert first == list(range(1, max(within) + 1))
    assert max(within) > 100  # 5 images at 101 levels, 4 at a time, for two methods
    assert within[len(first) :][0] in (0, 1)


def test_shares_make_the_same_table_as_one_run(pictures, tmp_path):
    settings = {"part_size": 2, "batch_size": 2}
    evaluate_small(pictures, tmp_path / "one", **settings)
    first = evaluate_small(pictures, tmp_path / "two", rank=0, world_size=2, **settings)
    assert first.summary is None
    assert first.run.others_left == 1
    assert not (tmp_path / "two/metrics.parquet").exists()
    second = evaluate_small(pictures, tmp_path / "two", rank=1, world_size=2, **settings)
    assert second.run.others_left == 0
    assert stored_table(tmp_path / "two").equals(stored_table(tmp_path / "one"))
    assert finished(second)["methods"] == json.loads((tmp_path / "one/summary.json").read_text())["methods"]


def test_a_failed_sample_is_a_row_and_a_repaired_one_is_redone(pictures, tmp_path):
    good = (pictures / "p1.png").read_bytes()
    evaluate_small(pictures, tmp_path / "whole", part_size=3)
    (pictures / "p1.png").write_bytes(good[:100])
    out = tmp_path / "out"
    first = evaluate_small(pictures, out, part_size=3)
    assert (first.run.tally.ok, first.run.tally.skipped) == (4, 1)
    (row,) = [row for row in stored_rows(out, "status", "stage", "message", "blank") if row["status"] != "ok"]
    assert (row["sample_id"], row["method"], row["stage"], row["blank"]) == ("p1.png", None, "decode", None)
    assert row["message"]
    assert finished(first)["failed"] == 1
    (pictures / "p1.png").write_bytes(good)
    again = evaluate_small(pictures, out, part_size=3, retry_failed=True)
    assert (again.run.now, again.run.before, again.run.tally.skipped) == (1, 4, 0)
    names = [name for name in stored_table(out).column_names if name != "decoding"]
    assert len(names) == 24
    for redone, whole in zip(stored_rows(out, *names), stored_rows(tmp_path / "whole", *names), strict=True):
        grids = redone.pop("grid"), whole.pop("grid")
        assert grids[0] == pytest.approx(grids[1], abs=1e-6)
        numbers = {name for name, value in whole.items() if isinstance(value, float)}
        for name in whole:  # the redone one was in a batch of its own: equal but for rounding
            expected = pytest.approx(whole[name], abs=1e-5) if name in numbers else whole[name]
            assert redone[name] == expected, name


def test_an_image_that_a_method_cannot_explain_counts_for_none(tmp_path):
    folder = save(tmp_path / "in", a=photo(1), b=Image.new("RGB", (60, 45), POISON), c=photo(2))
    summary = evaluate_small(folder, tmp_path / "out", batch_size=3)
    alone = evaluate_small(save(tmp_path / "two", a=photo(1), c=photo(2)), tmp_path / "alone", batch_size=3)
    (row,) = [
        row for row in stored_rows(tmp_path / "out", "status", "stage", "message") if row["method"] is None
    ]
    assert row["message"] == "cfcam: the layer's activations contain NaN or Inf"
    assert row["stage"] == "explain"
    found, expected = (finished(s)["methods"]["gradcam"]["average_drop"] for s in (summary, alone))
    assert found == pytest.approx(expected)


def test_configurations_of_ones_own_have_a_name_of_ones_own(pictures, tmp_path):
    methods = {"all clustered": CFCAMConfig(dominant_percentile=None), "plain": "gradcam"}
    summary = evaluate_small(pictures, tmp_path / "out", methods=methods, baseline="plain")
    assert list(finished(summary)["methods"]) == ["all clustered", "plain"]
    assert list(finished(summary)["paired"]) == ["all clustered"]
    stored = json.loads((tmp_path / "out/evaluation.json").read_text())["fingerprint"]["methods"]
    assert stored["all clustered"]["config"]["dominant_percentile"] is None
    assert stored["plain"] == {"method": "gradcam"}


def test_maps_of_two_resolutions_are_stored_at_the_larger(pictures, tmp_path):
    """And a share of the finer layer is part of what makes two evaluations the same."""
    methods = {"coarse": "cfcam", "fine": ("cfcam-fine", CFCAMConfig(fine_share=0.5))}
    evaluate_small(pictures, tmp_path / "out", methods=methods, finer_layer="stem")
    rows: list[Any] = table_to_rows(stored_table(tmp_path / "out"))
    shapes = {(row["method"], row["grid"].shape) for row in rows}
    assert shapes == {("coarse", (32, 32)), ("fine", (32, 32))}
    again = {**methods, "fine": ("cfcam-fine", CFCAMConfig(fine_share=0.6))}
    with pytest.raises(StoreError, match=r"methods.fine.config.fine_share was 0.5, now 0.6"):
        evaluate_small(pictures, tmp_path / "out", methods=again, finer_layer="stem")
    with pytest.raises(ConfigError, match="reads one layer"):
        evaluate_small(pictures, tmp_path / "other", finer_layer="stem")


def test_another_share_of_the_finer_layer_is_another_evaluation(pictures, tmp_path):
    """Also of a method other than CF-CAM: the old numbers are not those of the new share."""

    def evaluated(out: Path, share: float) -> list[Any]:
        methods = {"fine": ("gradcam-fine", CFCAMConfig(fine_share=share)), "gradcam": "gradcam"}
        evaluate_small(pictures, out, methods=methods, finer_layer="stem", metrics=["drop"])
        rows = stored_rows(out, "average_drop")
        return [row["average_drop"] for row in rows if row["method"] == "fine"]

    before = evaluated(tmp_path / "out", 0.1)
    assert evaluated(tmp_path / "out", 0.1) == before
    with pytest.raises(
        StoreError, match=r"another run: methods\.fine\.config\.fine_share was 0\.1, now 0\.9"
    ):
        evaluated(tmp_path / "out", 0.9)
    assert evaluated(tmp_path / "other", 0.9) != before


def test_another_evaluation_in_the_folder_is_refused_by_its_differences(pictures, tmp_path):
    out = tmp_path / "out"
    evaluate_small(pictures, out)
    with pytest.raises(StoreError, match=r"another run: methods\.gradcam was .*'gradcam'.*, now None"):
        evaluate_small(pictures, out, methods=["cfcam"])
    with pytest.raises(StoreError, match=r"another run: metrics was .*, now \['drop'\]"):
        evaluate_small(pictures, out, metrics=["drop"])
    with pytest.raises(StoreError, match=r"measuring\.seed was 0, now 1"):
        evaluate_small(pictures, out, measuring=MetricOptions(seed=1))
    assert evaluate_small(pictures, out).run.before == 5


def test_without_matplotlib_the_numbers_are_there_and_a_line_says_so(pictures, tmp_path, monkeypatch, caplog):
    def missing() -> None:
        raise MissingPackageError("matplotlib is not installed")

    monkeypatch.setattr(evaluation_run, "check_plots", missing)
    summary = evaluate_small(pictures, tmp_path / "out", plots=True)
    assert caplog.messages[-1] == "no plots are drawn: matplotlib is not installed"
    assert summary.plots == ()
    assert summary.page == tmp_path / "out" / "report.html"
    assert (tmp_path / "out" / "report.html").exists()


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
        evaluate_small(pictures, tmp_path / "out", model=loaded, methods=("scorecam",), observer=Impatient())
    assert len(passes) < 40


@pytest.mark.parametrize("good", [0, 1])
def test_plots_of_an_evaluation_in_which_images_failed(tmp_path, good):
    """With none that succeeded there is nothing to draw, and a page that says so."""
    pictures = save(tmp_path / "in", bad=b"no image", **{f"good{i}": photo(i) for i in range(good)})
    found = evaluate_small(pictures, tmp_path / "out", plots=True)
    assert found.page == tmp_path / "out" / "report.html"
    drawn = ["bars.png", "bars-dark.png", "grid.png", "grid-dark.png"]
    assert [path.name for path in found.plots] == (drawn if good else [])
