"""One pass over a whole run: counts, class means and what the choice of samples needs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cfcam_gpu.dataset.store.results import Results
from cfcam_gpu.dataset.store.schema import ColumnName, table_maps
from cfcam_gpu.report.judging import Judge, Verdicts

#: Kinds of rows. A blank one is explained too, with an all-zero map.
OK, BLANK, ERROR = 0, 1, 2

_COLUMNS: list[ColumnName] = [
    "status",
    "stage",
    "error_type",
    "label",
    "target",
    "target_name",
    "pred",
    "pred_name",
    "blank",
    "grid",
    "heatmap_max",
]


@dataclass
class ClassMean:
    """Sum of the maps explained for one class, each divided by its own maximum; how many, and blank ones."""

    name: str
    total: npt.NDArray[np.float64]
    count: int = 0
    blank: int = 0

    def add(self, grid: npt.NDArray[np.float32], peak: float) -> None:
        if peak > 0:
            self.total += grid / peak
            self.count += 1
        else:
            self.blank += 1


@dataclass
class Survey:
    """What the whole run holds, also where the report shows only some of its samples.

    Attributes:
        kinds, preds: per row; a prediction of -1 is none.
        failures: (stage, type of error) -> rows.
        classes: by explained class.
        peak: the largest maximum of any map, raw scale.
        verdicts: how many predictions agree with their label.
    """

    kinds: npt.NDArray[np.int8]
    preds: npt.NDArray[np.int32]
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    classes: dict[int, ClassMean] = field(default_factory=dict)
    peak: float = 0.0
    verdicts: Verdicts = field(default_factory=Verdicts)

    def __len__(self) -> int:
        return len(self.kinds)

    def count(self, kind: int) -> int:
        return int((self.kinds == kind).sum())


def survey_run(results: Results) -> Survey:
    """Reads every part once, one at a time.

    Raises:
        StoreError: a part that cannot be read.
    """
    kinds, preds = [], []
    survey = Survey(np.zeros(0, np.int8), np.zeros(0, np.int32))
    judge = Judge(results.run.get("class_names"))
    for table in results.tables(_COLUMNS):
        columns: dict[str, list[Any]] = table.drop_columns("grid").to_pydict()
        kinds.append(_kinds(columns))
        preds.append(np.array([-1 if pred is None else pred for pred in columns["pred"]], np.int32))
        _add_failures(survey, columns)
        survey.verdicts.add(judge, table)
        _add_maps(survey, table, columns)
    survey.kinds, survey.preds = np.concatenate(kinds), np.concatenate(preds)
    return survey


def _kinds(columns: dict[str, list[Any]]) -> npt.NDArray[np.int8]:
    error = np.array([status != "ok" for status in columns["status"]], bool)
    blank = np.array([bool(blank) for blank in columns["blank"]], bool)
    return np.select([error, blank], [ERROR, BLANK], OK).astype(np.int8)


def _add_failures(survey: Survey, columns: dict[str, list[Any]]) -> None:
    survey.failures.update(
        (stage or "unknown", error_type or "unknown")
        for status, stage, error_type in zip(
            columns["status"], columns["stage"], columns["error_type"], strict=True
        )
        if status != "ok"
    )


def _add_maps(survey: Survey, table: pa.Table, columns: dict[str, list[Any]]) -> None:
    """Bilinear upsampling is linear, so the mean of the grids upsampled is the mean of the heatmaps."""
    maps = zip(
        table_maps(table), columns["target"], columns["target_name"], columns["heatmap_max"], strict=True
    )
    for grid, target, name, peak in maps:
        if grid is None or target is None:
            continue
        if target not in survey.classes:
            survey.classes[target] = ClassMean(name or f"class {target}", np.zeros(grid.shape))
        survey.classes[target].add(grid, peak or 0.0)
        survey.peak = max(survey.peak, peak or 0.0)
