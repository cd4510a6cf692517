"""Rows that are written ahead of their part, so that little is lost when a run ends before the part is whole.

OUT/.cfcam/ahead/part-NNNNN-WRITER.rows    blocks of rows of one part, appended as batches get done

A block is a header (magic, length, CRC-32) and an Arrow stream of that length. Arrow reads only blocks whose
checksum is right, so a torn end costs the rows of its block. The next run takes the rows over, and its remaining
batches are those of an undisturbed run; so are the bytes of the part, which is written whole as ever.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import struct
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.atomic_files import sync_folder
from cfcam_gpu.dataset.store.schema import Row, others_of
from cfcam_gpu.dataset.store.store import Store

#: Seconds that a finished row may wait to be written. Parts that take less are never written ahead.
WRITE_EVERY = 1.0

#: Seconds between two waits for the disk, which matter only if the power fails.
_SYNC_EVERY = 10.0

_MAGIC, _HEADER = b"cfah", struct.Struct("<4sII")

_NO_ROW: Row = {"status": "error"}

#: Keys of the metadata of a block's schema.
_RUN, _POSITIONS = b"cfcam_run", b"cfcam_positions"


@dataclass(frozen=True)
class Journals:
    """The rows written ahead in an output folder. May be given to other processes.

    Attributes:
        store: the output folder.
        map_shape: (h, w) of the maps.
        run: tells this run from others that wrote into the folder (see `run_token`).

    Example:
        >>> import tempfile
        >>> store, samples = Store(Path(tempfile.mkdtemp())), [Sample("a", "/a.png"), Sample("b", "/b.png")]
        >>> journals = Journals(store, (7, 7), "run 1")
        >>> with journals.writer() as writer:
        ...     writer.add(3, [1], [{"sample_id": "b", "uri": "/b.png", "status": "ok", "pred": 5}])
        >>> journals.rows(3, samples)[1]["pred"], journals.parts()
        (5, {3})
    """

    store: Store
    map_shape: tuple[int, int]
    run: str

    def parts(self) -> set[int]:
        """Numbers of the parts of which rows are written ahead."""
        names = (path.name for path in self.store.ahead_folder.glob("part-*.rows"))
        matches = (re.fullmatch(r"part-(\d+)-.*\.rows", name) for name in names)
        return {int(match[1]) for match in matches if match}

    def rows(self, part: int, samples: Sequence[Sample]) -> dict[int, Row]:
        """The rows of a part by their position, as far as they are undamaged and their pictures are there.

        Args:
            samples: all samples of the part.
        """
        rows: dict[int, Row] = {}
        for path in self._files(part):
            for payload in _payloads(path):
                for position, row in self._rows_of_block(payload).items():
                    if rows.get(position, _NO_ROW)["status"] != "ok":  # a failed one may have been redone
                        rows[position] = row
        return {
            position: row
            for position, row in sorted(rows.items())
            if position < len(samples)
            and (row["sample_id"], row["uri"]) == (samples[position].sample_id, samples[position].uri)
            and self._has_pictures(row)
        }

    def remove(self, part: int) -> None:
        """Removes the rows of a part, which is written or to be redone."""
        for path in self._files(part):
            with suppress(OSError):  # it is read again by the next run, which finds the part finished
                path.unlink()

    def writer(self) -> JournalWriter:
        """Writes rows ahead; on leaving its block the last ones."""
        return JournalWriter(self)

    def block(self, positions: Sequence[int], rows: Sequence[Row]) -> bytes:
        """Header and Arrow stream of rows; `positions`: of their samples in the part."""
        table = self.store.rows_to_table(rows, self.map_shape)
        about = {_RUN: self.run.encode(), _POSITIONS: json.dumps(list(positions)).encode()}
        content = io.BytesIO()
        with pa.ipc.new_stream(content, table.schema.with_metadata(about)) as stream:
            stream.write_table(table)
        payload = content.getvalue()
        return _HEADER.pack(_MAGIC, len(payload), zlib.crc32(payload)) + payload

    def _rows_of_block(self, payload: bytes) -> dict[int, Row]:
        """Rows by position; none of a block of another run."""
        with pa.ipc.open_stream(payload) as stream:
            table = stream.read_all()
        about = table.schema.metadata
        if about[_RUN] != self.run.encode():
            return {}
        rows = self.store.table_to_rows(table.replace_schema_metadata(None))
        return dict(zip(json.loads(about[_POSITIONS]), rows, strict=True))

    def _files(self, part: int) -> list[Path]:
        return sorted(self.store.ahead_folder.glob(f"part-{part:05d}-*.rows"))

    def _has_pictures(self, row: Row) -> bool:
        """Whether the pictures of a row survived, which a power failure may take although the row is there."""
        pictures = (one.get("overlay") for one in (row, *others_of(row)))
        return all((self.store.out / picture).is_file() for picture in pictures if picture)


@dataclass
class JournalWriter:
    """Writes finished rows ahead, at the latest `WRITE_EVERY` seconds after they are done, and when its block ends."""

    journals: Journals
    name: str = field(default_factory=lambda: f"{os.getpid()}-{uuid.uuid4().hex[:8]}")
    waiting: dict[int, tuple[list[int], list[Row]]] = field(default_factory=dict)
    oldest: float = 0.0
    synced: float = field(default_factory=time.monotonic)

    def __enter__(self) -> JournalWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.write()

    def add(self, part: int, positions: Sequence[int], rows: Sequence[Row]) -> None:
        """Takes finished rows of a part; `positions`: of their samples in the part. Raises StoreError."""
        if not rows:
            return
        if not self.waiting:
            self.oldest = time.monotonic()
        waiting_positions, waiting_rows = self.waiting.setdefault(part, ([], []))
        waiting_positions += positions
        waiting_rows += rows
        self.tick()

    def tick(self) -> None:
        """Writes the rows that have waited long enough. Raises StoreError."""
        if self.waiting and time.monotonic() - self.oldest >= WRITE_EVERY:
            self.write()

    def forget(self, part: int) -> None:
        """The part is whole: its waiting rows need not be written."""
        self.waiting.pop(part, None)

    def write(self) -> None:
        """Writes all waiting rows.

        Raises:
            StoreError: they cannot be written.
        """
        waiting, self.waiting = self.waiting, {}
        sync = time.monotonic() - self.synced >= _SYNC_EVERY
        for part, (positions, rows) in waiting.items():
            path = self.journals.store.ahead_folder / f"part-{part:05d}-{self.name}.rows"
            try:
                _append(path, self.journals.block(positions, rows), sync=sync)
            except OSError as error:
                raise self.journals.store.unwritable(path, error) from error
        if sync:
            self.synced = time.monotonic()


def run_token(store: Store) -> str:
    """A text that is different for every run: a hash of run.json, which is written once and has its time."""
    return hashlib.sha256(store.run_file.read_bytes()).hexdigest()[:16]


def _append(path: Path, block: bytes, *, sync: bool) -> None:
    """Appends a block; what a full disk took of it is cut off again, since later blocks stand behind it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        start = file.tell()
        try:
            rest = memoryview(block)
            while rest:
                rest = rest[file.write(rest) :]
            if sync:
                os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                file.truncate(start)
            raise
    if sync:
        sync_folder(path.parent)


def _payloads(path: Path) -> Iterator[bytes]:
    """The Arrow streams of a file up to the first block that is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return
    start = 0
    while start + _HEADER.size <= len(content):
        magic, length, checksum = _HEADER.unpack_from(content, start)
        payload = content[start + _HEADER.size : start + _HEADER.size + length]
        if magic != _MAGIC or len(payload) < length or zlib.crc32(payload) != checksum:
            return
        yield payload
        start += _HEADER.size + length
