"""Which samples a report shows when it cannot show all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from cfcam_gpu.dataset.store.results import Results
from cfcam_gpu.dataset.store.schema import Row, table_to_rows
from cfcam_gpu.report.survey import OK

#: Row numbers in the whole run.
Positions = npt.NDArray[np.int64]


def choose_rows(
    kinds: npt.NDArray[np.int8], preds: npt.NDArray[np.int32], limit: int, seed: int = 0
) -> Positions:
    """The sorted positions of at most `limit` rows; of all rows where they are not more.

    Errors and blank maps get up to half of the places, or more where the other rows leave places free;
    the other rows get the rest. Both choices are stratified by kind and predicted class: each stratum gets
    one row before any gets two, then the numbers of rows are proportional to the strata's sizes.

    Args:
        kinds: (n,) of `survey.OK`, `BLANK`, `ERROR`.
        preds: (n,) predicted class, -1 for none.
        limit: number of rows to choose.
        seed: the same seed gives the same choice.

    Example:
        >>> kinds, preds = np.int8([OK, OK, OK, 2]), np.int32([0, 0, 1, -1])
        >>> choose_rows(kinds, preds, limit=2).tolist()[-1]
        3
    """
    if len(kinds) <= limit:
        return np.arange(len(kinds))
    random = np.random.default_rng(seed)
    special, plain = np.flatnonzero(kinds != OK), np.flatnonzero(kinds == OK)
    room = min(len(special), max(limit // 2, limit - len(plain)))
    parts = ((special, room), (plain, limit - room))
    chosen = [_stratified(part, kinds[part], preds[part], count, random) for part, count in parts]
    return np.sort(np.concatenate(chosen))


def _stratified(
    positions: Positions,
    kinds: npt.NDArray[np.int8],
    preds: npt.NDArray[np.int32],
    count: int,
    random: np.random.Generator,
) -> Positions:
    """`count` of the positions: those with the smallest rank in their shuffled stratum, divided by its size."""
    if len(positions) == 0:
        return positions
    shuffled = random.permutation(len(positions))
    strata = (kinds.astype(np.int64) << 32) + preds
    _, stratum, sizes = np.unique(strata[shuffled], return_inverse=True, return_counts=True)
    order = np.argsort(stratum, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rank = np.empty(len(positions))
    rank[order] = np.arange(len(positions)) - starts[stratum[order]]
    taken = np.argsort(rank / sizes[stratum], kind="stable")[:count]
    return positions[shuffled[taken]]


def take_rows(results: Results, positions: Positions) -> Iterator[Row]:
    """The rows at sorted positions of the run; one part is in memory at a time. Raises StoreError."""
    start = 0
    for table in results.tables():
        first, last = np.searchsorted(positions, (start, start + len(table)))
        if last > first:
            yield from table_to_rows(table.take(positions[first:last] - start))
        start += len(table)
