"""Runs that end in the middle of a part go on in its middle, and their parts have the bytes of an undisturbed run."""

from __future__ import annotations

from pathlib import Path

import pytest

from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.errors import StoreError, TooManyErrors
from tests.helpers.smallnet import Recorder, photo, rows, run, save

SETTINGS = {"batch_size": 3, "part_size": 12, "max_errors": 5}


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Twelve pictures, of which the second and the ninth cannot be decoded."""
    pictures = {f"{i:02}": b"" if i in (1, 8) else photo(i) for i in range(12)}
    return save(tmp_path / "in", **pictures)


@pytest.fixture
def whole(inputs: Path, tmp_path: Path) -> bytes:
    """The part of a run that nothing disturbed."""
    run(inputs, tmp_path / "whole", **SETTINGS)
    return part(tmp_path / "whole")


def part(out: Path) -> bytes:
    return Store(out).part_file(0).read_bytes()


def interrupted(inputs: Path, out: Path, after: int, **settings: object) -> Recorder:
    recorder = Recorder(after)
    with pytest.raises(KeyboardInterrupt):
        run(inputs, out, observer=recorder, **{**SETTINGS, **settings})
    return recorder


@pytest.mark.parametrize("after", [1, 4, 11])
def test_a_run_goes_on_in_the_middle_of_a_part(inputs, whole, tmp_path, after):
    out, recorder = tmp_path / "out", Recorder()
    interrupted(inputs, out, after)
    assert Store(out).finished_parts() == set()
    summary = run(inputs, out, observer=recorder, **SETTINGS)
    done = -(-after // 3) * 3
    assert (summary.before, summary.now) == (done, 12 - done)
    assert recorder.ids == [f"{i:02}.png" for i in range(done, 12)]
    assert (summary.tally.ok, summary.tally.skipped) == (10, 2)
    assert part(out) == whole
    assert not list(Store(out).ahead_folder.glob("*"))


def test_too_many_errors_keep_what_is_finished_and_retry_failed_does_the_failed_ones(inputs, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(TooManyErrors, match="--retry-failed it does the failed ones again"):
        run(inputs, out, **{**SETTINGS, "max_errors": 1})
    save(tmp_path / "in", **{"01": photo(1)})
    summary = run(inputs, out, retry_failed=True, **SETTINGS)
    assert (summary.before, summary.now, summary.tally.ok) == (7, 5, 12 - 1)
    assert [row["status"] for row in rows(out)] == ["ok"] * 8 + ["error"] + ["ok"] * 3


@pytest.mark.parametrize("whole_parts", [False, True])
@pytest.mark.parametrize(("retry_failed", "failed"), [(False, 2), (True, 0)])
def test_a_failed_row_is_finished_unless_asked_for_whether_its_part_is_or_not(
    inputs, tmp_path, whole_parts, retry_failed, failed
):
    out, recorder = tmp_path / "out", Recorder()
    settings = {**SETTINGS, "part_size": 3} if whole_parts else SETTINGS
    interrupted(inputs, out, 10, **settings)
    assert Store(out).finished_parts() == ({0, 1, 2} if whole_parts else set())
    save(inputs, **{"01": photo(1), "08": photo(8)})
    summary = run(inputs, out, retry_failed=retry_failed, observer=recorder, **settings)
    retried = ["01.png", "08.png"] if retry_failed else []
    assert set(recorder.ids) - {"09.png", "10.png", "11.png"} == set(retried)
    assert (summary.tally.ok, summary.tally.skipped) == (12 - failed, failed)


def test_redone_samples_of_a_finished_part_are_kept_also_without_asking_again(inputs, whole, tmp_path):
    out = tmp_path / "whole"
    save(tmp_path / "in", **{"01": photo(1), "08": photo(8)})
    interrupted(inputs, out, 1, batch_size=1, retry_failed=True)
    assert part(out) == whole
    summary = run(inputs, out, **SETTINGS)
    assert (summary.before, summary.now) == (12, 0)
    assert [row["status"] for row in rows(out)] == ["ok"] * 8 + ["error"] + ["ok"] * 3
    summary = run(inputs, out, retry_failed=True, **SETTINGS)
    assert (summary.before, summary.now, summary.tally.ok) == (11, 1, 12)


def test_another_run_in_the_folder_takes_nothing_over(inputs, tmp_path):
    out = tmp_path / "out"
    interrupted(inputs, out, 6)
    summary = run(inputs, out, overwrite=True, method="gradcam", **SETTINGS)
    assert (summary.before, summary.now) == (0, 12)
    interrupted(inputs, tmp_path / "gone", 6)
    (tmp_path / "gone" / "run.json").unlink()
    assert run(inputs, tmp_path / "gone", method="gradcam", **SETTINGS).before == 0


def test_what_waits_is_written_when_the_part_itself_cannot_be(inputs, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def full(store: Store, path: Path, *_: object) -> None:
        raise store.unwritable(path, OSError(28, "No space left on device"))

    monkeypatch.setattr(Store, "write_part", lambda store, part, *_: full(store, store.part_file(part)))
    with pytest.raises(StoreError, match="No space left on device; what is done so far is kept"):
        run(inputs, out, **SETTINGS)
    monkeypatch.undo()
    summary = run(inputs, out, **SETTINGS)
    assert (summary.before, summary.now) == (12, 0)
    assert part(out) == whole
