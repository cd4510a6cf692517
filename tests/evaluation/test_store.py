"""The output folder of an evaluation."""

from __future__ import annotations

from typing import Any

import pytest

from cfcam_gpu.dataset import explain_dataset, open_results
from cfcam_gpu.errors import StoreError
from cfcam_gpu.evaluation.store import EvaluationStore
from tests.helpers.small_evaluation import evaluate_small, stored_table
from tests.helpers.smallnet import make_loaded


def test_explanations_and_evaluations_do_not_share_a_folder(pictures, tmp_path):
    settings: dict[str, Any] = {"workers": 0, "device": "cpu", "overlays": "none", "layer": "conv:relu"}
    explain_dataset([str(pictures)], tmp_path / "maps", make_loaded(), **settings)
    with pytest.raises(StoreError, match="holds a run of cfcam explain; choose another output folder"):
        evaluate_small(pictures, tmp_path / "maps")
    evaluate_small(pictures, tmp_path / "measured")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match=r"holds an evaluation, .*; choose another output folder"):
            explain_dataset(
                [str(pictures)], tmp_path / "measured", make_loaded(), overwrite=overwrite, **settings
            )
    assert len(stored_table(tmp_path / "measured")) == 10
    with pytest.raises(StoreError, match=r"holds an evaluation, .* needs the folder of a cfcam explain run"):
        open_results(tmp_path / "measured")


def test_overwriting_removes_what_the_evaluation_made_and_nothing_else(pictures, tmp_path):
    out = tmp_path / "out"
    evaluate_small(pictures, out, part_size=1, plots=True)
    assert {path.name for path in (out / "plots").iterdir()} >= {"bars.png", "grid.png"}
    (out / "notes.txt").write_text("mine")
    evaluate_small(pictures, out, metrics=["drop"], overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert not list((out / "plots").iterdir())
    assert len(EvaluationStore(out, ()).finished_parts()) == 1
    assert "similarity_least" not in stored_table(out).column_names
    assert "class_sensitivity" not in (out / "report.html").read_text()
