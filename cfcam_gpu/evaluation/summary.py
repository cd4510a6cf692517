"""The summary of an evaluation's table: means with intervals, differences to a baseline, curves, failures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cfcam_gpu.errors import ConfigError
from cfcam_gpu.evaluation.bootstrap import Bootstrap, Intervals
from cfcam_gpu.evaluation.sums import Sums

if TYPE_CHECKING:
    from cfcam_gpu.metrics.base import Column
    from cfcam_gpu.metrics.options import MetricOptions

#: The content of summary.json, or a part of it; `summarise` describes it.
Summary = dict[str, Any]

#: The share of blank maps is one more column, so that a method which often finds nothing is noticed.
_BLANK = {
    "name": "blank",
    "better": "lower",
    "about": "Share (0 to 1) of maps that are blank: nothing in them speaks for the class.",
    "curve": False,
}

#: The figures of two methods whose maps are the same differ by less than this, which is float32 rounding. It may
#: have the same sign on every image.
_ROUNDING = 1e-5


def summarise(
    tables: pa.Table | Iterable[pa.Table],
    columns: Sequence[Column],
    baseline: str = "gradcam",
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
    *,
    methods: Sequence[str] | None = None,
    cost: Mapping[str, float] | None = None,
    options: MetricOptions | None = None,
) -> Summary:
    """Summarises the rows of an evaluation; the result can be written as JSON.

    A method is compared with the baseline on the images for which both have a value. Its verdict in a column is
    `better` or `worse`, or `differs` where neither direction is better by itself. There is a verdict only if
    the interval of the difference excludes 0, the difference is larger than float32 rounding, and there are enough
    images for the sign test (6 at a level of 95 %).

    Tables are read one after the other and nothing is kept of them but sums, whose memory does not depend on the number
    of images. The figures do not depend on the order of the rows, nor on the tables they come in.

    Args:
        tables: a table, or tables each with all rows of its images: one row for each image and method (`sample_id`,
            `status`, `method`, `blank` and the metrics' columns), and one row without a method for each image that
            failed.
        columns: columns of the metrics to summarise. A column that the table lacks has no values.
        baseline: the method that the others are compared with; without rows of it there is no comparison.
        seed, resamples, level: of the bootstrap over images (see `evaluation.bootstrap`).
        methods: the methods to list, in order, also where they failed on all images. None: those of a single table;
            needed for several.
        cost: images per second of each method; copied into the summary.
        options: options of the metrics, such as the levels of the curves; copied into the summary.

    Returns:
        A dict in which None stands for whatever is not a finite number:

        - `images`: number of images explained by at least one method; `failed`: number of failed images.
        - `columns`: the columns with `name`, `better`, `about` and `curve`; the first is `blank`.
        - `methods`: for each method and column `mean`, `low`, `high` and `n`.
        - `paired`: for each method but the baseline, and each column, `difference`, `low`, `high`, `n`, `verdict`.
        - `curves`: for each method and curve lists of `mean`, `low`, `high` and `n` over the curve's positions.
        - `failures`: kinds of failure with `count` and `examples`, the most frequent first.
        - `baseline` (None without rows of it), `level`, `resamples`, `seed`, `cost`, `options`: the arguments.

    Raises:
        ConfigError: a level or a number of resamples out of range; several tables without `methods`.
        StoreError: two rows of the same image and method, or curves of different lengths.

    Example:
        >>> from cfcam_gpu.metrics import Column
        >>> table = pa.table({
        ...     "sample_id": ["a", "a", "b", "b"], "status": ["ok"] * 4, "blank": [False] * 4,
        ...     "method": ["gradcam", "cfcam"] * 2, "average_drop": [0.5, 0.25, 0.75, 0.5],
        ... })
        >>> summary = summarise(table, [Column("average_drop", "lower", "Lost share, 0 to 1.")])
        >>> summary["images"], summary["methods"]["cfcam"]["average_drop"]["mean"]
        (2, 0.375)
        >>> summary["paired"]["cfcam"]["average_drop"]["difference"]
        -0.25
    """
    if not 0 < level < 1:
        raise ConfigError(f"the level of the intervals must lie between 0 and 1, got {level!r}")
    if resamples < 1:
        raise ConfigError(f"the bootstrap needs at least 1 resample, got {resamples!r}")
    if isinstance(tables, pa.Table):
        methods, tables = _methods_of(tables) if methods is None else methods, [tables]
    if methods is None:
        raise ConfigError("several tables are summarised one after the other; name their methods")
    names = list(methods)
    listed = [_BLANK, *({key: getattr(column, key) for key in _BLANK} for column in columns)]
    scalars = [column for column in listed if not column["curve"]]
    curves = [column["name"] for column in listed if column["curve"]]
    compared = baseline if baseline in names else None
    sums = Sums(
        names, [column["name"] for column in scalars], curves, compared, seed=seed, resamples=resamples
    )
    for table in tables:
        sums.add(table)
    differences = None if sums.differences is None else sums.differences.intervals(level)
    return {
        "images": sums.images,
        "failed": sums.failed,
        "baseline": compared,
        "level": level,
        "resamples": resamples,
        "seed": seed,
        "columns": listed,
        "methods": _means(sums.figures.intervals(level), names, scalars),
        "paired": {} if differences is None else _differences(differences, names, scalars, baseline, level),
        "curves": _curves(sums, level),
        "failures": sums.failures(),
        "cost": {name: _json_number(speed) for name, speed in (cost or {}).items()},
        "options": asdict(options) if options else {},
    }


def _methods_of(table: pa.Table) -> list[str]:
    explained = table.filter(pc.and_(pc.equal(table["status"], "ok"), pc.is_valid(table["method"])))
    names: list[str] = explained["method"].unique().to_pylist()
    return names


def _means(result: Intervals, names: Sequence[str], columns: Sequence[Summary]) -> Summary:
    return {
        name: {column["name"]: _entry(result, (i, j), "mean") for j, column in enumerate(columns)}
        for i, name in enumerate(names)
    }


def _differences(
    result: Intervals, names: Sequence[str], columns: Sequence[Summary], baseline: str, level: float
) -> Summary:
    paired: Summary = {}
    for i, name in enumerate(names):
        if name != baseline:
            entries = [_entry(result, (i, j), "difference") for j in range(len(columns))]
            paired[name] = {
                column["name"]: entry | {"verdict": _verdict(column["better"], entry, level)}
                for column, entry in zip(columns, entries, strict=True)
            }
    return paired


def _verdict(better: str, entry: Summary, level: float) -> str | None:
    low, high = entry["low"], entry["high"]
    if low is None or high is None or low <= 0 <= high or abs(entry["difference"]) <= _ROUNDING:
        return None
    # Sign test: n differences have the same sign by chance with this probability. The bootstrap of few images
    # cannot see that, as all its resamples have that sign as well.
    if 2.0 ** (1 - entry["n"]) > 1 - level:
        return None
    if not better:
        return "differs"
    return "better" if (low > 0) == (better == "higher") else "worse"


def _curves(sums: Sums, level: float) -> Summary:
    curves: Summary = {method: {} for method in sums.methods}
    for name, bootstrap in sums.curves.items():
        intervals = (bootstrap or Bootstrap((len(sums.methods), 0), sums.resamples)).intervals(level)
        for position, method in enumerate(sums.methods):
            curves[method][name] = {
                key: [_json_number(value) for value in getattr(intervals, key)[position]]
                for key in ("mean", "low", "high", "n")
            }
    return curves


def _entry(result: Intervals, at: tuple[int, int], mean: str) -> Summary:
    values = (result.mean[at], result.low[at], result.high[at], result.n[at])
    return dict(zip((mean, "low", "high", "n"), map(_json_number, values), strict=True))


def _json_number(value: Any) -> float | int | None:
    """Rounded to 7 digits, as float32 holds: further ones would depend on the order in which a sum was taken."""
    if isinstance(value, np.integer):
        return int(value)
    return float(f"{value:.7g}") if math.isfinite(value) else None
