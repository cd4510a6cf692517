"""What every method owes: maps that no other image changes, flags, K targets, and errors that say what to do."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import Tensor, nn

from cfcam_gpu import CFCAM, BackendError, CaptureError, CFCAMConfig, ConfigError, explain_activations
from cfcam_gpu.capture import model_runner
from cfcam_gpu.cli.app import app
from cfcam_gpu.dataset import open_results
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.errors import StoreError
from cfcam_gpu.explainer import Explanation
from cfcam_gpu.methods import METHODS, parse_method
from tests.helpers.configs import OTHER_VALUES
from tests.helpers.smallnet import PLAIN, Net, photo, run, save

#: float32 rounding of sums over 24 channels.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}

#: Methods whose map has nothing to do with the class.
CLASSLESS = {"eigencam", "random"}
GRADIENTS = {name for name, method in METHODS.items() if method.uses_gradients}
CLUSTERS = {name for name, method in METHODS.items() if method.is_cfcam}
ALONE = {name for name, method in METHODS.items() if not method.needs_model}


class Deeper(Net):
    """`Net` with a nonlinearity behind the layer, so that gradients differ from cell to cell and image to image."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            self.behind = nn.Conv2d(24, 24, 3, padding=1)
            nn.init.normal_(self.head.weight)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.behind(self.conv(self.stem(images)).relu()).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return Deeper().eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 3 - 1


def explain(
    model: nn.Module, method: str, images: Tensor, targets: object = None, **kwargs: str
) -> Explanation:
    with CFCAM(model, "conv:relu", method=method, **kwargs) as cam:
        return cam(images, targets)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_equals_its_images_alone_and_a_second_run(net, images, method):
    together = explain(net, method, images)
    assert torch.equal(explain(net, method, images).heatmap, together.heatmap)
    assert not together.blank.all()
    for index, image in enumerate(images.split(1)):
        alone = explain(net, method, image)
        torch.testing.assert_close(alone.heatmap[0], together.heatmap[index], **CLOSE)
        torch.testing.assert_close(alone.grid[0], together.grid[index], **CLOSE)


@pytest.mark.parametrize("method", METHODS)
def test_several_targets_equal_one_after_the_other(net, images, method):
    targets = torch.tensor([[0, 1], [2, 0], [1, 1], [0, 2]])
    both = explain(net, method, images, targets)
    assert both.heatmap.shape == (4, 2, 32, 32)
    assert torch.equal(both.targets, targets)
    for k in range(2):
        alone = explain(net, method, images, targets[:, k])
        torch.testing.assert_close(both.heatmap[:, k], alone.heatmap, **CLOSE)
        torch.testing.assert_close(both.grid[:, k], alone.grid, **CLOSE)
    same = torch.equal(both.heatmap[0, 0], both.heatmap[0, 1])
    assert same == (method in CLASSLESS)


@pytest.mark.parametrize("method", METHODS)
def test_functions_as_targets(net, images, method):
    functions = [lambda logits, k=k: logits[k] for k in (0, 2, 1, 0)]
    found = explain(net, method, images, functions)
    torch.testing.assert_close(found.heatmap, explain(net, method, images, [0, 2, 1, 0]).heatmap, **CLOSE)
    assert found.targets is None


@pytest.mark.parametrize("method", METHODS)
def test_an_image_that_cannot_be_explained_is_flagged_and_disturbs_no_other(net, images, method):
    broken = images.clone()
    broken[1, 0, 5, 5] = torch.nan
    found = explain(net, method, broken, [0, 1, 2, 0], on_invalid="flag")
    assert found.status.tolist() == [0, 1, 0, 0]
    assert found.blank[1]
    assert not found.heatmap[1].any()
    kept = [0, 2, 3]
    expected = explain(net, method, images, [0, 1, 2, 0])
    torch.testing.assert_close(found.heatmap[kept], expected.heatmap[kept], **CLOSE)


@pytest.mark.parametrize("method", METHODS)
def test_a_score_that_is_the_same_everywhere(images, method):
    """No gradient is a problem for methods that read it; the others say what they can."""
    flat = Deeper().eval()
    nn.init.zeros_(flat.head.weight)
    found = explain(flat, method, images, 0, on_invalid="flag")
    assert (found.status == 4).all() == (method in GRADIENTS)
    if method in CLASSLESS | {"scorecam"}:
        assert not found.blank.any()
    else:
        assert found.blank.all()


