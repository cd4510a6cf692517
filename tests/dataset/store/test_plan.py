"""The stored plan: every part has its samples, through all segments."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.plan import Plan, write_plan
from cfcam_gpu.errors import StoreError


def samples(start: int, stop: int) -> list[Sample]:
    return [Sample(f"id{i}", f"/data/{i}.png", str(i % 3), None, f"sub/{i}") for i in range(start, stop)]


@pytest.mark.parametrize("group", [2, 7, 100])
def test_the_plan_gives_each_part_its_samples_through_all_segments(tmp_path, monkeypatch, group):
    monkeypatch.setattr("cfcam_gpu.dataset.sources.columns.AT_ONCE", group)
    path = tmp_path / "plan.parquet"
    first = write_plan(path, samples(0, 10), [10], 4)
    assert (first.parts, len(first)) == (3, 10)
    before = [first.samples(part) for part in range(3)]
    plan = first.extended(samples(10, 15)).extended(samples(15, 16))
    assert (plan.parts, len(plan), plan.segments) == (6, 16, [10, 5, 1])
    sizes = [4, 4, 2, 4, 1, 1]
    assert [plan.count(part) for part in range(6)] == sizes
    again = Plan(path)
    assert [again.samples(part) for part in range(3)] == before
    found = [sample for part in (5, 0, 3, 1, 2, 4) for sample in again.samples(part)]
    assert sorted(found, key=lambda s: int(s.sample_id[2:])) == samples(0, 16)
    assert [row["name"] for row in plan.columns("name")] == [f"sub/{i}" for i in range(16)]


def test_a_plan_that_is_gone_or_no_plan_is_said(tmp_path):
    with pytest.raises(StoreError, match=r"the plan .*plan.parquet is missing or damaged; --overwrite"):
        Plan(tmp_path / "plan.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "plan.parquet")
    with pytest.raises(StoreError, match="is missing or damaged"):
        Plan(tmp_path / "plan.parquet")
