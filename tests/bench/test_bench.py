"""The benchmarks measure what they say: they check first, take turns, compute ratios rightly and hide nothing.

Each runs here on a tiny model; the figures mean nothing, the rest is what a real run does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import (
    common,
    discrimination,
    equivalence,
    memory,
    peers,
    precision,
    scaling,
    stages,
    throughput,
)
from bench.floors import Count, model_counts, stage_counts
from bench.machine import threads
from bench.published import published_steps
from cfcam_gpu import CFCAM, CFCAMConfig
from cfcam_gpu.capture.layers import find_layer
from cfcam_gpu.cfcam.clustering import Clusters
from cfcam_gpu.cli.demo import find_photos
from tests.helpers.tolerances import MAP

# Both are what the published code does.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Full backward hook is firing"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
]

TINY = {"side": 16}


class Tiny(nn.Module):
    """A convolution with BatchNorm and ReLU, global average pooling, two classes more than channels of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer4 = nn.Sequential(nn.Conv2d(3, 24, 3, stride=2, padding=1), nn.BatchNorm2d(24), nn.ReLU())
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer4(x).mean((2, 3)))


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The tiny model instead of torchvision's, two photos instead of eight, results outside the repository."""
    monkeypatch.setattr(common, "get_model", lambda name: Tiny())
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    for module in (precision, discrimination):
        monkeypatch.setattr(module, "find_photos", lambda: (find_photos()[0][:2], []))
    with threads(1):
        yield


BENCHES: dict[str, Callable[[], dict[str, Any]]] = {
    "throughput": lambda: throughput.run(
        throughput.Options(**TINY, batches=(1, 2), repeats=1, compiled=False)
    ),
    "stages": lambda: stages.run(stages.Options(**TINY, batch=2, repeats=1)),
    "scaling": lambda: scaling.run(
        scaling.Options(
            **TINY, channels=(16, 32), sides=(3, 5), batches=(1, 2), targets=(1, 2), batch=2, repeats=1
        )
    ),
    "memory": lambda: memory.run(memory.Options(**TINY, batches=(), calls=20, small_side=16)),
    "precision": lambda: precision.run(precision.Options(repeats=1)),
    "discrimination": lambda: discrimination.run(discrimination.Options()),
}


@pytest.mark.parametrize("name", BENCHES)
def test_a_red_equivalence_check_stops_a_bench_before_anything_is_timed(name, wrong_engine, monkeypatch):
    def timed(*arguments: Any, **options: Any) -> None:
        raise AssertionError("timed")

    for module, function in [
        *((module, "interleaved") for module in (throughput, stages, scaling, precision)),
        (memory, "growth"),
        (discrimination, "measure"),
    ]:
        monkeypatch.setattr(module, function, timed)
    with pytest.raises(SystemExit, match=r"equivalence check failed, nothing is timed: .*'heatmap': 0\.000"):
        BENCHES[name]()


def test_throughput_times_every_case_and_relates_it_to_the_explanation():
    result = BENCHES["throughput"]()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    names = {"forward only", "explained", "forward only, prepared", "explained, prepared", "published steps"}
    timed = {name for name, found in result["peers"].items() if "not_timed" not in found}
    assert list(result["peers"]) == list(peers.PEERS)
    for seen in result["batches"].values():
        assert names | timed <= set(seen["cases"])
        assert seen["over_explained"]["explained"] == seen["over_prepared"]["explained, prepared"] == 1
        forward, explained = (seen["cases"][name]["ms_per_image"] for name in ("forward only", "explained"))
        assert seen["over_explained"]["forward only"] == pytest.approx(
            forward / explained, rel=0.01, abs=1e-3
        )
    assert result["prepared"]["candidates"][result["prepared"]["chosen"]]["within"]
    assert result["published_difference"] <= MAP


@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_stages_take_no_less_than_their_floor_and_have_the_engines_labels(engine, monkeypatch):
    monkeypatch.setattr(
        stages, "peaks", lambda *_: {"float32_gflops": 1e6, "model_gflops": 1e6, "copy_gbytes": 1e6}
    )
    with threads(2):
        result = stages.run(stages.Options(**TINY, batch=3, repeats=1, engine=engine))
    assert result["engine"] == engine
    for name, row in result["stages"].items():
        assert row["ms_per_image"] > row["floor_ms"] >= 0, name
    assert {"forward to the layer", "dominance", "distances", "map"} <= set(result["stages"])
    json.dumps(result, allow_nan=False)


def test_the_triton_engines_stages_find_the_same_labels():
    torch.manual_seed(0)
    model, images = Tiny().eval(), torch.randn(1, 3, 8, 8)
    layer = find_layer(model, "layer4")
    expected, found = (
        stages.explain_in_stages(model, layer, images, stages.PARTS[engine]) for engine in ("torch", "triton")
    )
    assert torch.equal(found.clusters.labels, expected.clusters.labels)
    assert {"distances and percentile", "neighbours", "search", "map"} <= set(found.seconds)