@pytest.mark.parametrize("method", sorted({"scorecam", "ablationcam"}))
def test_scores_that_are_not_finite_are_flagged(images, method):
    """Infinity for any image but the clean ones."""

    class Fragile(Deeper):
        def forward(self, given: Tensor) -> Tensor:
            logits = super().forward(given)
            return logits if self.fine else logits + torch.inf

    fragile = Fragile().eval()
    fragile.fine = True
    with CFCAM(fragile, "conv:relu", method=method, on_invalid="flag") as cam:
        features = cam.features(images, 0)
        fragile.fine = False
        found = cam.explain(features)
    assert (found.status == 5).all()
    assert "modified images" in str(found.problems[0])
    assert not found.heatmap.any()


@pytest.mark.parametrize("method", METHODS)
def test_the_model_comes_back_as_it_was(images, method):
    model = Deeper().train()
    model.head.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        explain(model, method, images)
    assert model.training
    assert model.conv.training
    assert [p.requires_grad for p in model.parameters()] == [
        p is not model.head.bias for p in model.parameters()
    ]
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_reduced_precision(net, images, method):
    """bfloat16's own rounding, 2^-8 of the scores, decides weights that are differences of scores."""
    expected = explain(net, method, images, 1).heatmap
    model = copy.deepcopy(net).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        cast = explain(net, method, images, 1).heatmap
    for found in (explain(model, method, images, 1).heatmap, cast):
        assert found.dtype == torch.float32
        if method == "random":
            continue
        both = torch.stack([found.flatten(), expected.flatten()])
        assert float(torch.corrcoef(both)[0, 1]) > (0.5 if method == "ablationcam" else 0.95)


@pytest.mark.parametrize("method", sorted(set(METHODS) - ALONE))
def test_chunks_change_nothing(net, images, method, monkeypatch):
    expected = explain(net, method, images).grid
    monkeypatch.setitem(model_runner.CHUNK_BYTES, "cpu", 3 * 32 * 32 * 4 * 5)
    torch.testing.assert_close(explain(net, method, images).grid, expected, **CLOSE)


def test_one_capture_serves_every_method(net, images):
    runs: list[int] = []
    handle = net.register_forward_hook(lambda *_: runs.append(1))
    with CFCAM(net, "conv:relu") as cam:
        features = cam.features(images, 1)
    assert len(runs) == 1
    for name in sorted(ALONE):
        with CFCAM(net, "conv:relu", method=name) as cam:
            found = cam.explain(features)
        assert len(runs) == 1
        assert torch.equal(found.heatmap, explain(net, name, images, 1).heatmap)
        del runs[1:]
    handle.remove()


def test_the_configuration_is_the_explaining_ones(net, images):
    config = CFCAMConfig.preset("upstream")
    with CFCAM(net, "conv:relu") as cam, CFCAM(net, "conv:relu", config) as other:
        assert torch.equal(other.explain(cam.features(images)).heatmap, other(images).heatmap)
        assert not torch.equal(other(images).heatmap, cam(images).heatmap)


@pytest.mark.parametrize("method", METHODS)
def test_perturbed_gradients_change_only_what_reads_them(net, images, method):
    with CFCAM(net, "conv:relu", method=method) as cam:
        features = cam.features(images, 1)
        noise = torch.randn(features.gradients.shape, generator=torch.Generator().manual_seed(0))
        noisy = dataclasses.replace(features, gradients=features.gradients + noise)
        same = torch.equal(cam.explain(noisy).heatmap, cam.explain(features).heatmap)
    assert same == (method not in GRADIENTS)


def test_no_gradient_is_asked_for_where_none_is_used(images):
    """A layer that no class score depends on has no gradient, but a principal component."""

    class Aside(Deeper):
        def forward(self, given: Tensor) -> Tensor:
            self.conv(given).relu()
            return given.flatten(1)[:, :3]

    model = Aside().eval()
    assert explain(model, "eigencam", images).heatmap.amax() == 1
    with pytest.raises(Exception, match="does not depend on layer"):
        explain(model, "gradcam", images)


