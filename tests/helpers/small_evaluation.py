"""Evaluations of the small network, and the rows that they store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cfcam_gpu.evaluation import EvaluationResult, evaluate
from cfcam_gpu.evaluation.summary import Summary
from tests.helpers.smallnet import make_loaded


def evaluate_small(inputs: str | Path | list[str], out: Path, **settings: Any) -> EvaluationResult:
    """An evaluation of the small network without worker processes and plots, unless the settings say otherwise."""
    defaults = {"workers": 0, "device": "cpu", "engine": "torch", "layer": "conv:relu", "plots": False}
    settings = {**defaults, "metrics": ("drop", "class_sensitivity"), **settings}
    model = settings.pop("model", None) or make_loaded()
    return evaluate(inputs if isinstance(inputs, list) else [str(inputs)], out, model, **settings)


def finished(evaluation: EvaluationResult) -> Summary:
    """The summary of an evaluation of which no part is missing."""
    assert evaluation.summary is not None
    return evaluation.summary


def stored_table(out: Path) -> pa.Table:
    """The content of metrics.parquet."""
    return pq.read_table(out / "metrics.parquet", partitioning=None)


def stored_rows(out: Path, *columns: str) -> list[dict[str, Any]]:
    """The rows of metrics.parquet: sample, method and these columns."""
    rows: list[dict[str, Any]] = stored_table(out).select(["sample_id", "method", *columns]).to_pylist()
    return rows