def test_stages_that_find_other_labels_than_the_engine_stop_the_bench(monkeypatch):
    def scan(clock: stages.Clock) -> Any:
        right = stages.torch_scan(clock)

        def wrong(*features: Any) -> Any:
            labels, n_clusters, eps = right(*features)
            return labels + 1, n_clusters, eps

        return wrong

    monkeypatch.setitem(stages.PARTS, "torch", stages.Parts(scan))
    with pytest.raises(SystemExit, match="the stages' labels are not the engine's"):
        stages.run(stages.Options(**TINY, batch=2, repeats=1, engine="torch"))


def test_an_engine_without_stages_is_named():
    with pytest.raises(SystemExit, match="stages of engine 'reference' are not timed; choose one of: numba"):
        stages.run(stages.Options(**TINY, engine="reference"))


def test_scaling_has_every_value_of_every_sweep():
    result = BENCHES["scaling"]()
    json.dumps(result, allow_nan=False)
    assert {name: list(found) for name, found in result["sweeps"].items()} == {
        "channels": ["16", "32"],
        "side": ["3", "5"],
        "batch": ["1", "2"],
    }
    assert list(result["targets"]["cases"]) == ["forward only", "1", "2"]


def test_growth_is_the_power_of_the_value():
    found = scaling.rows({"2": [1.0, 3.0], "4": [4.0, 9.0], "8": [4.0, 4.0]}, {"2": 1, "4": 2, "8": 1})
    assert [found[value]["growth"] for value in ("2", "4", "8")] == [None, 2.0, 0.0]
    assert found["4"]["ms_per_image"] == 3250


def test_memory_reports_no_growth_where_there_is_none():
    result = BENCHES["memory"]()
    json.dumps(result, allow_nan=False)
    assert result["failed"] == []
    assert [seen["calls"] for seen in result["growth"].values()] == [[2, 20]] * 2


@pytest.mark.parametrize("kept", [lambda: torch.zeros(1), lambda: np.ones(2**23)], ids=["a tensor", "64 MB"])
def test_memory_that_grows_is_seen(kept):
    leak: list[Any] = []
    assert not memory.growth(lambda: leak.append(kept()), 5)["none"]


def test_memory_that_grows_is_a_failure(monkeypatch):
    leak: list[Any] = []
    monkeypatch.setattr(memory, "explain_activations", lambda *_: leak.append(torch.zeros(1)))
    (failed,) = BENCHES["memory"]()["failed"]
    assert failed.startswith("memory grows: explain_activations, 64 channels")


def test_peak_memory_contains_what_was_allocated():
    before = memory.resident("VmHWM") / memory.MB
    assert memory.peak_mb("explained", common.Setup(side=16), 1) >= before - 1
    held = np.ones(2**27)  # a GB
    assert memory.resident("VmHWM") / memory.MB > 1000 < held.nbytes / memory.MB


def test_precision_measures_differences_from_float32(monkeypatch):
    chosen = ("float32", "bfloat16, folded, channels last")
    monkeypatch.setattr(precision, "VARIANTS", {name: precision.VARIANTS[name] for name in chosen})
    result = BENCHES["precision"]()
    json.dumps(result, allow_nan=False)
    same, reduced = (result["variants"][name] for name in chosen)
    assert (same["largest"], same["other_labels"], same["within"], same["top1"]) == (0, 0, True, 1)
    assert 0 < reduced["mean"] < reduced["largest"] < 0.2
    assert reduced["correlation"] < 1


def test_discrimination_has_every_preset():
    result = BENCHES["discrimination"]()
    json.dumps(result, allow_nan=False)
    assert result["presets"]["upstream"]["correlation"] > 0.99 > result["presets"]["default"]["correlation"]


def test_cases_take_turns_and_the_first_turn_is_not_counted():
    order: list[str] = []
    seconds = common.interleaved({name: lambda name=name: order.append(name) for name in "ab"}, repeats=2)
    assert "".join(order) == "ababab"
    assert [len(times) for times in seconds.values()] == [2, 2]


def test_turns_end_when_the_time_is_over_but_there_are_three():
    seconds = common.interleaved({"a": lambda: None}, repeats=50, limit_s=0)
    assert len(seconds["a"]) == 3


def test_ratios_are_taken_within_a_turn():
    """Of the medians it would be 1.5: a turn that was slow for both says nothing about their ratio."""
    assert common.ratio([1, 10, 3], [1, 2, 3]) == 1
    assert common.summary([0.2, 0.1, 0.4], images=2) == {"ms_per_image": 100, "ms_min": 50, "ms_max": 200}


