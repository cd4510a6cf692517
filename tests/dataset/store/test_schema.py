"""One result row: its columns are listed once, documented, and come back from tables as they went in."""

from __future__ import annotations

import re
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest

from cfcam_gpu.dataset.store.schema import (
    COLUMNS,
    ColumnName,
    Row,
    arrow_schema,
    rows_to_table,
    table_maps,
    table_to_rows,
)
from tests.helpers.result_rows import BAD, GOOD, MAP_SHAPE, assert_rows


def test_the_columns_are_those_that_other_programs_rely_on():
    types = {field.name: str(field.type) for field in arrow_schema(MAP_SHAPE)}
    grid = "extension<arrow.fixed_shape_tensor[value_type=float, shape=[2,3]]>"
    assert types == {
        "sample_id": "string", "uri": "string", "status": "string", "stage": "string", "error_type": "string",
        "message": "string", "label": "string", "target": "int32", "target_name": "string",
        "target_prob": "float", "pred": "int32", "pred_name": "string", "prob": "float",
        "n_clusters": "int32", "noise_fraction": "float", "blank": "bool", "grid": grid,
        "heatmap_max": "float", "width": "int32", "height": "int32",
        "box": "fixed_size_list<item: float>[4]", "overlay": "string", "decoding": "string",
    }  # fmt: skip
    assert list(types) == list(COLUMNS)


def test_every_column_is_named_once_more_for_mypy_and_documented_in_its_order():
    assert get_args(ColumnName) == COLUMNS
    attributes = str(Row.__doc__).partition("Attributes:")[2]
    assert tuple(re.findall(r"^\s+(\w+): ", attributes, re.MULTILINE)) == COLUMNS


@pytest.mark.parametrize("rows", [[GOOD, BAD], [BAD, GOOD, GOOD], [BAD], [GOOD], []], ids=len)
def test_rows_come_back_from_a_table_as_they_went_in(rows: list[Row]):
    schema = arrow_schema(MAP_SHAPE)
    table = rows_to_table(rows, schema)
    assert table.schema.equals(schema)
    assert_rows(table_to_rows(table), rows)
    assert_rows(table_to_rows(table.slice(1)), rows[1:])
    assert rows_to_table(table_to_rows(table), schema).equals(table)


def test_rows_lack_the_columns_that_the_table_lacks():
    table = rows_to_table([GOOD, BAD], arrow_schema(MAP_SHAPE))
    assert table_to_rows(table.select(["status"])) == [{"status": "ok"}, {"status": "error"}]
    (good, bad) = table_to_rows(table.select(["grid"]))
    np.testing.assert_equal(good, {"grid": GOOD["grid"]})
    assert bad == {"grid": None}


def test_maps_of_a_table_of_several_pieces_are_in_order():
    rows: list[Any] = [{"grid": np.full(MAP_SHAPE, i, np.float32)} for i in range(5)]
    rows[3] = {"grid": None}
    table = rows_to_table(rows, arrow_schema(MAP_SHAPE, ["grid"]))
    table = pa.concat_tables([table.slice(1, 3), table.slice(0, 2), table.slice(4)])
    maps = [None if grid is None else grid.tolist() for grid in table_maps(table)]
    assert maps == [[[i] * 3] * 2 if i is not None else None for i in (1, 2, None, 0, 1, 4)]