def test_random_maps_are_of_the_image_alone(net, images):
    found = explain(net, "random", images).grid
    swapped = explain(net, "random", images[[2, 0]]).grid
    assert torch.equal(swapped, found[[2, 0]])
    changed = images.clone()
    changed[0, 0, 0, 0] += 1e-3
    assert not torch.equal(explain(net, "random", changed).grid[0], found[0])
    assert len({float(grid[0, 0]) for grid in found}) == len(found)
    assert 0.4 < float(found.mean()) < 0.6


@pytest.mark.parametrize("method", sorted(ALONE))
def test_methods_without_a_model(net, images, method):
    with CFCAM(net, "conv:relu", method=method) as cam:
        features = cam.features(images, 1)
        expected = cam.explain(features)
    gradients = features.gradients[:, 0] if method in GRADIENTS else None
    found = explain_activations(features.activations, gradients, features.size, method=method)
    if method == "random":
        again = explain_activations(features.activations, gradients, features.size, method=method)
        expected = dataclasses.replace(expected, heatmap=again.heatmap)
    assert torch.equal(found.heatmap, expected.heatmap)


def test_only_clusters_have_labels(net, images):
    for name in METHODS:
        found = explain(net, name, images[:1])
        fields = (found.labels, found.n_clusters, found.eps, found.noise_fraction)
        assert all((field is not None) == (name in CLUSTERS) for field in fields)
        assert (found.engine == "torch") == (name not in CLUSTERS)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        (
            {"method": "gradcan"},
            ConfigError,
            r"unknown method 'gradcan' \(did you mean gradcam\?\); choose .*random",
        ),
        (
            {"method": "gradcam", "engine": "numba"},
            ConfigError,
            "'numba' is one of cfcam's; gradcam runs in PyTorch",
        ),
        ({"method": "gradcam", "finer_layer": "stem"}, ConfigError, "'gradcam' looks at one layer"),
        ({"method": "gradcam", "engine": "fast"}, BackendError, "unknown engine 'fast'"),
    ],
)
def test_what_cannot_be_is_said_at_once(net, kwargs, error, message):
    with pytest.raises(error, match=message):
        CFCAM(net, "conv:relu", **kwargs)


