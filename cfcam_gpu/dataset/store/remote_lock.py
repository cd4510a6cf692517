"""Which run may write to a URL: numbered lock objects, of which the highest counts.

URL/.cfcam/lock-NNNNNN.json    who holds it, since when, and when it was renewed; or that it has ended

A run takes the lock by creating the object with the next number, which an object store lets one of two runs do
(`If-None-Match` of S3, `ifGenerationMatch` of Google). So nobody ever removes a lock that another run has just taken,
and a run that was thought dead finds at its next renewal that there is a higher one.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

from cfcam_gpu._utils.messages import printable
from cfcam_gpu._utils.places.place import Place
from cfcam_gpu.errors import PlaceError, StoreError

#: Seconds between two renewals.
RENEW_EVERY = 30.0

#: Seconds without a renewal after which another machine may take the lock.
SILENT = 300.0

#: Bytes of a lock object that are read.
_MOST_BYTES = 10_000

_FORMAT = "lock-{:06d}.json"


class RemoteLock:
    """The right to write to a URL, held from `acquire` to `end`.

    Attributes:
        folder: the output folder.
        number: that of the lock object.
    """

    def __init__(self, folder: Place, number: int, machine: str) -> None:
        self.folder, self.number = folder, number
        self.content = {
            "process": os.getpid(), "host": socket.gethostname(), "machine": machine, "begun": _now(),
            "id": uuid.uuid4().hex, "ended": False,
        }  # fmt: skip
        self.renewed = time.monotonic()

    def create(self) -> bool:
        """Takes the lock; False where another run has."""
        place = _lock_place(self.folder, self.number)
        # An answer that was lost looks like another run's lock.
        return (
            place.create(self._bytes()) or _holder(self.folder, self.number).get("id") == self.content["id"]
        )

    def renew_if_due(self) -> None:
        """Renews the lock if `RENEW_EVERY` seconds have passed. Raises StoreError if another run has taken it."""
        silent = time.monotonic() - self.renewed
        if silent < RENEW_EVERY:
            return
        try:
            self._renew()
        except PlaceError as error:
            if silent > SILENT / 2 or not error.passing:
                raise

    def end(self) -> None:
        """Gives the lock back. Where that fails, it ends by itself, `SILENT` seconds after its last renewal."""
        with suppress(PlaceError):
            self.content["ended"] = True
            _lock_place(self.folder, self.number).write(self._bytes())

    def _renew(self) -> None:
        last = max(_numbers(self.folder), default=0)
        if last > self.number:
            raise StoreError(
                f"{self.folder}: another run ({_described(_holder(self.folder, last))}) has taken over, since this one "
                "gave no sign of life for too long; the same command goes on when that run has ended"
            )
        _lock_place(self.folder, self.number).write(self._bytes())
        self.renewed = time.monotonic()

    def _bytes(self) -> bytes:
        return json.dumps({**self.content, "renewed": _now()}, indent=1).encode()


def acquire(folder: Place, machine: str, note: Callable[[str], None]) -> RemoteLock:
    """Takes the lock of an output folder at a URL.

    A lock is free if its run has ended it; if this machine's lock says `machine`, of which the caller holds the
    staging folder, so that its run is dead; or if it was not renewed for `SILENT` seconds by the server's clock.

    Args:
        machine: the identity of the staging folder.
        note: is told when the lock of a run that gives no sign of life is taken over.

    Raises:
        StoreError: another run holds it. PlaceError: the URL cannot be read or written.
    """
    numbers = _numbers(folder)
    last = max(numbers, default=0)
    holder = _holder(folder, last) if last else {"ended": True}
    if not holder.get("ended") and holder.get("machine") != machine:
        silent = _silent_seconds(folder, last)
        if silent < SILENT:
            raise StoreError(
                f"{folder} is being written by another run ({_described(holder)}, last sign of life "
                f"{silent:.0f} s ago); wait for it; if it was killed, start it again on its machine, or here "
                f"when it has been silent for {SILENT:.0f} s"
            )
        note(f"took over from a run that gives no sign of life ({_described(holder)})")
    lock = RemoteLock(folder, last + 1, machine)
    if not lock.create():
        raise StoreError(
            f"{folder} is being written by another run ({_described(_holder(folder, last + 1))}), which began at the "
            "same time; wait for it, or choose another output folder"
        )
    for number in numbers:  # where this may not be removed, it does no harm
        with suppress(PlaceError):
            _lock_place(folder, number).remove()
    return lock


def _numbers(folder: Place) -> list[int]:
    names = (re.fullmatch(r"lock-(\d{6,})\.json", name) for name in folder.below(".cfcam").versions())
    return [int(match[1]) for match in names if match]


def _lock_place(folder: Place, number: int) -> Place:
    return folder.below(f".cfcam/{_FORMAT.format(number)}")


def _holder(folder: Place, number: int) -> dict[str, Any]:
    """The content of a lock object; empty if it is none, or gone."""
    try:
        content = json.loads(_lock_place(folder, number).read(0, _MOST_BYTES))
    except ValueError:
        return {}
    except PlaceError as error:
        if not error.absent:
            raise
        return {}
    return content if isinstance(content, dict) else {}


def _silent_seconds(folder: Place, number: int) -> float:
    """Seconds since the lock was written. Both times are the server's: machines' clocks differ."""
    clock = folder.below(".cfcam/clock")
    clock.write(b"written to learn the server's time\n")
    return max(0.0, clock.modified() - _lock_place(folder, number).modified())


def _described(holder: dict[str, Any]) -> str:
    if "process" not in holder:
        return "just started"
    return printable(f"process {holder['process']} on {holder.get('host')}, begun {holder.get('begun')}")[
        :200
    ]


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
