"""No part of an explanation waits for the device, and none asks it for more operations than before."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from bench import device_ops
from bench.common import RESULTS
from cfcam_gpu.methods import METHODS

#: Operations and launches of the default call beyond the forward pass.
MOST_EXTRA = 20

#: The same of other calls for which there are kernels; `cfcam-sharp` differentiates down to an earlier layer.
MOST_OF_OTHERS = {"preset spatial, triton": 23, "method cfcam-sharp": 121, "method cfcam-fine": 129}

COLUMNS = ("operations", "launches", "to_device", "to_host", "waits")


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return device_ops.run(device_ops.Options())


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    """The result of `python -m bench.device_ops`, which is run again when a figure has fallen."""
    record: dict[str, Any] = json.loads((RESULTS / "device_ops.json").read_text())
    return record


@pytest.mark.slow
def test_no_figure_is_above_the_stored_one(result: dict[str, Any], stored: dict[str, Any]) -> None:
    assert set(result["cases"]) == set(stored["cases"])
    higher = {
        (name, column): (row[column], stored["cases"][name][column])
        for name, row in result["cases"].items()
        for column in COLUMNS
        if row[column] > stored["cases"][name][column]
    }
    assert not higher, "more than in bench/results/device_ops.json"
    assert result["extra_ops"] <= stored["extra_ops"]
    assert result["waits"] <= stored["waits"]


@pytest.mark.slow
def test_the_default_call_asks_for_few_operations_and_never_waits(result: dict[str, Any]) -> None:
    assert result["extra_ops"] <= MOST_EXTRA
    assert result["waits"] == 0
    for name, most in MOST_OF_OTHERS.items():
        row = result["cases"][name]
        assert row["operations"] + row["launches"] - result["forward"]["operations"] <= most, name


@pytest.mark.slow
def test_every_method_is_a_case_or_left_out_for_a_reason(result: dict[str, Any]) -> None:
    methods = {name.removeprefix("method ") for name in result["cases"] if name.startswith("method ")}
    assert methods | {"cfcam"} | set(device_ops.LEFT_OUT) == set(METHODS)
    assert not methods & set(device_ops.LEFT_OUT)


@pytest.mark.slow
def test_a_batch_of_a_dataset_run_is_read_once(result: dict[str, Any]) -> None:
    """The pixels, and the model's mean and deviation, are copied without a wait."""
    batch = result["dataset_batch"]
    assert (batch["to_device"], batch["to_host"], batch["waits"]) == (2, 1, 1)


@pytest.mark.slow
def test_invalid_images_are_looked_for_by_one_read(result: dict[str, Any]) -> None:
    assert result["reads_with_on_invalid_raise"] == 1


def test_what_waits_is_counted() -> None:
    """A tensor from numbers, a copy of one from the host, a value read back, a shape that depends on values."""
    values = torch.zeros(3, device="meta")

    def waiting() -> None:
        torch.tensor([1.0], device="meta")
        values.add_(torch.ones(3).to("meta"))
        values.cpu()
        values.tolist()

    counts = device_ops.counted(waiting)
    assert (counts.to_device, counts.to_host, counts.waits) == (2, 2, 4)

    def shape_of_values() -> None:
        values.nonzero()

    with pytest.raises(NotImplementedError):
        device_ops.counted(shape_of_values)


def test_copies_that_nobody_waits_for_are_no_waits() -> None:
    counts = device_ops.counted(lambda: torch.ones(3).to("meta", non_blocking=True))
    assert (counts.to_device, counts.waits) == (1, 0)


def test_views_and_allocations_are_no_operations() -> None:
    values = torch.zeros(2, 3, device="meta")
    counts = device_ops.counted(lambda: (values[0], values.T, values.view(3, 2), torch.empty_like(values)))
    assert counts.operations == 0
    assert device_ops.counted(lambda: values + 1).operations == 1
