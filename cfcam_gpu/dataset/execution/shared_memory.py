"""Memory that this process shares with its worker processes. It has no name, so that no kill can leave it behind.

The kernel frees it when the last process that has it has ended. Imports no PyTorch.
"""

from __future__ import annotations

import functools
import math
import mmap
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Slot(NamedTuple):
    """Where in the shared memory one image of a block lies.

    Attributes:
        descriptor: file descriptor of the memory, the same in all processes.
        offset, length: of the block, in bytes.
        position: of the image in the block.
    """

    descriptor: int
    offset: int
    length: int
    position: int

    def pixels(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """The image's pixels, of the shape (H, W, channels), to be written by a worker process."""
        size = math.prod(shape)
        start = self.position * size
        block = _mapped(self.descriptor, self.offset, self.length)
        return np.frombuffer(block, np.uint8, size, start).reshape(shape)


@functools.cache
def _mapped(descriptor: int, offset: int, length: int) -> mmap.mmap:
    return mmap.mmap(descriptor, length, offset=offset)


@dataclass(frozen=True)
class Block:
    """Memory for the pixels of a batch.

    Attributes:
        pixels: (B, H, W, channels) uint8.
        offset, length: in the shared memory, in bytes; whole pages.
    """

    pixels: npt.NDArray[np.uint8]
    descriptor: int
    offset: int
    length: int

    def slot(self, position: int) -> Slot:
        return Slot(self.descriptor, self.offset, self.length, position)


class Progress:
    """How many tasks a worker process has begun, and when it began the last one. The worker writes, we read."""

    SIZE = 16

    def __init__(self, descriptor: int, place: int) -> None:
        page, start = divmod(place * self.SIZE, mmap.PAGESIZE)
        memory = mmap.mmap(descriptor, mmap.PAGESIZE, offset=page * mmap.PAGESIZE)
        self._count = np.frombuffer(memory, np.int64, 1, start)
        self._time = np.frombuffer(memory, np.float64, 1, start + 8)

    def reset(self) -> None:
        self._count[0] = 0

    def begin(self) -> None:
        """Another task is begun now."""
        self._time[0] = time.monotonic()
        self._count[0] += 1

    @property
    def begun(self) -> int:
        """Number of tasks begun since `reset`."""
        return int(self._count[0])

    @property
    def begun_at(self) -> float:
        """When the last of them was begun: of the clock `time.monotonic`, which all processes share."""
        return float(self._time[0])


class SharedMemory:
    """Shared memory that grows by blocks, which are used again.

    Args:
        workers: most worker processes at a time.

    Raises:
        OSError: there is no memory or no room for a temporary file.

    Example:
        >>> memory = SharedMemory(workers=2)
        >>> block = memory.lease((4, 8, 8, 3))
        >>> block.slot(1).pixels((8, 8, 3))[:] = 7
        >>> block.pixels[:, 0, 0, 0].tolist()
        [0, 7, 0, 0]
        >>> memory.release(block)
        >>> memory.close()
    """

    def __init__(self, workers: int) -> None:
        self.descriptor = _nameless_file()
        self._free: list[Block] = []
        self._lock = threading.Lock()
        self._size = 0
        try:
            self._grow(workers * Progress.SIZE)
        except OSError:
            self.close()
            raise

    def lease(self, shape: tuple[int, ...]) -> Block:
        """A block for pixels of a shape; nobody else writes into it until it is released.

        Raises:
            OSError: there is no more memory.
        """
        with self._lock:
            for block in self._free:
                if block.pixels.shape == shape:
                    self._free.remove(block)
                    return block
            offset, length = self._grow(math.prod(shape))
        block_memory = mmap.mmap(self.descriptor, length, offset=offset)
        pixels = np.frombuffer(block_memory, np.uint8, math.prod(shape)).reshape(shape)
        return Block(pixels, self.descriptor, offset, length)

    def release(self, block: Block) -> None:
        """Gives a block back, into which no worker writes any more."""
        with self._lock:
            self._free.append(block)

    def close(self) -> None:
        """No more blocks. The memory of leased ones is freed with their pixels."""
        self._free.clear()
        os.close(self.descriptor)

    def _grow(self, size: int) -> tuple[int, int]:
        """(offset, length) of new memory, zero everywhere."""
        offset, length = self._size, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        if hasattr(os, "posix_fallocate"):  # so that missing memory is an error now, not a SIGBUS later
            os.posix_fallocate(self.descriptor, offset, length)
        else:
            os.ftruncate(self.descriptor, offset + length)
        self._size += length
        return offset, length


def _nameless_file() -> int:
    """A file descriptor. On Linux the file lies in memory, also where /dev/shm is small, as in containers."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("cfcam")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
