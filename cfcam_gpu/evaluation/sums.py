"""The sums over an evaluation's rows that its summary is made of: taken in one pass, and added up."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cfcam_gpu.errors import StoreError
from cfcam_gpu.evaluation.bootstrap import Bootstrap, Floats, blocks, draw_counts

#: Number of failed samples listed for each kind of failure.
_EXAMPLES = 3

#: The columns that tell kinds of failure apart, and those of an example.
KIND, _EXAMPLE = ("stage", "error_type", "method"), ("sample_id", "message")


class Sums:
    """Sums over images of the values of some methods, of their differences from a baseline, and of curves.

    Rows come in tables, each with all rows of its images; neither their order nor the tables change a figure by more
    than the rounding of float64. The memory does not depend on the number of images (see `Bootstrap`).

    Args:
        methods: the methods whose rows are counted.
        scalars, curves: names of columns.
        baseline: the method that the others are compared with; None: nothing is compared.
        seed, resamples: of the bootstrap over images.

    Attributes:
        images: number of images that at least one of the methods explained.
        failed: number of images with a row that is not `ok`.
        figures: (methods, scalars) of the images.
        differences: (methods, scalars) of the differences from the baseline; None without one.
        curves: (methods, S) of each curve that had values.
    """

    def __init__(
        self,
        methods: Sequence[str],
        scalars: Sequence[str],
        curves: Sequence[str] = (),
        baseline: str | None = None,
        *,
        seed: int = 0,
        resamples: int = 2000,
    ) -> None:
        self.methods, self.scalars = list(methods), list(scalars)
        self.seed, self.resamples = seed, resamples
        self._base = [] if baseline is None else [self.methods.index(baseline)]
        self.images = self.failed = 0
        self.figures = self._bootstrap(len(scalars))
        self.differences = None if baseline is None else self._bootstrap(len(scalars))
        self.curves: dict[str, Bootstrap | None] = dict.fromkeys(curves)
        self._failures: Counter[tuple[Any, ...]] = Counter()
        self._examples = defaultdict[tuple[Any, ...], list[dict[str, Any]]](list)

    def _bootstrap(self, columns: int) -> Bootstrap:
        return Bootstrap((len(self.methods), columns), self.resamples)

    def add(self, table: pa.Table) -> None:
        """Adds the rows of some images: `sample_id`, `status`, `method` and the columns; absent ones have no values.

        Raises:
            StoreError: two rows of the same image and method, or curves of different lengths.
        """
        ok = pc.fill_null(pc.equal(table["status"], "ok"), fill_value=False)
        self._add_failures(table.filter(pc.invert(ok)))
        values = _Values(table.filter(ok), self.methods)
        self.images += len(values.ids)
        curves = {name: values.of(name) for name in self.curves}
        curves = {name: curve for name, curve in curves.items() if curve.shape[2]}
        figures = np.concatenate([values.of(name, length=1) for name in self.scalars], axis=2)
        for name, curve in curves.items():
            self._curve(name, curve.shape[2])
        for some in blocks(len(values.ids), self.resamples):
            draws = draw_counts(values.ids[some], self.seed, self.resamples)
            self.figures.add(figures[some], draws)
            if self.differences is not None:
                with np.errstate(invalid="ignore"):  # infinity less infinity is NaN, which is left out
                    self.differences.add(figures[some] - figures[some, self._base], draws)
            for name, curve in curves.items():
                self._curve(name, curve.shape[2]).add(curve[some], draws)

    def _curve(self, name: str, length: int) -> Bootstrap:
        """The sums of a curve. Raises StoreError if those before had another length."""
        sums = self.curves[name] = self.curves[name] or self._bootstrap(length)
        if sums.shape[1] != length:
            raise _different_lengths(name, (sums.shape[1], length))
        return sums

    def _add_failures(self, table: pa.Table) -> None:
        self.failed += len(table["sample_id"].unique())
        names = [name for name in (*KIND, *_EXAMPLE) if name in table.column_names]
        rows = defaultdict[tuple[Any, ...], list[dict[str, Any]]](list)
        for row in table.select(names).to_pylist():
            rows[tuple(row.get(name) for name in KIND)].append({name: row.get(name) for name in _EXAMPLE})
        for kind, examples in rows.items():
            self._add_kind(kind, len(examples), examples)

    def _add_kind(self, kind: tuple[Any, ...], count: int, examples: Iterable[dict[str, Any]]) -> None:
        self._failures[kind] += count
        both = [*self._examples[kind], *examples]
        self._examples[kind] = heapq.nsmallest(_EXAMPLES, both, key=lambda example: str(example["sample_id"]))

    def merge(self, other: Sums) -> None:
        """Adds other images, counted with the same arguments.

        Raises:
            StoreError: curves of different lengths.

        Example:
            >>> a, b = Sums(["cfcam"], ["blank"]), Sums(["cfcam"], ["blank"])
            >>> row = {"status": ["ok"], "method": ["cfcam"], "blank": [True]}
            >>> a.add(pa.table({"sample_id": ["a"], **row}))
            >>> b.add(pa.table({"sample_id": ["b"], **row}))
            >>> a.merge(b)
            >>> a.images, a.figures.intervals(0.95).mean
            (2, array([[1.]]))
        """
        self.images += other.images
        self.failed += other.failed
        self.figures.merge(other.figures)
        if self.differences is not None and other.differences is not None:
            self.differences.merge(other.differences)
        for name, curve in other.curves.items():
            if curve is not None:
                self._curve(name, curve.shape[1]).merge(curve)
        for kind, count in other._failures.items():
            self._add_kind(kind, count, other._examples[kind])

    def failures(self) -> list[dict[str, Any]]:
        """Kinds of failure with their number and the examples whose ids come first; the most frequent kind first."""
        kinds = sorted(self._failures.items(), key=lambda item: (-item[1], [str(part) for part in item[0]]))
        return [
            {**dict(zip(KIND, kind, strict=True)), "count": count, "examples": self._examples[kind]}
            for kind, count in kinds
        ]


class _Values:
    """The rows' values by image and method; images in the order of their ids."""

    def __init__(self, table: pa.Table, methods: Sequence[str]) -> None:
        self._table = table.filter(pc.is_in(table["method"], pa.array(methods, pa.string())))
        self._methods = len(methods)
        ids = np.array(self._table["sample_id"].to_pylist(), dtype=object)
        images, self._image = np.unique(ids, return_inverse=True)
        self.ids: list[str] = images.tolist()
        position = {name: i for i, name in enumerate(methods)}
        self._method = np.array([position[name] for name in self._table["method"].to_pylist()], dtype=np.intp)
        pairs = Counter(zip(self._image.tolist(), self._method.tolist(), strict=True))
        for (image, method), count in pairs.most_common(1):
            if count > 1:
                raise StoreError(
                    f"the table has {count} rows of {images[image]!r} by {methods[method]}, expected one; "
                    "evaluate again with --overwrite"
                )

    def of(self, name: str, length: int | None = None) -> Floats:
        """(images, methods, S) of a column, NaN where there is no value; S is 1 unless it is a curve.

        Without any value S is `length`, or 0.
        """
        there = name in self._table.column_names and len(self._table)
        rows = _numbers(self._table[name], name) if there else np.empty((0, length or 0))
        values = np.full((len(self.ids), self._methods, rows.shape[1]), np.nan)
        if len(rows):
            values[self._image, self._method] = rows
        return values if length is None else values[:, :, :length]


def _numbers(column: pa.ChunkedArray, name: str) -> Floats:
    """(rows, S) float64, null as NaN."""
    if not pa.types.is_nested(column.type):
        numbers = column.cast(pa.uint8()) if pa.types.is_boolean(column.type) else column
        return np.asarray(numbers.cast(pa.float64()).to_numpy(), np.float64)[:, None]
    lengths = pc.list_value_length(column).drop_null().unique().to_pylist()
    if len(lengths) > 1:
        raise _different_lengths(name, lengths)
    values = np.full((len(column), lengths[0] if lengths else 0), np.nan)
    valid = column.is_valid().to_numpy()
    flat = pc.list_flatten(column).cast(pa.float64()).to_numpy()
    values[valid] = flat.reshape(valid.sum(), values.shape[1])
    return values


def _different_lengths(name: str, lengths: Sequence[int]) -> StoreError:
    return StoreError(
        f"the curves {name!r} have {min(lengths)} to {max(lengths)} values, expected one length"
    )
