"""What every method owes: maps that no other image changes, flags, K targets, a model that comes back as it was."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable

import pytest
import torch
from torch import nn

from cfcam_gpu import CFCAM, explain_activations
from cfcam_gpu.capture import model_runner
from cfcam_gpu.dataset import open_results
from cfcam_gpu.errors import StoreError
from cfcam_gpu.methods import METHODS
from tests.helpers.method_cases import ALONE, CLASSLESS, CLOSE, CLUSTERS, GRADIENTS, LOGITS, Deeper, explain
from tests.helpers.smallnet import photo, run, save


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
    assert both.targets is not None
    assert torch.equal(both.targets, targets)
    for k in range(2):
        alone = explain(net, method, images, targets[:, k])
        torch.testing.assert_close(both.heatmap[:, k], alone.heatmap, **CLOSE)
        torch.testing.assert_close(both.grid[:, k], alone.grid, **CLOSE)
    same = torch.equal(both.heatmap[0, 0], both.heatmap[0, 1])
    assert same == (method in CLASSLESS)


@pytest.mark.parametrize("method", LOGITS)
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


@pytest.mark.parametrize("method", METHODS)
def test_the_model_comes_back_as_it_was(images, method):
    model = Deeper().train()
    model.head.bias.requires_grad = False
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


@pytest.mark.parametrize("method", METHODS)
def test_perturbed_gradients_change_only_what_reads_them(net, images, method):
    with CFCAM(net, "conv:relu", method=method) as cam:
        features = cam.features(images, 1)
        noise = torch.randn(features.gradients.shape, generator=torch.Generator().manual_seed(0))
        noisy = dataclasses.replace(features, gradients=features.gradients + noise)
        same = torch.equal(cam.explain(noisy).heatmap, cam.explain(features).heatmap)
    assert same == (method not in GRADIENTS)


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


@pytest.mark.parametrize("method", METHODS)
def test_every_method_explains_a_dataset(tmp_path, method):
    folder = save(tmp_path / "in", a=photo(1), b=photo(2))
    summary = run(folder, tmp_path / "out", method=method, batch_size=1)
    assert summary.tally.ok == 2
    assert summary.engine == "torch"  # of all methods; few images do not pay for compiled code
    results = open_results(tmp_path / "out")
    assert results.run["fingerprint"]["method"] == method
    for row in results.rows():
        assert row["grid"] is not None
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


@pytest.mark.parametrize("method", METHODS)
def test_a_check_ends_a_call_at_any_point_and_the_model_comes_back(images, method):
    """Called before each module of each pass: it ends the first pass in its middle, and the last one."""
    model, calls = Deeper().eval(), [0]
    cam = CFCAM(model, "conv:relu", method=method)
    expected = cam(images, 1).heatmap

    class EndedError(Exception):
        pass

    def end_at(last: int) -> Callable[[], None]:
        def check() -> None:
            calls[0] += 1
            if calls[0] == last:
                raise EndedError

        return check

    torch.testing.assert_close(cam(images, 1, check=end_at(-1)).heatmap, expected)
    count = calls[0]
    assert count > len(list(model.modules()))
    for last in (1, 3, count):
        calls[0] = 0
        with pytest.raises(EndedError):
            cam(images, 1, check=end_at(last))
        assert calls[0] == last
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    torch.testing.assert_close(cam(images, 1).heatmap, expected)