def test_the_finer_layer_scales_the_map_by_its_evidence(net, images):
    """Cell by cell, from two single-layer explanations; a share of 0 leaves CF-CAM's own map."""
    share = 0.6
    with CFCAM(net, "conv:relu", CFCAMConfig(fine_share=share), method="cfcam-fine") as cam:
        found = cam(images, 1)
    assert cam.finer_layer_name == "stem"
    coarse = explain(net, "cfcam", images, 1).grid
    fine = CFCAM(net, "stem", CFCAMConfig.preset("spatial"))(images, 1).grid
    evidence = (fine / fine.amax((1, 2), keepdim=True)).sqrt()
    expected = F.interpolate(coarse[:, None], size=(32, 32), mode="bilinear")[:, 0] * (
        1 - share + share * evidence
    )
    torch.testing.assert_close(found.grid, expected, **CLOSE)
    none = CFCAM(net, "conv:relu", CFCAMConfig(fine_share=0.0), method="cfcam-fine", finer_layer="stem")
    expected = F.interpolate(coarse[:, None], size=(32, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(none(images, 1).grid, expected, **CLOSE)


def test_two_layers_take_one_forward_pass_and_agree_with_one_after_the_other(net, images):
    """The first call looks for the finer layer as well; after it a call is one pass."""
    targets = torch.tensor([[0, 2], [1, 0], [2, 1], [0, 1]])
    with CFCAM(net, "conv:relu", method="cfcam-fine") as cam, CFCAM(net, "conv:relu") as other:
        apart = cam.explain(other.features(images, targets))
        runs: list[int] = []
        handle = net.register_forward_hook(lambda *_: runs.append(1))
        together = cam(images, targets)
        handle.remove()
    assert len(runs) == 1
    torch.testing.assert_close(together.grid, apart.grid, **CLOSE)
    assert together.grid.shape == (4, 2, 32, 32)


def test_gradcam_is_sharpened_by_layercam(net, images):
    found = explain(net, "gradcam-fine", images, 1, finer_layer="stem").grid
    coarse, fine = (
        explain(net, "gradcam", images, 1).grid,
        CFCAM(net, "stem", method="layercam")(images, 1).grid,
    )
    evidence = (fine / fine.amax((1, 2), keepdim=True)).sqrt()
    expected = F.interpolate(coarse[:, None], size=(32, 32), mode="bilinear")[:, 0] * (0.6 + 0.4 * evidence)
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize(
    ("finer", "message"),
    [
        ("behind", "the finer layer does not come before layer 'conv:relu'; choose an earlier one"),
        ("conv:relu", "the finer layer is the explained layer 'conv:relu' itself; choose an earlier one"),
    ],
)
def test_a_finer_layer_must_come_before(net, images, finer, message):
    with pytest.raises(CaptureError, match=message):
        CFCAM(net, "conv:relu", method="cfcam-fine", finer_layer=finer)(images)


def test_a_finer_layer_that_is_not_finite_is_flagged(images):
    """And only its image."""

    class Broken(Deeper):
        def forward(self, given: Tensor) -> Tensor:
            features = self.conv(torch.nan_to_num(self.stem(given)))
            return self.head(self.behind(features.relu()).relu().mean((2, 3)))

    broken = images.clone()
    broken[2, 0, 3, 3] = torch.nan
    found = explain(Broken().eval(), "cfcam-fine", broken, 1, on_invalid="flag")
    assert found.status.tolist() == [0, 0, 5, 0]
    expected = explain(Broken().eval(), "cfcam-fine", images, 1)
    torch.testing.assert_close(found.heatmap[[0, 1, 3]], expected.heatmap[[0, 1, 3]], **CLOSE)


def test_errors_of_features(net, images):
    a = torch.rand(1, 3, 4, 4)
    with pytest.raises(ConfigError, match=r"'scorecam' runs the model again; use CFCAM"):
        explain_activations(a, a, (8, 8), method="scorecam")
    with pytest.raises(ConfigError, match=r"gradients must be .* got a NoneType"):
        explain_activations(a, None, (8, 8), method="gradcam")
    with CFCAM(net, "conv:relu", method="gradcam") as cam:
        features = cam.features(images)
        with pytest.raises(ConfigError, match=r"gradients must be \(B,K,C,h,w\), here \(4, 1, 24, 8, 8\)"):
            cam.explain(dataclasses.replace(features, gradients=features.gradients[:, 0]))
        with pytest.raises(ConfigError, match="'gradcam' needs gradients"):
            cam.explain(dataclasses.replace(features, gradients=features.gradients[:, :0]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gradcam", ("gradcam", CFCAMConfig())),
        ("cfcam", ("cfcam", CFCAMConfig())),
        ("cfcam:upstream", ("cfcam", CFCAMConfig.preset("upstream"))),
    ],
)
def test_parse_method(text, expected):
    assert parse_method(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gradcam:upstream", "only cfcam has presets .*default.* got method 'gradcam:upstream'"),
        ("cfcam:none", "unknown preset 'none'; choose one of: default"),
        ("cfcam:", "unknown preset ''"),
        ("", "unknown method ''; choose one of: cfcam, cfcam-fine, gradcam"),
    ],
)
def test_parse_method_refuses(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_method(text)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_explains_a_dataset(tmp_path, method):
    folder = save(tmp_path / "in", a=photo(1), b=photo(2))
    summary = run(folder, tmp_path / "out", method=method, batch_size=1)
    assert summary.tally.ok == 2
    assert (summary.engine == "torch") == (method not in CLUSTERS)
    results = open_results(tmp_path / "out")
    assert results.run["fingerprint"]["method"] == method
    for row in results.rows():
        assert row["grid"].shape == ((32, 32) if METHODS[method].needs_finer else (8, 8))
        assert row["blank"] == (row["heatmap_max"] == 0)
        assert (row["n_clusters"] is None) == (row["noise_fraction"] is None) == (method not in CLUSTERS)


def test_a_run_of_another_method_is_refused_and_an_old_one_is_cfcams(tmp_path):
    folder, out = save(tmp_path / "in", a=photo(1)), tmp_path / "out"
    run(folder, out)
    stored = json.loads((out / "run.json").read_text())
    del stored["fingerprint"]["method"]
    (out / "run.json").write_text(json.dumps(stored))
    assert run(folder, out).before == 1
    with pytest.raises(StoreError, match="method was 'cfcam', now 'gradcam'"):
        run(folder, out, method="gradcam")


def test_parameters_that_a_method_does_not_read_are_refused():
    with pytest.raises(ConfigError, match="presets and parameters are cfcam's, gradcam has none"):
        RunOptions(method="gradcam", config=CFCAMConfig.preset("upstream"))
    with pytest.raises(
        ConfigError, match="'gradcam-fine' reads only fine_share, got eps_percentile, sigma_space; leave"
    ):
        RunOptions(method="gradcam-fine", config=CFCAMConfig(eps_percentile=5, sigma_space=1, fine_share=0.9))
    for method in ("gradcam-fine", "cfcam-fine", "cfcam"):
        assert RunOptions(method=method, config=CFCAMConfig(fine_share=0.9)).config.fine_share == 0.9


def test_a_run_of_gradcam_fine_takes_the_share_that_it_reads(tmp_path):
    folder, grids = save(tmp_path / "in", a=photo(1)), {}
    for share in (0.1, 0.9):
        out = tmp_path / str(share)
        run(folder, out, method="gradcam-fine", config=CFCAMConfig(fine_share=share))
        (grids[share],) = (torch.from_numpy(row["grid"].copy()) for row in open_results(out).rows())
    pixels = PLAIN.normalise(torch.from_numpy(PLAIN.view(photo(1)))[None])
    for share, grid in grids.items():
        cam = CFCAM(Net().eval(), "conv:relu", CFCAMConfig(fine_share=share), method="gradcam-fine")
        torch.testing.assert_close(grid, cam(pixels).grid[0], **CLOSE)
    assert (grids[0.1] - grids[0.9]).abs().max() > 0.1 * grids[0.1].max()


@pytest.mark.parametrize("method", METHODS)
def test_a_method_reads_the_fields_that_its_entry_names_and_no_other(net, images, method):
    """Fields that the entry leaves out change nothing, and those it names change the map."""
    table, default = METHODS[method], CFCAMConfig()
    assert set(OTHER_VALUES) == {field.name for field in dataclasses.fields(CFCAMConfig)}
    with CFCAM(net, "conv:relu", method=method) as cam:
        features = cam.features(images, 1)
        expected = cam.explain(features).grid

    def grid(config: CFCAMConfig) -> Tensor:
        return CFCAM(net, "conv:relu", config, method=method).explain(features).grid

    unread = {name: value for name, value in OTHER_VALUES.items() if name not in table.reads_config}
    assert torch.equal(grid(CFCAMConfig(**unread)), expected)
    assert table.config_read(default) == {name: getattr(default, name) for name in table.reads_config}
    for name in table.reads_config:
        assert not torch.equal(grid(CFCAMConfig(**{name: OTHER_VALUES[name]})), expected), name


def command(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["explain", *arguments])
    assert "Traceback" not in result.output
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> tuple[str, ...]:
    """Arguments that name a small model and two photos."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "methodnet.py").write_text(
        "from tests.helpers.smallnet import Net\n\n\ndef make():\n    return Net()\n"
    )
    save(tmp_path / "in", a=photo(1), b=photo(2))
    return "in", "--model", "py:methodnet:make", "--size", "32", "--device", "cpu", "--workers", "0"


def test_the_command_takes_a_method(tiny):
    status, out, _ = command(*tiny, "--out", "out", "--method", "gradcam", "--json")
    assert status == 0
    content = json.loads(out)
    assert content["method"] == "gradcam"
    assert [row["n_clusters"] for row in content["images"]] == [None, None]
    status, out, _ = command(*tiny, "--out", "out", "--method", "gradcam")
    assert status == 0
    assert "clusters" not in out
    assert "None" not in out


def test_a_preset_by_the_methods_name(tiny):
    _, out, _ = command(*tiny, "--out", "out", "--method", "cfcam:upstream", "--json")
    content = json.loads(out)
    assert (content["method"], content["preset"], content["config"]["weighting"]) == (
        "cfcam",
        "upstream",
        "softmax",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "lime"), "unknown method 'lime'; choose one of: cfcam, cfcam-fine, gradcam"),
        (("--method", "gradcam", "--preset", "upstream"), "presets and parameters are cfcam's"),
        (("--method", "gradcam", "--eps-percentile", "5"), "presets and parameters are cfcam's"),
        (("--method", "cfcam:upstream", "--preset", "workflow"), "two presets"),
        (("--method", "gradcam", "--engine", "numba"), "engine 'numba' is one of cfcam's"),
    ],
)
def test_the_command_says_what_is_wrong_with_a_method(tiny, arguments, message):
    status, _, err = command(*tiny, "--out", "out", *arguments)
    assert status == 2
    assert message in " ".join(err.split())
