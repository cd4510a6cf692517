"""Arrow arrays made without pandas equal those of pyarrow.array."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cfcam_gpu.dataset.store.arrays import arrow_array, fixed_size_lists

CASES: list[tuple[list[Any], pa.DataType]] = [
    ([], pa.string()),
    (["a", None, "", "é\U0001f600", "x" * 1000], pa.string()),
    ([None, None], pa.string()),
    ([True, None, False] * 7, pa.bool_()),
    ([np.array(1, np.bool_)[()], False], pa.bool_()),
    ([1, None, -(2**31)], pa.int32()),
    ([2**40, 0], pa.int64()),
    ([0.1, None, float("inf")], pa.float32()),
    ([1, 2.5], pa.float64()),
    ([np.float32(0.1)], pa.float32()),
    ([[0.0, 1.5, 2.0, 3.0], None, [4.0, 5.0, 6.0, 7.0]], pa.list_(pa.float32(), 4)),
    ([], pa.list_(pa.float32(), 4)),
    ([["a"], None, []], pa.list_(pa.string())),
]


@pytest.mark.parametrize(("values", "kind"), CASES, ids=str)
def test_arrays_are_those_of_pyarrow(values: list[Any], kind: pa.DataType) -> None:
    array = arrow_array(values, kind)
    array.validate(full=True)
    assert array.type == kind
    assert array.equals(pa.array(values, kind))


@pytest.mark.parametrize("present", [[True, True, True], [True, False, True], [False] * 3])
def test_lists_are_those_of_pyarrow(present: list[bool]) -> None:
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    lists = fixed_size_lists(values, present)
    lists.validate(full=True)
    expected = [line if there else None for line, there in zip(values.tolist(), present, strict=True)]
    assert lists.equals(pa.array(expected, pa.list_(pa.float32(), 2)))


@pytest.mark.parametrize(("value", "kind"), [(3, pa.string()), ("x", pa.int32()), (2**40, pa.int32())])
def test_a_value_of_another_type_is_refused(value: Any, kind: pa.DataType) -> None:
    with pytest.raises((AttributeError, TypeError, ValueError, OverflowError)):
        arrow_array([value], kind)
