"""Runs that an earlier version of the package stored resume, and what they hold can be read.

`tests/golden/stored_runs` holds finished runs over six photos, parts of two samples; their paths begin
with /photos. The tests give them real paths, take a part away and let the same command do it again.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cfcam_gpu.dataset import explain_dataset, open_results
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.dataset.store.fingerprint import versions
from cfcam_gpu.errors import StoreError
from cfcam_gpu.evaluation import EvaluationOptions, evaluate
from cfcam_gpu.models import LoadedModel, load_model
from tests.helpers.stored_net import write_photos

STORED = Path(__file__).parents[1] / "golden" / "stored_runs"

SETTINGS: dict[str, Any] = {"workers": 0, "max_errors": 5, "device": "cpu"}

Model = Callable[[], LoadedModel]


def _rewritten(path: Path, old: str, new: str) -> None:
    """A Parquet file whose column `uri` has another folder; all else, the metadata too, stays."""
    table = pq.read_table(path, partitioning=None)
    position = table.schema.get_field_index("uri")
    uris = pa.array([uri.replace(old, new) for uri in table["uri"].to_pylist()], pa.string())
    table = table.set_column(position, table.schema.field(position), uris)
    pq.write_table(table.replace_schema_metadata(table.schema.metadata), path, compression="zstd")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    code = "from tests.helpers.stored_net import StoredNet\n\n\ndef make():\n    return StoredNet()\n"
    (tmp_path / "storednet.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    return functools.partial(load_model, "py:storednet:make", size=(24, 24))


@pytest.fixture
def stored(tmp_path: Path, photos: Path) -> Callable[[str], Path]:
    """A copy of a stored run whose samples lie in `photos`, made by the installed PyTorch."""

    def copy(name: str) -> Path:
        out = tmp_path / name
        shutil.copytree(STORED / name, out)
        for path in out.rglob("*.parquet"):
            _rewritten(path, "/photos", str(photos))
        about = next(path for path in (out / "run.json", out / "evaluation.json") if path.exists())
        content = json.loads(about.read_text())
        content["fingerprint"]["versions"] = versions()
        about.write_text(json.dumps(content))
        return out

    return copy


def _without_maps(table: pa.Table) -> pa.Table:
    exact = [name for name in ("sample_id", "uri", "status", "stage", "error_type", "target", "pred") if name in
             table.column_names]  # fmt: skip
    return table.select(exact)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("explain", RunOptions(overlays="none", **SETTINGS)),
        ("explain_fine", RunOptions(method="gradcam-fine", overlays="none", **SETTINGS)),
    ],
)
def test_a_stored_run_resumes_with_the_same_rows(stored, photos, model, name, options):
    out = stored(name)
    lost = out / "shards" / "part-00001.parquet"
    before = pq.read_table(lost, partitioning=None)
    kept = {path.name: path.read_bytes() for path in (out / "shards").iterdir() if path != lost}
    lost.unlink()
    summary = explain_dataset([str(photos)], out, model, options)
    assert (summary.total, summary.now, summary.before) == (6, 2, 4)
    after = pq.read_table(lost, partitioning=None)
    assert after.schema.equals(before.schema, check_metadata=True)
    assert _without_maps(after).equals(_without_maps(before))
    for column in ("prob", "target_prob", "heatmap_max"):
        np.testing.assert_allclose(
            after[column].to_numpy(zero_copy_only=False), before[column].to_numpy(zero_copy_only=False), 1e-4
        )
    assert kept == {name: (out / "shards" / name).read_bytes() for name in kept}


def test_the_rows_of_a_stored_run_can_be_read(stored):
    results = open_results(stored("explain"))
    rows = list(results.rows())
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "error", "ok", "ok"]
    assert results.heatmap("p0.png", size="original").shape == (24, 24)


def test_a_stored_run_of_another_configuration_is_refused(stored, photos, model):
    options = RunOptions(method="gradcam", overlays="none", **SETTINGS)
    with pytest.raises(StoreError, match="method was 'cfcam', now 'gradcam'"):
        explain_dataset([str(photos)], stored("explain"), model, options)


def test_a_stored_evaluation_resumes(stored, photos, model):
    """Its fingerprint does not yet say which parameters gradcam-fine read: the defaults."""
    out = stored("evaluate")
    lost = out / "shards" / "part-00002.parquet"
    before = pq.read_table(lost, partitioning=None)
    lost.unlink()
    options = EvaluationOptions(
        methods=("cfcam", "gradcam", "gradcam-fine"),
        metrics=("drop", "class_sensitivity"),
        plots=False,
        **SETTINGS,
    )
    summary = evaluate([str(photos)], out, model, options)
    assert (summary.run.now, summary.run.before) == (2, 4)
    after = pq.read_table(lost, partitioning=None)
    assert after.schema.equals(before.schema, check_metadata=True)
    for column in ("average_drop", "prob"):
        if column in before.column_names:
            np.testing.assert_allclose(
                after[column].to_numpy(zero_copy_only=False),
                before[column].to_numpy(zero_copy_only=False),
                1e-3,
            )
