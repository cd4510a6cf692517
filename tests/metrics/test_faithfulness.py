"""Drop, deletion, insertion and ROAD: against plain loops, other libraries, and maps known to be right or wrong."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import spsolve
from torch import Tensor

from cfcam_gpu.errors import ConfigError
from cfcam_gpu.metrics import faithfulness, imputation, masking, road
from cfcam_gpu.metrics.base import Case, normal
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.metrics.registry import METRICS
from tests.helpers import metric_cases
from tests.helpers.metric_cases import TinyNet, part, pictures, region_case

NAMES = ("drop", "drop_published", "deletion", "insertion", "road")
OPTIONS = MetricOptions(steps=11)

#: Probabilities of the same images in batches of other sizes: float32 rounding in the model.
ROUNDING = 1e-5
#: Filled pixels against an exact solution in float64: rounding, see `imputation.RESIDUAL`.
FILLED = 2e-4


#: A model whose softmax feels what is taken from the image.
NET = TinyNet(gain=30)


def tiny_case(**settings: object) -> Case:
    return metric_cases.tiny_case(net=NET, **settings)


def measure(case: Case, name: str, options: MetricOptions = OPTIONS) -> dict[str, Tensor]:
    return METRICS[name].function(case, options)


def probability(case: Case, index: int, image: Tensor) -> float:
    return case.model(image[None]).softmax(1)[0, case.targets[index]].item()


# --- the table


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_fills_its_columns(name: str):
    """Names and shapes are as declared, so that a table and its summary can rely on them."""
    metric = METRICS[name]
    case = tiny_case(n=2, masks=pictures(2)[:, 0] > 0.5)
    found = measure(case, name, MetricOptions(steps=3, noise_draws=1, noise_levels=(1.0,), stages=2))
    assert metric.name == name
    assert metric.source
    assert set(found) == {column.name for column in metric.columns}
    for column in metric.columns:
        values = found[column.name]
        assert values.dtype == torch.float32
        assert values.ndim == (2 if column.curve else 1)
        assert len(values) == 2
        assert column.better in ("higher", "lower", "")
        assert column.about.endswith(".")


def test_no_two_metrics_share_a_column():
    names = [column.name for metric in METRICS.values() for column in metric.columns]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 1}, "steps must be an integer of at least 2, got 1"),
        ({"steps": True}, "steps must be an integer of at least 2, got True"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        (
            {"road_percentiles": (20.0, 100.0)},
            r"road_percentiles must be a tuple of increasing numbers above 0 and below 100, got \(20.0, 100.0\)",
        ),
        ({"noise_levels": ()}, r"noise_levels must be a tuple of increasing numbers above 0, got \(\)"),
        ({"noise_levels": (2.0, 1.0)}, "noise_levels must be a tuple of increasing numbers above 0"),
        ({"input_noise_levels": (math.nan,)}, "input_noise_levels must be a tuple of increasing numbers"),
        ({"iou_thresholds": "0.5"}, "iou_thresholds must be a tuple of increasing numbers"),
    ],
)
def test_options_out_of_range_are_refused(change: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        MetricOptions(**change)


def test_random_numbers_belong_to_the_image():
    """Neither the batch nor its order changes an image's draw; seed and draw do, also above 32 bits."""
    seeds = torch.tensor([5, -1, 2**40 + 5])
    together = normal(seeds, 0, 0, (500,))
    assert torch.equal(together[2:], normal(seeds[2:], 0, 0, (500,)))
    others = torch.cat([together, normal(seeds[:1], 1, 0, (500,)), normal(seeds[:1], 0, 1, (500,))])
    assert torch.corrcoef(others).triu(1).abs().max() < 0.2
    assert abs(together.std() - 1) < 0.1


# --- definitions


@given(st.lists(st.integers(0, 3), min_size=1, max_size=24))
def test_ranks_are_a_stable_order(values: list[int]):
    """Every place once, higher values first, equal values in reading order."""
    places = masking.ranks(torch.tensor(values).float()[None, None])[0, 0].tolist()
    assert [places.index(k) for k in range(len(values))] == sorted(
        range(len(values)), key=lambda i: (-values[i], i)
    )


