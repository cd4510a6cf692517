"""Arrow arrays from Python values, without pandas.

`pyarrow.array` imports pandas wherever it is installed, which takes longer than explaining a few images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def arrow_array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """As `pyarrow.array(values, kind)`: one element for each value, null for None.

    Raises:
        AttributeError, TypeError, ValueError, OverflowError: a value of another type.

    Example:
        >>> arrow_array(["a", None], pa.string()).to_pylist(), arrow_array([1.5, None], pa.float32()).to_pylist()
        (['a', None], [1.5, None])
    """
    present = np.array([value is not None for value in values], np.bool_)
    count = len(present)
    validity = None if present.all() else _bits(present)
    if pa.types.is_string(kind):
        encoded = [b"" if value is None else value.encode() for value in values]
        ends = np.cumsum([0, *map(len, encoded)])
        if ends[-1] <= np.iinfo(np.int32).max:
            buffers = [validity, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(encoded))]
            return pa.Array.from_buffers(kind, count, buffers)
    elif pa.types.is_boolean(kind):
        return pa.Array.from_buffers(kind, count, [validity, _bits(np.array([bool(v) for v in values]))])
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        numbers = np.array([0 if value is None else value for value in values], kind.to_pandas_dtype())
        return pa.Array.from_buffers(kind, count, [validity, pa.py_buffer(numbers)])
    elif pa.types.is_fixed_size_list(kind):
        none = (None,) * kind.list_size
        items = arrow_array([item for value in values for item in (value or none)], kind.value_type)
        return pa.Array.from_buffers(kind, count, [validity], children=[items])
    return pa.array(values, kind)


def fixed_size_lists(values: npt.NDArray[np.float32], present: Sequence[bool]) -> pa.Array:
    """The lines of (N, cells) float32 as lists in the same memory; null where `present` is False.

    Example:
        >>> fixed_size_lists(np.float32([[1, 2], [0, 0]]), [True, False]).to_pylist()
        [[1.0, 2.0], None]
    """
    count, cells = values.shape
    items = pa.Array.from_buffers(pa.float32(), values.size, [None, pa.py_buffer(values.reshape(-1))])
    validity = None if all(present) else _bits(np.array(present))
    return pa.Array.from_buffers(pa.list_(pa.float32(), cells), count, [validity], children=[items])


def _bits(flags: npt.NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags.astype(np.bool_), bitorder="little"))
