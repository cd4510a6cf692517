"""The lock of an output folder at a URL: one run has it, a dead one loses it, and nobody removes a living one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cfcam_gpu._utils.places.place import Place
from cfcam_gpu.dataset.store import remote_lock
from cfcam_gpu.dataset.store.remote_lock import RemoteLock, acquire
from cfcam_gpu.dataset.store.staging import Record
from cfcam_gpu.errors import PlaceError, StoreError


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    place = Place(f"memory://locks/{request.node.name}")
    yield place
    for name in place.versions():
        place.below(name).remove()


def take(place: Place, machine: str = "here", notes: list[str] | None = None) -> RemoteLock:
    return acquire(place, machine, (notes if notes is not None else []).append)


def test_a_lock_is_taken_and_given_back(place: Place) -> None:
    lock = take(place)
    with pytest.raises(
        StoreError, match=r"by another run \(process \d+ on .*, begun .*, last sign of life 0 s ago\)"
    ):
        take(place, "there")
    lock.end()
    assert take(place, "there").number == 2
    assert list(place.versions()) == [".cfcam/clock", ".cfcam/lock-000002.json"]


def test_the_machine_of_a_dead_run_takes_it_at_once_and_others_when_it_is_silent(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    take(place)
    take(place, "here", notes)
    assert notes == []
    monkeypatch.setattr(remote_lock, "SILENT", 0.2)
    with pytest.raises(StoreError):
        take(place, "there", notes)
    time.sleep(0.3)
    assert take(place, "there", notes).number == 3
    assert notes[0].startswith("took over from a run that gives no sign of life (process ")


def test_a_renewed_lock_is_not_silent(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = take(place)
    monkeypatch.setattr(remote_lock, "SILENT", 0.5)
    monkeypatch.setattr(remote_lock, "RENEW_EVERY", 0.0)
    time.sleep(0.6)
    lock.renew_if_due()
    with pytest.raises(StoreError, match="is being written by another run"):
        take(place, "there")


def test_the_clock_of_a_machine_does_not_matter(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    take(place)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e6)
    with pytest.raises(StoreError, match="last sign of life 0 s ago"):
        take(place, "there")


def test_a_run_that_was_replaced_learns_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = take(place)
    lock.renew_if_due()
    assert RemoteLock(place, 2, "there").create()
    lock.renew_if_due()  # not due
    monkeypatch.setattr(remote_lock, "RENEW_EVERY", 0.0)
    with pytest.raises(StoreError, match=r"another run \(process .*\) has taken over"):
        lock.renew_if_due()


def test_of_two_that_begin_at_the_same_time_one_has_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have seen no lock."""
    take(place)
    monkeypatch.setattr(remote_lock, "_numbers", lambda _: [])
    with pytest.raises(StoreError, match="began at the same time"):
        take(place, "there")


def test_an_answer_that_was_lost_is_no_other_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is made again finds the lock that it made."""
    create = Place.create
    monkeypatch.setattr(
        Place, "create", lambda self, content: create(self, content) and create(self, content)
    )
    assert take(place).number == 1


@pytest.mark.parametrize("content", [b"", b"no JSON", b"[1]", b'{"process": "\\u001b[2J"}', b"\xff"])
def test_a_damaged_lock_is_one_of_somebody(place: Place, content: bytes) -> None:
    place.below(".cfcam/lock-000007.json").write(content)
    with pytest.raises(StoreError, match="is being written by another run") as caught:
        take(place)
    assert "\x1b" not in str(caught.value)


def test_a_server_that_is_away_keeps_the_lock_for_a_while(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = take(place)
    monkeypatch.setattr(remote_lock, "RENEW_EVERY", 0.0)

    def away(*_: object) -> None:
        raise PlaceError("away", passing=True)

    monkeypatch.setattr(Place, "versions", away)
    lock.renew_if_due()
    lock.renewed -= remote_lock.SILENT
    with pytest.raises(PlaceError):
        lock.renew_if_due()


def test_old_locks_that_may_not_be_removed_do_no_harm(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: Place) -> None:
        raise PlaceError("access denied")

    monkeypatch.setattr(Place, "remove", denied)
    for number in (1, 2, 3):
        lock = take(place)
        lock.end()
        assert lock.number == number


@pytest.mark.parametrize("cut", [1, 5, 20, 40])
def test_a_record_that_a_crash_cut_loses_its_last_line(tmp_path: Path, cut: int) -> None:
    record = Record(tmp_path / "synchronised")
    record.add("a", [1, 2], "v1")
    record.add("ü", [3, 4], None)
    record.path.write_bytes(record.path.read_bytes()[:-cut])
    again = Record(record.path)
    again.load()
    assert not again.has("ü", [3, 4])
    assert again.version("a") == (None if cut == 40 else "v1")
    again.add("c", [5, 6], "v3")
    last = Record(record.path)
    last.load()
    assert last.has("c", [5, 6])
