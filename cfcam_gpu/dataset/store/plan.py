"""The plan of a run: its samples in order, cut into parts, on disk. Read piece by piece, so memory stays flat."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.atomic_files import atomic_file, sync_folder
from cfcam_gpu.errors import StoreError

_FIELDS = ("sample_id", "uri", "label", "target", "name", "mask")
_SCHEMA = pa.schema([(name, pa.string()) for name in _FIELDS])

#: Rows read at a time.
_GROUP = 16_384


class Plan:
    """The stored plan. Its samples come in segments: the first run's, then what later runs found in addition.

    Part numbers go on through the segments; a part never holds samples of two of them, so that
    adding samples leaves every part as it was.

    Attributes:
        part_size: samples of a part; a segment's last one may have fewer.
        segments: number of samples in each segment.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
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
        self._group: tuple[int, pa.Table] = (-1, _SCHEMA.empty_table())

    def __len__(self) -> int:
        return self._first_row[-1]

    @property
    def parts(self) -> int:
        return self._first_part[-1]

    def bounds(self, part: int) -> tuple[int, int]:
        """First row of a part in the plan, and the row after its last."""
        segment = bisect_right(self._first_part, part) - 1
        start = self._first_row[segment] + (part - self._first_part[segment]) * self.part_size
        return start, min(start + self.part_size, self._first_row[segment + 1])

    def count(self, part: int) -> int:
        start, stop = self.bounds(part)
        return stop - start

    def samples(self, part: int) -> list[Sample]:
        """The samples of a part, in order."""
        row, stop = self.bounds(part)
        found: list[Sample] = []
        while row < stop:
            group = bisect_right(self._group_start, row) - 1
            inside = row - self._group_start[group]
            piece = self._read(group).slice(inside, stop - row)
            found += (_sample(values) for values in piece.to_pylist())
            row += len(piece)
        return found

    def columns(self, *names: str) -> Iterator[dict[str, Any]]:
        """Some fields of every sample, in order, piece by piece."""
        for batch in self._file.iter_batches(_GROUP, columns=list(names)):
            yield from batch.to_pylist()

    def extended(self, samples: Sequence[Sample]) -> Plan:
        """The plan with a further segment, stored in place of this one. Raises OSError."""
        old = (_sample(row) for row in self.columns(*_FIELDS))
        return write_plan(self.path, chain(old, samples), [*self.segments, len(samples)], self.part_size)

    def _read(self, group: int) -> pa.Table:
        if self._group[0] != group:
            self._group = group, self._file.read_row_group(group, columns=list(_FIELDS))
        return self._group[1]


def write_plan(path: Path, samples: Iterable[Sample], segments: Sequence[int], part_size: int) -> Plan:
    """Stores samples, `segments` of them in turn, in place of whatever plan there is. Raises OSError."""
    about = json.dumps({"shard_size": part_size, "segments": list(segments)})
    schema = _SCHEMA.with_metadata({"cfcam": about})
    rest = iter(samples)
    with atomic_file(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while piece := list(islice(rest, _GROUP)):
            columns = [pa.array([getattr(s, name) for s in piece], pa.string()) for name in _FIELDS]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    sync_folder(path.parent)
    return Plan(path)


def _sample(values: dict[str, Any]) -> Sample:
    """Plans of earlier versions have no masks."""
    return Sample(**{name: values.get(name) for name in _FIELDS})  # type: ignore[arg-type]
