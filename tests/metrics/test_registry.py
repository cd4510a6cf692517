"""What every metric of the table keeps: its columns, independence of the batch, right maps before wrong ones."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cfcam_gpu.errors import ConfigError
from cfcam_gpu.metrics import METRICS, MetricOptions
from tests.helpers.metric_cases import pictures, random_map, region_case, sensitive_case, subset
from tests.helpers.tolerances import PROBABILITY, SIMILARITY

#: Metrics that ask whether the score follows the map: each ranks a right map above a wrong one.
FAITHFULNESS = ("drop", "drop_published", "deletion", "insertion", "road")
OPTIONS = MetricOptions(steps=11)
#: Few of everything, for tests that run every metric.
SHORT = MetricOptions(
    steps=5, noise_draws=1, noise_levels=(2.0,), input_noise_levels=(0.1,), road_percentiles=(30.0,), stages=2
)
MASKS = pictures(5)[:, 0] > 0.5


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_fills_its_columns(name: str):
    """Names and shapes are as declared, so that a table and its summary can rely on them."""
    metric = METRICS[name]
    values = metric(sensitive_case(n=2, masks=MASKS[:2]), SHORT)
    assert metric.name == name
    assert metric.source
    assert values.keys() == {column.name for column in metric.columns}
    for column in metric.columns:
        assert values[column.name].dtype == torch.float32
        assert values[column.name].ndim == (2 if column.curve else 1)
        assert len(values[column.name]) == 2
        assert column.better in ("higher", "lower", "")
        assert column.about.endswith(".")


def test_no_two_metrics_share_a_column():
    names = [column.name for metric in METRICS.values() for column in metric.columns]
    assert len(names) == len(set(names))


def test_the_names_can_be_listed_without_pytorch():
    """The command's help does; the first use of a metric imports it."""
    code = (
        "import sys; from cfcam_gpu.metrics import METRICS, MetricOptions\n"
        "assert METRICS['localisation'].needs_masks and not METRICS['drop'].needs_masks\n"
        "assert 'torch' not in sys.modules\n"
        "assert METRICS['drop'].columns[0].name == 'average_drop'\n"
        "assert 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_an_image_does_not_depend_on_its_batch(name: str, data: st.DataObject):
    case = sensitive_case(n=5, seed=data.draw(st.integers(0, 50)), masks=MASKS)
    whole = METRICS[name](case, SHORT)
    start = data.draw(st.integers(0, 4))
    index = slice(start, data.draw(st.integers(start + 1, 5)))
    options = replace(SHORT, batch_size=data.draw(st.sampled_from([1, 7, 64])))
    tolerance = PROBABILITY if name in (*FAITHFULNESS, "adcc", "arcc") else SIMILARITY
    expected = {column: values[index] for column, values in whole.items()}
    some = METRICS[name](subset(case, index), options)
    torch.testing.assert_close(some, expected, atol=tolerance, rtol=0, equal_nan=True)


@pytest.mark.parametrize("name", METRICS)
def test_two_runs_are_identical_and_leave_the_random_state(name: str):
    state = torch.random.get_rng_state()
    first, second = (METRICS[name](sensitive_case(n=3, masks=MASKS[:3]), SHORT) for _ in range(2))
    torch.testing.assert_close(first, second, atol=0, rtol=0, equal_nan=True)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    "name", ["adcc", "arcc", "gradient_noise", "input_noise", "class_sensitivity", "randomisation"]
)
def test_metrics_that_need_more_maps_say_so(name: str):
    with pytest.raises(ConfigError, match=r"makes more heatmaps .* give the case `maps`, a MapMaker"):
        METRICS[name](region_case(lambda region: region), SHORT)


SCALARS = [
    (name, column.name, column.better)
    for name in FAITHFULNESS
    for column in METRICS[name].columns
    if not column.curve and column.name != "increase"
]


@pytest.mark.parametrize(("name", "column", "better"), SCALARS)
def test_the_right_map_is_best_and_its_inverse_worst(name: str, column: str, better: str):
    """On a model that looks at one region: the region itself, random values, everything but the region."""
    maps = (lambda region: region, random_map, lambda region: 1 - region)
    right, chance, wrong = (METRICS[name](region_case(m), OPTIONS)[column].mean().item() for m in maps)
    if better == "higher":
        right, chance, wrong = -right, -chance, -wrong
    assert right < chance < wrong
    assert wrong - right > 0.1


@pytest.mark.parametrize("name", FAITHFULNESS)
def test_a_blank_map_has_finite_figures(name: str):
    """It is no map to skip: a method that often gives none must not gain by it."""
    case = sensitive_case(n=2, heatmaps=torch.zeros(2, 16, 16), blank=torch.ones(2, dtype=torch.bool))
    assert all(values.isfinite().all() for values in METRICS[name](case, OPTIONS).values())


@pytest.mark.parametrize(("name", "composed"), [("deletion", 200), ("insertion", 200), ("road", 40)])
def test_memory_is_bounded_by_the_batch_size(name: str, composed: int):
    case = sensitive_case(n=5)
    sizes: list[int] = []

    def model(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return case.model(images)

    METRICS[name](replace(case, model=model), MetricOptions(steps=21, batch_size=16))
    assert max(sizes) <= 16
    assert sum(sizes) == composed