GREEN = {"eps": 0.0, "grid": 1e-6, "heatmap": 1e-5, "other_labels": 1, "other_labels_at_a_near_tie": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"grid": 2e-4},
        {"heatmap": 2e-4},
        {"eps": 1e-5},
        {"heatmap": None},
        {"heatmap": float("nan")},
        {"other_labels": 2},
    ],
    ids=str,
)
def test_only_near_ties_and_rounding_are_within_the_contract(change):
    assert equivalence.required(GREEN) == GREEN
    with pytest.raises(SystemExit, match="nothing is timed"):
        equivalence.required(GREEN | change)


def test_the_worst_image_decides_whether_heatmaps_are_the_same():
    ramp = torch.linspace(0, 1, 16).view(1, 4, 4)
    plain = SimpleNamespace(heatmap=torch.cat([ramp, ramp]), labels=torch.zeros(2, 4))
    off = SimpleNamespace(
        heatmap=torch.cat([ramp, ramp.flip(2)]), labels=torch.tensor([[0] * 4, [1, 0, 0, 0]])
    )
    assert equivalence.closeness(plain, plain) == {
        "mean": 0, "largest": 0, "correlation": 1, "other_labels": 0, "within": True,
    }  # fmt: skip
    seen = equivalence.closeness(off, plain)
    assert seen["mean"] == pytest.approx(2 / 15, abs=1e-6)  # the mean of |3-2·column| cells of 1/15
    assert (seen["other_labels"], seen["within"]) == (0.125, False)


class Golden(nn.Module):
    """Puts out the golden file's activations and has its gradients."""

    def __init__(self, activations: np.ndarray, gradients: np.ndarray) -> None:
        super().__init__()
        self.activations = nn.Parameter(torch.from_numpy(activations)[None])
        self.gradients = torch.from_numpy(gradients)[None]
        self.layer4 = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        score = (self.layer4(self.activations) * self.gradients).sum()
        return torch.stack([score, score.detach() - 1])[None]


@pytest.mark.parametrize("name", ["blobs4", "blobs6_nonsquare", "photo_coffee_block", "tiny"])
def test_the_published_steps_give_the_published_codes_maps(name):
    golden = np.load(Path(__file__).parents[1] / "golden" / f"{name}.npz")
    model = Golden(golden["A"], golden["G"])
    heatmap = published_steps(model, model.layer4, torch.zeros(1, 3, *golden["cam"].shape))
    np.testing.assert_allclose(heatmap, golden["cam"], rtol=0, atol=MAP)


def test_the_published_steps_give_the_upstream_presets_map():
    torch.manual_seed(0)
    model, image = Tiny().eval(), torch.randn(1, 3, 16, 16)
    ours = CFCAM(model, "layer4", CFCAMConfig.preset("upstream"))(image).heatmap[0]
    np.testing.assert_allclose(published_steps(model, model.layer4, image), ours.numpy(), rtol=0, atol=MAP)


def test_published_steps_that_differ_stop_the_bench(monkeypatch):
    monkeypatch.setattr(throughput, "published_steps", lambda *_: np.zeros((16, 16)))
    with pytest.raises(SystemExit, match=r"published steps' heatmap is 1\.0e\+00 off, nothing is timed"):
        BENCHES["throughput"]()


def test_plain_grad_cam_is_the_gradients_mean_times_the_activations():
    torch.manual_seed(0)
    model, images = Tiny().eval(), torch.randn(2, 3, 16, 16)
    maps, classes = peers.plain_grad_cam(model, "layer4", images)
    activations = model.layer4(images)
    assert torch.equal(classes, model.fc(activations.mean((2, 3))).argmax(1))
    weights = model.fc.weight[classes] / 64  # the head is the mean over 8×8 cells and one matrix product
    grid = torch.einsum("bc,bchw->bhw", weights, activations).relu()
    expected = nn.functional.interpolate(grid[:, None], (16, 16), mode="bilinear")[:, 0]
    torch.testing.assert_close(maps, expected.detach())


def fails(model: nn.Module, layer: str) -> Any:
    raise RuntimeError("no hooks\nhere")


@pytest.mark.parametrize(
    ("peer", "reason"),
    [
        (
            peers.Peer("nothing", "no_such_module", fails),
            "not installed (No module named 'no_such_module'); pip install 'cfcam-gpu[peers]'",
        ),
        (peers.Peer("torch", "torch", fails), "fails: RuntimeError: no hooks"),
        (
            peers.Peer("torch", "torch", lambda *_: lambda images, classes: images[:, 0]),
            "its maps differ from plain",
        ),
    ],
    ids=["missing", "failing", "other maps"],
)
def test_a_peer_that_cannot_be_timed_is_named_with_the_reason(peer, reason, monkeypatch, capsys):
    monkeypatch.setattr(peers, "PEERS", {"peer": peer})
    usable, found = peers.checked_peers(Tiny().eval(), "layer4", torch.randn(2, 3, 16, 16))
    assert usable == {}
    assert found["peer"]["not_timed"].startswith(reason)