def test_drop_is_the_loss_on_image_times_map():
    case = tiny_case(n=4)
    found = measure(case, "drop")
    for i in range(4):
        kept = probability(case, i, case.images[i] * case.heatmaps[i])
        clean = case.clean[i].item()
        assert found["average_drop"][i] == pytest.approx(max(0, clean - kept) / clean, abs=ROUNDING)
        assert found["increase"][i] == float(kept > clean)


def test_the_drop_of_nothing_is_not_a_number():
    """A target of probability 0 cannot drop; whether it rose is still defined."""
    case = replace(tiny_case(n=2), clean=torch.tensor([0.0, 1.0]))
    assert measure(case, "drop")["average_drop"].isnan().tolist() == [True, False]
    assert measure(case, "drop")["increase"].tolist() == [1, 0]
    assert not measure(case, "drop_published")["drop_raw_pixels"][0].isfinite()


def test_published_drop_follows_the_published_steps():
    """Its masks in NumPy, its baseline through ImageNet's normalisation, as the code has them."""
    case = tiny_case(n=3)
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    found = measure(case, "drop_published")
    for i in range(3):
        image, heatmap = case.images[i].permute(1, 2, 0).numpy(), case.heatmaps[i].numpy()[..., None]
        normalised = (image - mean) / std
        shown = (heatmap > 0.3).astype(np.float32)
        mixed = (mean * (1 - shown) + normalised * shown) * std + mean
        baseline = np.broadcast_to(mean * std + mean, image.shape)
        kept, inserted, nothing = (
            probability(case, i, torch.from_numpy(np.array(x, np.float32)).permute(2, 0, 1))
            for x in (image * (heatmap > 0.5), mixed, baseline)
        )
        clean = case.clean[i].item()
        assert found["drop_raw_pixels"][i] == pytest.approx((clean - kept) / clean, abs=ROUNDING)
        assert found["increase_mean_colour"][i] == pytest.approx(inserted - nothing, abs=ROUNDING)


