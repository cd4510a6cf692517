"""What the table of an evaluation says: means with intervals, differences to a baseline, curves, failures."""

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

Summary = dict[str, Any]

#: Treated as one more column: a method that often says nothing must not pass unseen.
BLANK = {
    "name": "blank",
    "better": "lower",
    "about": "Share (0 to 1) of maps that are blank: nothing in them speaks for the class.",
    "curve": False,
}

#: Methods whose maps are the same but for float32 rounding differ by less than this, on every image to one side.
ROUNDING = 1e-5

#: Failed samples named for each kind of failure.
EXAMPLES = 3


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
    """The summary of an evaluation's rows, ready for JSON: what is not a finite number is None.

    Args:
        table: one row for each image and method (`sample_id`, `status`, `method`, `blank` and the
            metrics' columns), and one without a method for each image that failed.
        columns: the metrics' columns to summarise; one that the table lacks has no values.
        baseline: the method that the others are compared with on the images that both have a value
            for; without rows of it there is no comparison.
        seed, resamples, level: of the bootstrap over images.
        methods: those to list and their order, also where all failed; None: as in the table.
        cost: images per second by method, passed through.
        options: of the metrics, passed through; the levels of the curves are among them.

    Returns:
        `images` explained by at least one method, `failed` images, `columns`, and by method and column
        `methods` (mean, low, high, n), `paired` (difference to the baseline, low, high, n, verdict) and
        `curves` (the same as lists over the curve's positions, intervals pointwise); `failures`, `cost`,
        `options` and the arguments. A verdict is `better`, `worse`, or `differs` for a column without a better
        side, where the interval excludes 0, the difference is more than `ROUNDING` and there are enough
        images for that not to be chance (6 at 95 %: the sign test), else None. Missing values are left out
        of their column.

    Raises:
        ConfigError: a level or number of resamples that cannot be.
        StoreError: two rows of one image and method, or curves of different lengths.
    """
    if not 0 < level < 1:
        raise ConfigError(f"the level of the intervals must lie between 0 and 1, got {level!r}")
    if resamples < 1:
        raise ConfigError(f"the bootstrap needs at least 1 resample, got {resamples!r}")
    good = table.filter(pc.and_(pc.equal(table["status"], "ok"), pc.is_valid(table["method"])))
    names = list(dict.fromkeys(good["method"].to_pylist() if methods is None else methods))
    values = _Values(good, names)
    listed = [BLANK, *({key: getattr(column, key) for key in BLANK} for column in columns)]
    scalars = [column for column in listed if not column["curve"]]

    def intervals(x: Floats) -> Intervals:
        return bootstrap(x, seed, resamples, level)

    found = values.of_all([column["name"] for column in scalars])
    paired = {}
    if baseline in names:
        with np.errstate(invalid="ignore"):  # infinity less infinity is no number, and left out
            differences = found - found[:, [names.index(baseline)]]
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
        "methods": _means(intervals(found), names, scalars),
        "paired": paired,
        "curves": curves,
        "failures": _failures(table),
        "cost": {name: _plain(speed) for name, speed in (cost or {}).items()},
        "options": asdict(options) if options else {},
    }


class _Values:
    """The good rows' values by image and method; images in the order of their ids."""

    def __init__(self, table: pa.Table, methods: Sequence[str]) -> None:
        self._table = table.filter(pc.is_in(table["method"], pa.array(methods, pa.string())))
        self._methods = len(methods)
        ids = np.array(self._table["sample_id"].to_pylist(), dtype=object)
        known, self._image = np.unique(ids, return_inverse=True)
        self.images = len(known)
        place = {name: position for position, name in enumerate(methods)}
        self._method = np.array([place[name] for name in self._table["method"].to_pylist()], dtype=np.intp)
        pairs = Counter(zip(self._image.tolist(), self._method.tolist(), strict=True))
        for (image, method), count in pairs.most_common(1):
            if count > 1:
                raise StoreError(
                    f"the table has {count} rows of {known[image]!r} by {methods[method]}, expected one; "
                    "evaluate again with --overwrite"
                )

    def of(self, name: str) -> Floats:
        """(images, methods, S), NaN where there is none; S is 1 unless it is a curve."""
        rows = _numbers(self._table[name], name) if name in self._table.column_names else np.empty((0, 1))
        values = np.full((self.images, self._methods, rows.shape[1]), np.nan)
        if len(rows):
            values[self._image, self._method] = rows
        return values

    def of_all(self, names: Sequence[str]) -> Floats:
        """(images, methods, columns) of columns that are no curves."""
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
    if low is None or high is None or low <= 0 <= high or abs(entry["difference"]) <= ROUNDING:
        return None
    # So few differences have one sign by chance more often than the level allows, and the bootstrap cannot see it.
    if 2.0 ** (1 - entry["n"]) > 1 - level:
        return None
    if not better:
        return "differs"
    return "better" if (low > 0) == (better == "higher") else "worse"


def _curve(result: Intervals, position: int) -> Summary:
    return {
        key: [_plain(value) for value in getattr(result, key)[position]]
        for key in ("mean", "low", "high", "n")
    }


def _entry(result: Intervals, at: tuple[int, int], mean: str) -> Summary:
    values = (result.mean[at], result.low[at], result.high[at], result.n[at])
    return dict(zip((mean, "low", "high", "n"), map(_plain, values), strict=True))


def _plain(value: Any) -> float | int | None:
    """For JSON; 7 digits are what float32 holds, and hide the order in which a sum was taken."""
    if isinstance(value, np.integer):
        return int(value)
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _failed(table: pa.Table) -> pa.Table:
    return table.filter(pc.invert(pc.equal(table["status"], "ok")))


def _failures(table: pa.Table) -> list[Summary]:
    """Kinds of failure with their number and some examples, the most frequent first."""
    known = ("stage", "error_type", "method", "sample_id", "message")
    rows = _failed(table).select([name for name in known if name in table.column_names]).to_pylist()
    kinds: dict[tuple[Any, ...], list[Summary]] = defaultdict(list)
    for row in rows:
        kinds[tuple(row.get(name) for name in known[:3])].append(row)
    return [
        {
            **dict(zip(known[:3], kind, strict=True)),
            "count": len(members),
            "examples": [{name: row.get(name) for name in known[3:]} for row in members[:EXAMPLES]],
        }
        for kind, members in sorted(kinds.items(), key=lambda item: -len(item[1]))
    ]
