"""Many samples in little memory: on the disk, from the first ten thousands on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import IO, TYPE_CHECKING

from cfcam_gpu.dataset.sources.columns import (
    AT_ONCE,
    FIELDS,
    Columns,
    ColumnSource,
    MaskedSamples,
    cut,
    pieces_of,
)
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.errors import InputError

if TYPE_CHECKING:
    import pyarrow.parquet as pq


class Spool:
    """Rows of texts, in order: the last ones, at most `AT_ONCE`, in memory, all before them in a temporary file.

    The file has no name and is gone when this is. Reading and then adding more rows begins a further file.

    Args:
        names: of the columns.

    Raises:
        InputError: the temporary file cannot be written or read.

    Example:
        >>> spool = Spool(("uri", "label"))
        >>> spool.append(("/a.png", None))
        >>> len(spool), list(spool.pieces("uri"))
        (1, [{'uri': ['/a.png']}])
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        # The cells of row after row: tuples would have the garbage collector look through them again and again.
        self._held: list[str | None] = []
        self._stored = 0
        self._files: list[IO[bytes]] = []
        self._writer: pq.ParquetWriter | None = None

    def __len__(self) -> int:
        return self._stored + len(self._held) // len(self.names)

    def append(self, row: Iterable[str | None]) -> None:
        """Adds a row."""
        if len(self._held) == AT_ONCE * len(self.names):
            self._store()
        self._held += row

    def extend(self, pieces: Iterable[Columns]) -> None:
        """Adds rows that come as columns, `AT_ONCE` in each piece but the last."""
        for piece in pieces:
            if self._held:
                self._store()
            self._held += chain.from_iterable(zip(*(piece[name] for name in self.names), strict=True))

    def pieces(self, *names: str) -> Iterator[Columns]:
        """The values of all rows, `AT_ONCE` at a time."""
        if self._writer is not None:
            with temporary_file_errors("written"):
                self._writer.close()
            self._writer = None
        for file in self._files:
            yield from _stored_pieces(file, names)
        if self._held:
            columns = self._held_columns()
            yield {name: columns[name] for name in names}

    def clear(self) -> None:
        """Removes all rows."""
        self._held, self._stored, self._writer = [], 0, None
        while self._files:
            self._files.pop().close()

    def _held_columns(self) -> Columns:
        return {name: self._held[i :: len(self.names)] for i, name in enumerate(self.names)}

    def _store(self) -> None:
        """Moves the held rows into the file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from cfcam_gpu.dataset.store.arrays import arrow_array

        columns = [arrow_array(values, pa.string()) for values in self._held_columns().values()]
        table = pa.Table.from_arrays(columns, names=list(self.names))
        with temporary_file_errors("written"):
            if self._writer is None:
                self._files.append(tempfile.TemporaryFile(prefix="cfcam-"))  # noqa: SIM115
                self._writer = pq.ParquetWriter(self._files[-1], table.schema, compression="zstd")
            self._writer.write_table(table)
        self._stored += len(table)
        self._held = []


class SpooledSamples(ColumnSource):
    """Samples in a `Spool`.

    Example:
        >>> samples = SpooledSamples([Sample("a", "/a.png")])
        >>> len(samples), [sample.uri for sample in samples]
        (1, ['/a.png'])
    """

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._spool = Spool(FIELDS)
        self._spool.extend(pieces_of(samples, *FIELDS))

    @classmethod
    def of_pieces(cls, pieces: Iterable[Columns]) -> SpooledSamples:
        """The samples whose fields are in columns, of any lengths."""
        samples = cls(())
        samples._spool.extend(cut(pieces, AT_ONCE))
        return samples

    def __len__(self) -> int:
        return len(self._spool)

    def pieces(self, *names: str) -> Iterator[Columns]:
        return self._spool.pieces(*names)

    def clear(self) -> None:
        """Removes all samples, and their file from the disk."""
        self._spool.clear()


class MaskedSpool(SpooledSamples):
    """The samples of a spool, which is taken over, with the credentials in their URLs masked."""

    def __init__(self, samples: SpooledSamples) -> None:
        self._spool, self._samples = samples._spool, MaskedSamples(samples)

    def pieces(self, *names: str) -> Iterator[Columns]:
        return self._samples.pieces(*names)


def _stored_pieces(content: IO[bytes], names: Sequence[str]) -> Iterator[Columns]:
    import pyarrow.parquet as pq

    with temporary_file_errors("read"):
        file = pq.ParquetFile(content)
        groups = file.num_row_groups
    for group in range(groups):
        with temporary_file_errors("read"):
            table = file.read_row_group(group, columns=list(names), use_threads=False)
        yield {name: table[name].to_pylist() for name in names}


@contextmanager
def temporary_file_errors(verb: str) -> Iterator[None]:
    """Raises InputError where a temporary file cannot be written or read."""
    try:
        yield
    except OSError as error:
        folder = tempfile.tempdir or "a folder for temporary files"  # None: there is no usable one
        raise InputError(
            f"the list of samples cannot be {verb} in {folder}: {error.strerror or error}; "
            "TMPDIR names another folder"
        ) from error
