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
    """Sorted positions of at most `limit` rows; all of them where they fit.

    Errors and blank maps go first, up to half of the limit, and take no more than they need; the
    explained rows fill the rest. Within each part the choice is stratified by kind and predicted
    class: every stratum has one row before any has two, then shares are proportional.

    Args:
        kinds: (n,) of `survey.OK`, `BLANK`, `ERROR`.
        preds: (n,) predicted class, -1 for none.
        limit: rows to choose.
        seed: two calls with the same seed choose the same.
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
    """Takes rows by their rank within a shuffled stratum over its size, so shares are proportional."""
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
    """The rows at sorted positions of the run, reading one part at a time. Raises StoreError."""
    start = 0
    for table in results.tables():
        first, last = np.searchsorted(positions, (start, start + len(table)))
        if last > first:
            yield from table_to_rows(table.take(positions[first:last] - start))
        start += len(table)