def raises(images: Tensor) -> Tensor:
    raise OSError("no C++ compiler\nfound")


@pytest.mark.parametrize(
    ("work", "outcome"),
    [
        (lambda images: images * 1.00001, None),
        (lambda images: images * 1.1, "its logits are 1.0e-01 of their spread off the eager ones"),
        (raises, "OSError: no C++ compiler"),
    ],
    ids=["right", "wrong", "failing"],
)
def test_a_compiled_model_is_timed_only_when_it_computes_the_same(work, outcome):
    setup = common.Setup(side=16)
    seen = throughput.first_call(
        throughput.Entry(work, setup), throughput.Entry(lambda images: images, setup), 2
    )
    assert seen.get("not_timed") == outcome
    assert ("compile_s" in seen) == (outcome is None)


def test_floors_follow_the_formulas():
    assert Count(flops=3e9, bytes=1e9).floor_ms({"float32_gflops": 100, "copy_gbytes": 10}) == pytest.approx(
        100
    )
    assert Count(3e9, 0, model=True).floor_ms({"model_gflops": 100, "copy_gbytes": 10}) == pytest.approx(30)
    labels = torch.tensor([[-2, 0, 0, 1, 1, -1]])
    clusters = Clusters(labels, torch.tensor([2]), torch.tensor([1.0]))
    shape = torch.Size([1, 6, 2, 3])
    counts = stage_counts(shape, (4, 6), clusters, CFCAMConfig(), stored=True)
    assert counts["distances"] == Count(3 * 6 * 10, 4 * (5 * 6 + 10))  # 5 channels of 6 values, 10 pairs
    assert counts["map"] == Count(2 * 6 * 6, 4 * (6 * 6 + 6))
    again = stage_counts(shape, (4, 6), clusters, CFCAMConfig(), stored=False)
    assert again["neighbours"].flops == counts["distances"].flops
    assert again["distances"].bytes == 4 * 5 * 6


def test_the_models_operations_are_those_of_its_convolutions_and_products():
    model = Tiny().eval()
    counts = model_counts(model, find_layer(model, "layer4"), torch.randn(1, 3, 16, 16), batch=2)
    forward, head = counts["forward to the layer"], counts["head and its backward"]
    assert forward.flops == 2 * 3 * 9 * 24 * 64
    assert head.flops == 2 * 2 * 24 * 5
    body = sum(p.numel() for p in model.layer4.parameters())
    assert forward.bytes == 4 * (body / 2 + 3 * 16 * 16 + 24 * 64)
    assert head.bytes == 4 * (2 * (24 * 5 + 5) / 2 + 2 * 24 * 64)


def finish(result: dict[str, Any], arguments: list[str]) -> None:
    """A command with a benchmark that only returns."""
    common.command(
        "name", common.Setup, lambda options: {**result, "side": options.side}, print, "About.", arguments
    )


def test_the_result_is_the_last_line_and_a_file_of_strict_json(capsys):
    finish({"figure": 1.5}, ["--side", "32"])
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (printed["benchmark"], printed["figure"], printed["side"]) == ("name", 1.5, 32)
    assert {"date", "commit", "cpu", "threads", "gpu", "versions"} <= set(printed["environment"])
    assert json.loads((common.RESULTS / "name.json").read_text()) == printed
    with pytest.raises(ValueError, match="not JSON compliant"):
        finish({"figure": float("nan")}, [])


def test_a_result_that_failed_is_stored_and_exits_with_an_error(capsys):
    with pytest.raises(SystemExit, match="name: memory grows; and more"):
        finish({"failed": ["memory grows", "and more"]}, [])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["failed"] == ["memory grows", "and more"]


def test_an_error_of_the_package_is_one_line(monkeypatch):
    with pytest.raises(SystemExit, match=r"^stages: unknown engine 'fast'; choose one of: auto"):
        common.command("stages", stages.Options, stages.run, print, "", ["--side", "16", "--engine", "fast"])


def test_options_come_from_the_fields():
    options = common.parse(throughput.Options, "", ["--batches", "2", "4", "--no-others", "--limit-s", "1"])
    assert options == throughput.Options(batches=(2, 4), others=False, limit_s=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int8"], "--precision must be one of: float32, bfloat16, float16, autocast"),
        (
            ["--device", "cuda"],
            "--device cuda needs an NVIDIA GPU that PyTorch can use, and there is none here",
        ),
    ],
)
def test_options_that_cannot_be_are_errors(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        common.parse(common.Setup, "", arguments)
    assert message in capsys.readouterr().err
