"""Rows that are written ahead come back as far as they are undamaged and of this run."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store import journal
from cfcam_gpu.dataset.store.journal import Journals, run_token
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.errors import StoreError
from cfcam_gpu.evaluation.store import EvaluationStore
from cfcam_gpu.metrics.base import Column
from tests.helpers.result_rows import BAD, GOOD, MAP_SHAPE, assert_rows

SAMPLES = [Sample(f"s{i}", f"/s{i}.png") for i in range(8)]


def row(i: int, **columns: Any) -> Row:
    plain = {"sample_id": f"s{i}", "uri": f"/s{i}.png", "status": "ok", "pred": i, **columns}
    return cast(Row, plain)


@pytest.fixture
def journals(tmp_path: Path) -> Journals:
    return Journals(Store(tmp_path / "out"), MAP_SHAPE, "this run")


def write(journals: Journals, *rows: Row, part: int = 0) -> Path:
    """Writes each row as a block of its own, at the position that its id says; the file."""
    with journals.writer() as writer:
        for one in rows:
            writer.add(part, [int(one["sample_id"][1:])], [one])
            writer.write()
    (path,) = journals.store.ahead_folder.glob(f"*{writer.name}.rows")
    return path


def predictions(journals: Journals, part: int = 0) -> dict[int, Any]:
    return {i: one["pred"] for i, one in journals.rows(part, SAMPLES).items()}


def test_rows_come_back_as_they_were_written(journals):
    samples = [Sample(str(one["sample_id"]), str(one["uri"])) for one in (GOOD, BAD)]
    for one in (GOOD, BAD):
        if one.get("overlay"):
            (journals.store.out / str(one["overlay"])).parent.mkdir(parents=True, exist_ok=True)
            (journals.store.out / str(one["overlay"])).touch()
    with journals.writer() as writer:
        writer.add(2, [1, 0], [BAD, GOOD])
    found = journals.rows(2, samples)
    assert list(found) == [0, 1]
    assert_rows(list(found.values()), [GOOD, BAD])
    assert journals.parts() == {2}
    journals.remove(2)
    assert journals.parts() == set()


def test_all_rows_of_a_sample_with_several_classes_come_back(journals):
    several = row(3, target=1, grid=np.ones(MAP_SHAPE, np.float32))
    several["others"] = [{"target": 2, "blank": False}]  # type: ignore[typeddict-unknown-key]
    write(journals, several, row(4))
    found: Any = journals.rows(0, SAMPLES)
    assert found[3]["others"][0]["target"] == 2
    assert found[4]["pred"] == 4


def test_rows_of_an_evaluation_come_back(tmp_path):
    store = EvaluationStore(tmp_path / "out", [Column("average_drop", "lower", "Lost share, 0 to 1.")])
    journals = Journals(store, MAP_SHAPE, "this run")
    methods = {"cfcam": {"average_drop": 0.5}, "gradcam": {"average_drop": 0.25}}
    write(journals, row(0, methods=methods), row(1, status="error", stage="read", message="gone"))
    found: Any = journals.rows(0, SAMPLES)
    assert found[0]["methods"]["gradcam"]["average_drop"] == 0.25
    assert found[1]["message"] == "gone"


def test_a_file_cut_anywhere_gives_the_whole_blocks_before_the_cut(journals):
    path = write(journals, row(0), row(1), row(2))
    content = path.read_bytes()
    block = len(journals.block([0], [row(0)]))
    assert len(content) == 3 * block
    for length in [*range(0, len(content), 97), block - 1, block, len(content) - 1]:
        path.write_bytes(content[:length])
        assert predictions(journals) == {i: i for i in range(length // block)}


def test_a_flipped_bit_costs_its_block_and_those_behind_it_and_ends_nothing(journals):
    path = write(journals, row(0), row(1), row(2))
    content = bytearray(path.read_bytes())
    block, rng = len(content) // 3, np.random.default_rng(0)
    for position in rng.integers(block, 2 * block, 60):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        assert predictions(journals) == {0: 0}
    path.write_bytes(os.urandom(5000))
    assert predictions(journals) == {}


def test_rows_of_another_run_or_of_other_samples_do_not_count(journals):
    write(Journals(journals.store, MAP_SHAPE, "another run"), row(0))
    write(journals, row(1), row(2, uri="/elsewhere.png"), row(7))
    assert predictions(journals) == {1: 1, 7: 7}
    assert list(journals.rows(0, SAMPLES[:3])) == [1]


def test_a_row_whose_picture_is_gone_does_not_count(journals):
    write(journals, row(0, overlay="s0_cfcam.png"), row(1, overlay="s1_cfcam.png"))
    (journals.store.out / "s1_cfcam.png").touch()
    assert predictions(journals) == {1: 1}


@pytest.mark.parametrize("failed_first", [True, False])
def test_of_several_writers_the_row_that_did_not_fail_counts(journals, failed_first):
    both = [row(0, status="error", pred=None), row(0, pred=5)]
    for one in both if failed_first else reversed(both):
        write(journals, one)
    assert predictions(journals) == {0: 5}


def test_what_a_full_disk_took_of_a_block_is_cut_off(journals, monkeypatch):
    path = write(journals, row(0))
    size = path.stat().st_size
    written: list[int] = []

    class Full:
        """A file on a disk that takes 100 more bytes."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, content: memoryview) -> int:
            if written:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written.append(self.file.write(content[:100]))
            return 100

    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda *arguments, **named: Full(opened(*arguments, **named)))
    writer = journals.writer()
    writer.name = path.stem.removeprefix("part-00000-")
    writer.add(0, [1], [row(1)])
    with pytest.raises(StoreError, match=r"cannot write .*\.rows: No space left on device; what is done"):
        writer.write()
    monkeypatch.undo()
    assert written == [100]
    assert path.stat().st_size == size
    assert predictions(journals) == {0: 0}


def test_quick_parts_are_not_written_ahead_and_slow_ones_after_a_second(journals, monkeypatch):
    now = 100.0
    monkeypatch.setattr(journal.time, "monotonic", lambda: now)
    writer = journals.writer()
    writer.add(0, [0], [row(0)])
    now += 0.9
    writer.tick()
    assert predictions(journals) == {}
    writer.forget(0)
    writer.add(1, [1], [row(1)])
    now += 0.9
    writer.add(1, [2], [row(2)])
    assert journals.parts() == set()
    now += 0.1
    writer.tick()
    assert predictions(journals, 1) == {1: 1, 2: 2}


def test_runs_in_one_folder_have_different_tokens(tmp_path):
    store = Store(tmp_path)
    store.write_run({"info": {"created": "2026-01-01T00:00:00"}})
    first = run_token(store)
    assert run_token(store) == first
    store.write_run({"info": {"created": "2026-01-01T00:00:01"}})
    assert run_token(store) != first
