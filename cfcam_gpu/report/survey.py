"""The figures of a whole run, from one pass over its parts: counts, mean heatmaps of the classes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cfcam_gpu.dataset.judging import Judge, Verdicts
from cfcam_gpu.dataset.store.results import Results
from cfcam_gpu.dataset.store.schema import ColumnName, is_first_row, table_maps

#: Kinds of samples: explained, explained with a map that is zero everywhere, failed.
OK, BLANK, ERROR = 0, 1, 2

_COLUMNS: list[ColumnName] = [
    "sample_id",
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
    """The maps of one explained class.

    Attributes:
        name: of the class.
        total: (h, w) sum of its maps, each divided by the maximum of its heatmap.
        count: number of these maps.
        blank: number of blank maps, which are not in the sum.

    Example:
        >>> mean = ClassMean("cat", np.zeros((1, 2)))
        >>> mean.add(np.float32([[1, 4]]), peak=4.0)
        >>> mean.total / mean.count
        array([[0.25, 1.  ]])
    """

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
    """The figures of a whole run, also where the report shows only some of its samples.

    Attributes:
        kinds: (n,) `OK`, `BLANK` or `ERROR`, of each row.
        preds: (n,) predicted class, -1 for none.
        firsts: (n,) bool, the first row of each sample: one with several explained classes has several rows.
        failures: (stage, type of the error) -> number of samples.
        classes: explained class -> its maps.
        peak: the largest maximum of any heatmap, raw scale.
        verdicts: how many predictions agree with their label.
    """

    kinds: npt.NDArray[np.int8]
    preds: npt.NDArray[np.int32]
    firsts: npt.NDArray[np.bool_]
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    classes: dict[int, ClassMean] = field(default_factory=dict)
    peak: float = 0.0
    verdicts: Verdicts = field(default_factory=Verdicts)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.kinds)

    @property
    def samples(self) -> int:
        """Number of samples."""
        return int(self.firsts.sum())

    @property
    def explained(self) -> int:
        """Number of samples that did not fail."""
        return int((self.firsts & (self.kinds != ERROR)).sum())

    def count(self, kind: int) -> int:
        """Number of rows of a kind."""
        return int((self.kinds == kind).sum())


def survey_run(results: Results) -> Survey:
    """The figures of a run; one part is in memory at a time.

    Raises:
        StoreError: a part that cannot be read.
    """
    kinds, preds, firsts = [], [], []
    survey = Survey(np.zeros(0, np.int8), np.zeros(0, np.int32), np.zeros(0, bool))
    judge = Judge(results.run.get("class_names"))
    for table in results.tables(_COLUMNS):
        columns: dict[str, list[Any]] = table.drop_columns("grid").to_pydict()
        firsts.append(is_first_row(columns["sample_id"]))
        kinds.append(_kinds(columns))
        preds.append(np.array([-1 if pred is None else pred for pred in columns["pred"]], np.int32))
        _add_failures(survey, columns, firsts[-1])
        survey.verdicts.add(judge, table.filter(pa.array(firsts[-1])))
        _add_maps(survey, table, columns)
    survey.kinds, survey.preds = np.concatenate(kinds), np.concatenate(preds)
    survey.firsts = np.concatenate(firsts)
    return survey


def _kinds(columns: dict[str, list[Any]]) -> npt.NDArray[np.int8]:
    error = np.array([status != "ok" for status in columns["status"]], bool)
    blank = np.array([bool(blank) for blank in columns["blank"]], bool)
    return np.select([error, blank], [ERROR, BLANK], OK).astype(np.int8)


def _add_failures(survey: Survey, columns: dict[str, list[Any]], firsts: npt.NDArray[np.bool_]) -> None:
    survey.failures.update(
        (stage or "unknown", error_type or "unknown")
        for status, stage, error_type, first in zip(
            columns["status"], columns["stage"], columns["error_type"], firsts, strict=True
        )
        if status != "ok" and first
    )


def _add_maps(survey: Survey, table: pa.Table, columns: dict[str, list[Any]]) -> None:
    """Sums the maps at the layer's resolution: upsampling is linear, so it can follow the mean."""
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
