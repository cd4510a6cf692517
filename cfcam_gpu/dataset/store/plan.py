"""The plan of a run: its samples in order, cut into parts, stored in one Parquet file.

It is read in pieces, so a plan of millions of samples needs little memory.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cfcam_gpu._utils.regular_files import refuse_special
from cfcam_gpu.dataset.sources.columns import AT_ONCE, FIELDS, Columns, pieces_of, rows_in, samples_in
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.arrays import arrow_array
from cfcam_gpu.dataset.store.atomic_files import atomic_file, sync_folder
from cfcam_gpu.errors import InputError, StoreError

_SCHEMA = pa.schema([(name, pa.string()) for name in FIELDS])


class Plan:
    """A stored plan.

    Its samples stand in segments: those of the first run, then those that each later run added. Part
    numbers go on from one segment to the next, and no part holds samples of two segments, so adding
    samples never changes an existing part.

    Attributes:
        path: the plan's file.
        part_size: number of samples in a part; the last part of a segment may have fewer.
        segments: number of samples in each segment.

    Raises:
        StoreError: the file is missing or damaged.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "plan.parquet"
        >>> samples = [Sample(f"{i}", f"/photos/{i}.png") for i in range(5)]
        >>> plan = write_plan(path, samples, segments=[5], part_size=2)
        >>> plan.parts, [sample.sample_id for sample in plan.samples(1)]
        (3, ['2', '3'])
        >>> plan.extended(samples[:1]).parts
        4
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            refuse_special(path)
            self._file = pq.ParquetFile(path)
            about = json.loads(self._file.schema_arrow.metadata[b"cfcam"])
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"the plan {path} is missing or damaged; --overwrite starts the run anew"
            ) from error
        self.part_size: int = about["shard_size"]
        self.segments: list[int] = about["segments"]
        parts = [-(-count // self.part_size) for count in self.segments]
        self._first_part = [0, *accumulate(parts)]
        self._first_row = [0, *accumulate(self.segments)]
        metadata = self._file.metadata
        groups = (metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        self._group_start = [0, *accumulate(groups)]
        self._group: tuple[int, pa.Table] | None = None

    def __len__(self) -> int:
        """Number of samples."""
        return self._first_row[-1]

    @property
    def parts(self) -> int:
        """Number of parts."""
        return self._first_part[-1]

    def bounds(self, part: int) -> tuple[int, int]:
        """Position in the plan of a part's first sample, and of the sample behind its last."""
        segment = bisect_right(self._first_part, part) - 1
        start = self._first_row[segment] + (part - self._first_part[segment]) * self.part_size
        return start, min(start + self.part_size, self._first_row[segment + 1])

    def count(self, part: int) -> int:
        """Number of samples in a part."""
        start, stop = self.bounds(part)
        return stop - start

    def samples(self, part: int) -> list[Sample]:
        """The samples of a part, in order."""
        row, stop = self.bounds(part)
        samples: list[Sample] = []
        while row < stop:
            group = bisect_right(self._group_start, row) - 1
            inside = row - self._group_start[group]
            piece = self._read(group).slice(inside, stop - row)
            samples += map(
                Sample, *(piece[name].to_pylist() for name in FIELDS if name in piece.column_names)
            )
            row += len(piece)
        return samples

    def columns(self, *names: str) -> Iterator[dict[str, Any]]:
        """Fields of every sample, in order; `names`: those of `Sample`'s attributes."""
        for batch in self._file.iter_batches(AT_ONCE, columns=list(names)):
            yield from batch.to_pylist()

    def pieces(self, *names: str) -> Iterator[Columns]:
        """As `columns`, but lists of the fields of some thousand samples at a time.

        Plans of earlier versions of the package have no masks: these are None.
        """
        stored = [name for name in names if name in self._file.schema_arrow.names]
        for batch in self._file.iter_batches(AT_ONCE, columns=stored):
            none = [None] * len(batch)
            yield {name: batch[name].to_pylist() if name in stored else none for name in names}

    def extended(self, samples: Sequence[Sample]) -> Plan:
        """The plan with one more segment, stored in place of this one.

        Raises:
            OSError: it cannot be written.
        """
        earlier = chain.from_iterable(map(samples_in, self.pieces(*FIELDS)))
        return write_plan(self.path, chain(earlier, samples), [*self.segments, len(samples)], self.part_size)

    def _read(self, group: int) -> pa.Table:
        """A row group of the file; the last one stays in memory."""
        if self._group is None or self._group[0] != group:
            self._group = group, self._file.read_row_group(group, columns=list(FIELDS))
        return self._group[1]


def write_plan(path: Path, samples: Iterable[Sample], segments: Sequence[int], part_size: int) -> Plan:
    """Stores a plan in place of one that may be there, and returns it.

    Args:
        samples: those of all segments, in order; may be a generator or a `ColumnSource`.
        segments: number of samples in each segment.
        part_size: number of samples in a part.

    Raises:
        InputError: there are more or fewer samples than the segments have; nothing is stored then.
        OSError: the file cannot be written.
    """
    about = json.dumps({"shard_size": part_size, "segments": list(segments)})
    schema = _SCHEMA.with_metadata({"cfcam": about})
    with atomic_file(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        count = 0
        for piece in pieces_of(samples, *FIELDS):
            count += rows_in(piece)
            columns = [arrow_array(piece[name], pa.string()) for name in FIELDS]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
        if count != sum(segments):
            raise InputError(
                f"a source of samples has the length {sum(segments):,}, and gave {count:,} samples"
            )
    sync_folder(path.parent)
    return Plan(path)