@pytest.mark.parametrize("steps", [2, 5, 11])
@pytest.mark.parametrize("baseline", ["black", "blur"])
def test_deletion_and_insertion_equal_a_plain_loop(steps: int, baseline: str):
    case = tiny_case(n=3, size=14)
    base = faithfulness.BASELINES[baseline](case.images)
    deletion = measure(case, "deletion", MetricOptions(steps=steps, batch_size=4))
    insertion = measure(case, "insertion", MetricOptions(steps=steps, batch_size=4))
    for i in range(3):
        order = np.argsort(-case.heatmaps[i].flatten().numpy(), kind="stable")
        removed, inserted, shares = [], [], []
        for step in range(steps):
            first = torch.zeros(14 * 14, dtype=torch.bool)
            first[order[: step * 14 * 14 // (steps - 1)]] = True
            first = first.view(1, 14, 14)
            removed.append(probability(case, i, torch.where(first, base[i], case.images[i])))
            inserted.append(probability(case, i, torch.where(first, case.images[i], base[i])))
            shares.append(first.float().mean().item())
        for found, kind, curve in ((deletion, "deletion", removed), (insertion, "insertion", inserted)):
            np.testing.assert_allclose(found[f"{kind}_{baseline}_curve"][i].numpy(), curve, atol=ROUNDING)
            auc = found[f"{kind}_{baseline}_auc"][i].item()
            assert auc == pytest.approx(np.trapezoid(curve, shares), abs=ROUNDING)


def test_blurred_baseline_is_the_gaussian_of_rise():
    """SciPy's filter of the same window of 11 pixels and standard deviation 5, on an image smaller than two windows."""
    images = pictures(2, 14)
    expected = images.numpy()
    for axis in (2, 3):
        expected = gaussian_filter1d(expected, 5, axis=axis, mode="nearest", radius=5)
    torch.testing.assert_close(masking.blurred(images), torch.from_numpy(expected), atol=1e-6, rtol=0)


# --- maps that are right and wrong


def random_map(region: Tensor) -> Tensor:
    return torch.rand(region.shape, generator=torch.Generator().manual_seed(0))


SCALARS = [
    (name, column.name, column.better)
    for name in NAMES
    for column in METRICS[name].columns
    if not column.curve and column.name != "increase"
]


@pytest.mark.parametrize(("name", "column", "better"), SCALARS)
def test_the_right_map_is_best_and_its_inverse_worst(name: str, column: str, better: str):
    """On a model that looks at one region: the region itself, random values, everything but the region."""
    maps = (lambda region: region, random_map, lambda region: 1 - region)
    right, chance, wrong = (measure(region_case(m), name)[column].mean().item() for m in maps)
    if better == "higher":
        right, chance, wrong = -right, -chance, -wrong
    assert right < chance < wrong
    assert wrong - right > 0.1


def test_confidence_increases_where_only_the_region_is_left():
    assert measure(region_case(lambda region: region), "drop")["increase"].tolist() == [1, 1]
    assert measure(region_case(lambda region: 1 - region), "drop")["increase"].tolist() == [0, 0]


def test_road_curves_keep_the_target_where_the_region_is_spared():
    found = measure(region_case(lambda region: region), "road")
    assert (found["road_least_curve"] > found["road_most_curve"]).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_blank_map_has_finite_figures(name: str):
    """It is no map to skip: a method that often gives none must not gain by it."""
    case = tiny_case(n=2, heatmaps=torch.zeros(2, 16, 16), blank=torch.ones(2, dtype=torch.bool))
    found = measure(case, name)
    assert all(values.isfinite().all() for values in found.values())
    if name == "drop":
        black = case.model(torch.zeros_like(case.images)).softmax(1).gather(1, case.targets[:, None])[:, 0]
        torch.testing.assert_close(found["average_drop"], (case.clean - black).relu() / case.clean)


# --- batches


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_an_image_does_not_depend_on_its_batch(name: str, data: st.DataObject):
    case = tiny_case(n=5, size=12)
    whole = measure(case, name)
    start = data.draw(st.integers(0, 4))
    index = slice(start, data.draw(st.integers(start + 1, 5)))
    options = replace(OPTIONS, batch_size=data.draw(st.sampled_from([1, 7, 64])))
    for column, values in measure(part(case, index), name, options).items():
        torch.testing.assert_close(values, whole[column][index], atol=ROUNDING, rtol=0, msg=column)


@pytest.mark.parametrize("name", NAMES)
def test_two_runs_are_identical(name: str):
    case = tiny_case(n=3)
    first, second = measure(case, name), measure(case, name)
    assert all(torch.equal(first[column], second[column]) for column in first)


@pytest.mark.parametrize("name", ["deletion", "insertion", "road"])
def test_memory_is_bounded_by_the_batch_size(name: str):
    case, sizes = tiny_case(n=5), []

    def model(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return case.model(images)

    measure(replace(case, model=model), name, MetricOptions(steps=21, batch_size=16))
    assert max(sizes) <= 16
    assert sum(sizes) == {"deletion": 200, "insertion": 200, "road": 40}[name]


def test_roads_noise_comes_from_the_seeds():
    case = tiny_case(n=2)
    found = measure(case, "road")["road_most_curve"]
    one_by_one = measure(case, "road", replace(OPTIONS, batch_size=1))["road_most_curve"]
    torch.testing.assert_close(found, one_by_one, atol=ROUNDING, rtol=0)
    for other in (
        measure(case, "road", replace(OPTIONS, seed=1)),
        measure(replace(case, seeds=case.seeds + 1), "road"),
    ):
        assert not torch.equal(found, other["road_most_curve"])
        torch.testing.assert_close(found, other["road_most_curve"], atol=0.05, rtol=0)


# --- filling


def exactly_filled(image: Tensor, missing: Tensor) -> Tensor:
    """The same equations for (C,H,W) by SciPy's sparse solver in float64."""
    h, w = missing.shape
    pixel = np.arange(h * w).reshape(h, w)
    rows, columns, weights = [], [], []
    for dy, dx in [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]:
        here = pixel[max(0, -dy) : h - max(0, dy), max(0, -dx) : w - max(0, dx)].ravel()
        rows.append(here)
        columns.append(here + dy * w + dx)
        weights.append(np.full(len(here), 1 / 6 if dy * dx == 0 else 1 / 12))
    places = np.concatenate(rows), np.concatenate(columns)
    matrix = coo_array((np.concatenate(weights), places), shape=(h * w, h * w)).tocsr()
    hole, values = missing.flatten().numpy(), image.flatten(1).double().numpy().copy()
    values[:, hole] = 0
    system = diags_array(matrix.sum(1)[hole]) - matrix[hole][:, hole]
    values[:, hole] = spsolve(system.tocsc(), matrix[hole] @ values.T).T
    return torch.from_numpy(values.reshape(image.shape)).float()


def blob(h: int, w: int, share: float, seed: int) -> Tensor:
    """A smooth hole of this share of the pixels, (h,w) bool."""
    coarse = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (h, w), mode="bicubic")
    return masking.ranks(smooth[0])[0] < round(h * w * share)


@pytest.mark.parametrize(
    ("h", "w", "shares"),
    [
        (5, 9, (0.2, 0.8, 0.95)),
        (61, 47, (0.2, 0.8, 0.95)),
        pytest.param(224, 224, (0.8,), marks=pytest.mark.slow),
    ],
)
def test_filling_solves_the_equations(h: int, w: int, shares: tuple[float, ...]):
    """Against an exact solution, for holes of several sizes at once, beside a speckle; also all and nothing."""
    speckle = torch.rand(h, w, generator=torch.Generator().manual_seed(0)) < 0.5
    missing = torch.stack([*(blob(h, w, share, 3) for share in shares), speckle])
    images = pictures(len(missing), max(h, w))[:, :, :h, :w]
    filled = imputation.impute(images, missing)
    for image, hole, result in zip(images, missing, filled, strict=True):
        torch.testing.assert_close(result, exactly_filled(image, hole), atol=FILLED, rtol=0)
        assert torch.equal(result[:, ~hole], image[:, ~hole])
    none = torch.zeros(1, h, w, dtype=torch.bool)
    assert torch.equal(imputation.impute(images[:1], none), images[:1])
    assert (imputation.impute(images[:1], ~none) == 0).all()


def test_what_was_in_a_hole_does_not_matter():
    images, missing = pictures(1), blob(16, 16, 0.5, 0)[None]
    poisoned = images.masked_fill(missing[:, None], torch.nan)
    assert torch.equal(imputation.impute(images, missing), imputation.impute(poisoned, missing))


def test_filling_that_cannot_converge_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(imputation, "MAX_ITERATIONS", 1)
    with pytest.raises(RuntimeError, match="could not be filled in to 1e-06 in 1 iterations"):
        imputation.impute(pictures(1), blob(16, 16, 0.5, 0)[None])


@pytest.mark.parametrize("share", [20.0, 33.3, 80.0])
def test_road_removes_the_asked_share_at_both_ends(share: float):
    places = masking.ranks(pictures(2)[:, 0])
    most, least = road.removed(places, (share,))[:, :, 0].unbind(1)
    count = round(256 * share / 100)
    assert (most.sum((1, 2)) == count).all()
    assert (least.sum((1, 2)) == count).all()
    assert (places[0][most[0]] < count).all()
    assert (places[0][least[0]] >= 256 - count).all()


# --- other libraries


def test_torch_cam_agrees():
    """Its Average Drop, Increase in Confidence, deletion and insertion on its own Grad-CAM maps."""
    methods = pytest.importorskip("torchcam.methods", reason="needs torch-cam (extra peers)")
    metrics = pytest.importorskip("torchcam.metrics")
    if not hasattr(metrics, "DeletionInsertionMetric"):
        pytest.skip("this torch-cam has no deletion metric; 0.5 does")
    net, case = NET, tiny_case(n=4, size=10)
    with methods.GradCAM(net, "features") as extractor:
        softmax = torch.nn.Softmax(-1)
        (cams,) = extractor(case.targets.tolist(), softmax(net(case.images)))
        drop = metrics.ClassificationMetric(extractor, softmax)
        curves = metrics.DeletionInsertionMetric(extractor, softmax, steps=100)
        drop.update(case.images, case.targets.tolist())
        curves.update(case.images, case.targets.tolist())
    maps = torch.nn.functional.interpolate(cams.detach()[:, None], (10, 10), mode="bilinear")[:, 0]
    case = replace(case, heatmaps=maps)
    ours = {
        k: v
        for name in ("drop", "deletion", "insertion")
        for k, v in measure(case, name, MetricOptions()).items()
    }
    theirs = drop.summary() | curves.summary()
    for name, column in {
        "avg_drop": "average_drop",
        "conf_increase": "increase",
        "deletion_auc": "deletion_black_auc",
        "insertion_auc": "insertion_black_auc",
    }.items():
        assert ours[column].mean().item() == pytest.approx(theirs[name], abs=ROUNDING), name


def test_pytorch_grad_cam_agrees(monkeypatch: pytest.MonkeyPatch):
    """Its drop (not divided by the clean score), increase and ROAD without noise."""
    peer = pytest.importorskip(
        "pytorch_grad_cam.metrics.cam_mult_image", reason="needs grad-cam (extra peers)"
    )
    peer_road = pytest.importorskip("pytorch_grad_cam.metrics.road")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    class Noiseless(peer_road.NoisyLinearImputer):
        def __init__(self) -> None:
            super().__init__(noise=0.0)

    monkeypatch.setattr(peer_road, "NoisyLinearImputer", Noiseless)
    monkeypatch.setattr(road, "NOISE", 0.0)
    # 18×18 pixels: its percentile thresholds then remove as many pixels as the shares here. No two values equal.
    case = tiny_case(n=3, size=18, heatmaps=random_map(torch.empty(3, 18, 18)))
    given = (
        case.images,
        case.heatmaps.numpy(),
        [ClassifierOutputSoftmaxTarget(t) for t in case.targets],
        NET,
    )
    drop, found = measure(case, "drop"), measure(case, "road")
    one_by_one = (case.images, case.heatmaps.numpy()[:, None], *given[2:])
    np.testing.assert_allclose(
        (drop["average_drop"] * case.clean).numpy(), peer.DropInConfidence()(*one_by_one), atol=ROUNDING
    )
    np.testing.assert_array_equal(drop["increase"].numpy(), peer.IncreaseInConfidence()(*one_by_one))
    expected = peer_road.ROADCombined(percentiles=[20, 40, 60, 80])(*given)
    np.testing.assert_allclose(found["road_combined"].numpy(), expected, atol=1e-4)
    most = peer_road.ROADMostRelevantFirstAverage(percentiles=[20, 40, 60, 80])(*given) + case.clean.numpy()
    np.testing.assert_allclose(found["road_most_curve"].mean(1).numpy(), most, atol=1e-4)


def test_quantus_agrees():
    """Its pixel flipping with a black baseline is the deletion curve without the clean image."""
    quantus = pytest.importorskip("quantus", reason="needs quantus, which is no extra of this package")
    case = tiny_case(n=3, size=12, heatmaps=random_map(torch.empty(3, 12, 12)))
    flipping = quantus.PixelFlipping(
        features_in_step=3 * 16, perturb_baseline="black", normalise=False, disable_warnings=True
    )
    curves = flipping(
        model=NET,
        x_batch=case.images.numpy(),
        y_batch=case.targets.numpy(),
        a_batch=case.heatmaps[:, None].numpy(),
        softmax=True,
        device="cpu",
    )
    np.testing.assert_allclose(
        measure(case, "deletion", MetricOptions(steps=10))["deletion_black_curve"][:, 1:].numpy(),
        curves,
        atol=ROUNDING,
    )
