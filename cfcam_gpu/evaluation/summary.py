"""The summary of an evaluation's table: means with intervals, differences to a baseline, curves, failures."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cfcam_gpu.errors import ConfigError, StoreError
from cfcam_gpu.evaluation.bootstrap import Floats, Intervals, bootstrap

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

#: Number of failed samples listed for each kind of failure.
_EXAMPLES = 3


def summarise(
    table: pa.Table,
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

    Args:
        table: one row for each image and method (`sample_id`, `status`, `method`, `blank` and the
            metrics' columns), and one row without a method for each image that failed.
        columns: columns of the metrics to summarise. A column that the table lacks has no values.
        baseline: the method that the others are compared with; without rows of it there is no comparison.
        seed, resamples, level: of the bootstrap over images (see `bootstrap`).
        methods: the methods to list, in order, also where they failed on all images; None: those of the table.
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
        ConfigError: a level or a number of resamples out of range.
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
    explained = table.filter(pc.and_(pc.equal(table["status"], "ok"), pc.is_valid(table["method"])))
    names = list(dict.fromkeys(explained["method"].to_pylist() if methods is None else methods))
    values = _Values(explained, names)
    listed = [_BLANK, *({key: getattr(column, key) for key in _BLANK} for column in columns)]
    scalars = [column for column in listed if not column["curve"]]

    def intervals(x: Floats) -> Intervals:
        return bootstrap(x, seed, resamples, level)

    figures = values.of_all([column["name"] for column in scalars])
    paired = {}
    if baseline in names:
        with np.errstate(invalid="ignore"):  # infinity less infinity is NaN, which is left out
            differences = figures - figures[:, [names.index(baseline)]]
        paired = _differences(intervals(differences), names, scalars, baseline, level)
    curves: Summary = {name: {} for name in names}
    for column in listed:
        if column["curve"]:
            result = intervals(values.of(column["name"]))
            for position, name in enumerate(names):
                curves[name][column["name"]] = _curve(result, position)
    return {
        "images": values.images,
        "failed": len(_failed(table)["sample_id"].unique()),
        "baseline": baseline if baseline in names else None,
        "level": level,
        "resamples": resamples,
        "seed": seed,
        "columns": listed,
        "methods": _means(intervals(figures), names, scalars),
        "paired": paired,
        "curves": curves,
        "failures": _failures(table),
        "cost": {name: _json_number(speed) for name, speed in (cost or {}).items()},
        "options": asdict(options) if options else {},
    }


class _Values:
    """The rows' values by image and method; images in the order of their ids."""

    def __init__(self, table: pa.Table, methods: Sequence[str]) -> None:
        self._table = table.filter(pc.is_in(table["method"], pa.array(methods, pa.string())))
        self._methods = len(methods)
        ids = np.array(self._table["sample_id"].to_pylist(), dtype=object)
        images, self._image = np.unique(ids, return_inverse=True)
        self.images = len(images)
        position = {name: i for i, name in enumerate(methods)}
        self._method = np.array([position[name] for name in self._table["method"].to_pylist()], dtype=np.intp)
        pairs = Counter(zip(self._image.tolist(), self._method.tolist(), strict=True))
        for (image, method), count in pairs.most_common(1):
            if count > 1:
                raise StoreError(
                    f"the table has {count} rows of {images[image]!r} by {methods[method]}, expected one; "
                    "evaluate again with --overwrite"
                )

    def of(self, name: str) -> Floats:
        """(images, methods, S) of a column, NaN where there is no value; S is 1 unless it is a curve."""
        rows = _numbers(self._table[name], name) if name in self._table.column_names else np.empty((0, 1))
        values = np.full((self.images, self._methods, rows.shape[1]), np.nan)
        if len(rows):
            values[self._image, self._method] = rows
        return values

    def of_all(self, names: Sequence[str]) -> Floats:
        """(images, methods, columns) of columns that are not curves."""
        return np.concatenate([self.of(name)[:, :, :1] for name in names], axis=2)


def _numbers(column: pa.ChunkedArray, name: str) -> Floats:
    """(rows, S) float64, null as NaN."""
    if not pa.types.is_nested(column.type):
        numbers = column.cast(pa.uint8()) if pa.types.is_boolean(column.type) else column
        return np.asarray(numbers.cast(pa.float64()).to_numpy(), np.float64)[:, None]
    lengths = pc.list_value_length(column).drop_null().unique().to_pylist()
    if len(lengths) > 1:
        raise StoreError(
            f"the curves {name!r} have {min(lengths)} to {max(lengths)} values, expected one length"
        )
    values = np.full((len(column), lengths[0] if lengths else 0), np.nan)
    valid = column.is_valid().to_numpy()
    flat = pc.list_flatten(column).cast(pa.float64()).to_numpy()
    values[valid] = flat.reshape(valid.sum(), values.shape[1])
    return values


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


def _curve(result: Intervals, position: int) -> Summary:
    return {
        key: [_json_number(value) for value in getattr(result, key)[position]]
        for key in ("mean", "low", "high", "n")
    }


def _entry(result: Intervals, at: tuple[int, int], mean: str) -> Summary:
    values = (result.mean[at], result.low[at], result.high[at], result.n[at])
    return dict(zip((mean, "low", "high", "n"), map(_json_number, values), strict=True))


def _json_number(value: Any) -> float | int | None:
    """Rounded to 7 digits, as float32 holds: further ones would depend on the order in which a sum was taken."""
    if isinstance(value, np.integer):
        return int(value)
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _failed(table: pa.Table) -> pa.Table:
    return table.filter(pc.invert(pc.equal(table["status"], "ok")))


def _failures(table: pa.Table) -> list[Summary]:
    """Kinds of failure with their number and some examples, the most frequent first."""
    of_kind, of_example = ("stage", "error_type", "method"), ("sample_id", "message")
    names = [name for name in (*of_kind, *of_example) if name in table.column_names]
    kinds: dict[tuple[Any, ...], list[Summary]] = defaultdict(list)
    for row in _failed(table).select(names).to_pylist():
        kinds[tuple(row.get(name) for name in of_kind)].append(row)
    return [
        {
            **dict(zip(of_kind, kind, strict=True)),
            "count": len(rows),
            "examples": [{name: row.get(name) for name in of_example} for row in rows[:_EXAMPLES]],
        }
        for kind, rows in sorted(kinds.items(), key=lambda item: -len(item[1]))
    ]
