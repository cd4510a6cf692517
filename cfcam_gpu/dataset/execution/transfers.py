"""Copies to and from a device for which the host does not wait, so that the device never waits for the host.

The pixels of a batch are copied on a stream of their own, beside the device's work on the batch before. What a batch's
rows hold comes back as one copy, which is read while the device works on the next batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cfcam_gpu._utils.device import copied_to, packed, unpacked
from cfcam_gpu.images.views import View

#: Values of one batch, by the names of their columns.
Values = dict[str, np.ndarray]


class Event(Protocol):
    """The end of a copy."""

    def synchronize(self) -> None:
        """Waits for it."""


class Copies(Protocol):
    """What `Transfers` asks of a device."""

    def pinned(self, size: int) -> Tensor:
        """(size,) uint8 in memory of the host that the device reads and writes by itself."""

    def upload(self, source: Tensor) -> tuple[Tensor, Event]:
        """Begins a copy to the device, for which its later work waits, and its earlier work does not."""

    def download(self, source: Tensor, target: Tensor) -> Event:
        """Begins a copy into pinned memory, once the device has done its work so far."""


class CudaCopies:
    """Copies of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def pinned(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def upload(self, source: Tensor) -> tuple[Tensor, Event]:
        with torch.cuda.stream(self.stream):
            copy = source.to(self.device, non_blocking=True)
            event = self._recorded(self.stream)
        working = torch.cuda.current_stream(self.device)
        working.wait_event(event)
        copy.record_stream(working)  # its memory is not used again before the work that reads it
        return copy, event

    def download(self, source: Tensor, target: Tensor) -> Event:
        target.copy_(source, non_blocking=True)
        return self._recorded(torch.cuda.current_stream(self.device))

    def _recorded(self, stream: torch.cuda.Stream) -> torch.cuda.Event:
        event = torch.cuda.Event(
            blocking=True
        )  # the host sleeps while it waits: worker processes decode meanwhile
        event.record(stream)
        return event


@dataclass
class _Buffer:
    """Pinned memory, and the last copy that used it."""

    memory: Tensor | None = None
    event: Event | None = None

    def taken(self, copies: Copies, size: int) -> Tensor:
        """(size,) uint8 to be used for the next copy; waits until the last one has ended."""
        if self.event is not None:
            self.event.synchronize()
            self.event = None
        if self.memory is None or len(self.memory) < size:
            self.memory = copies.pinned(size)
        return self.memory[:size]


class Transfers:
    """Two buffers in turn for the pixels of batches, and two for what comes back of them.

    The host may be one batch ahead: the results of a batch must be read before the second batch after it is
    downloaded.

    Args:
        copies: those of the device.
    """

    def __init__(self, copies: Copies) -> None:
        self.copies = copies
        self._pixels = _Buffer(), _Buffer()
        self._results = _Buffer(), _Buffer()
        self._uploads = 0
        self._downloads: list[Download] = []

    def upload(self, arrays: Sequence[np.ndarray]) -> Tensor:
        """(B, …) uint8 on the device, of B arrays of one shape, which may be changed afterwards."""
        buffer = self._pixels[self._uploads % 2]
        self._uploads += 1
        shape = (len(arrays), *arrays[0].shape)
        pixels = buffer.taken(self.copies, arrays[0].size * len(arrays)).view(shape)
        np.stack(arrays, out=pixels.numpy())
        copy, buffer.event = self.copies.upload(pixels)
        return copy

    def download(self, tensors: Mapping[str, Tensor]) -> Download:
        """Begins one copy of tensors (B,…) of the device."""
        unread = [download for download in self._downloads if not download.is_read]
        if len(unread) > 1:
            raise AssertionError("the results of two batches are unread, and there are two buffers")
        used = {id(download.buffer) for download in unread}
        buffer = next(buffer for buffer in self._results if id(buffer) not in used)
        source = packed(tensors)
        target = buffer.taken(self.copies, source.numel()).view(source.shape)
        buffer.event = self.copies.download(source, target)
        like = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
        download = Download(buffer, target, like)
        self._downloads = [*unread, download]
        return download


@dataclass
class Download:
    """A copy of tensors from the device that is under way.

    Attributes:
        buffer: the memory that it fills.
        target: (B,bytes) uint8, the part of that memory.
        like: tensors of the same shapes and types, without values.
        is_read: whether the memory may be used again.
    """

    buffer: _Buffer
    target: Tensor
    like: Mapping[str, Tensor]
    is_read: bool = False

    def values(self) -> Values:
        """Waits for the values; to be called once."""
        try:
            if self.buffer.event is not None:
                self.buffer.event.synchronize()
            return unpacked(self.target.numpy().copy(), self.like)
        finally:
            self.is_read = True


def transfers_of(device: torch.device) -> Transfers | None:
    """Those of a CUDA device; None: the host has the values at once, or must wait for them.

    Example:
        >>> transfers_of(torch.device("cpu")) is None
        True
    """
    return Transfers(CudaCopies(device)) if device.type == "cuda" else None


def stacked_pixels(views: Sequence[View], device: torch.device) -> torch.Tensor:
    """(B, H, W, channels) uint8 on the device.

    Example:
        >>> view = View(np.zeros((2, 2, 3), np.uint8), width=4, height=4)
        >>> stacked_pixels([view, view], torch.device("cpu")).shape
        torch.Size([2, 2, 2, 3])
    """
    arrays = [view.pixels for view in views if isinstance(view.pixels, np.ndarray)]
    if len(arrays) == len(views):
        return copied_to(torch.from_numpy(_joined(arrays)), device)
    return torch.stack([torch.as_tensor(view.pixels).to(device) for view in views])


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The arrays along a new first axis; in the same memory where they lie there one after the other."""
    first = arrays[0]
    if first.base is None or not all(
        array.base is first.base and array.flags.c_contiguous for array in arrays
    ):
        return np.stack(arrays)
    starts = [array.__array_interface__["data"][0] for array in arrays]
    if starts != list(range(starts[0], starts[0] + first.nbytes * len(arrays), first.nbytes)):
        return np.stack(arrays)
    return np.lib.stride_tricks.as_strided(first, (len(arrays), *first.shape), (first.nbytes, *first.strides))
