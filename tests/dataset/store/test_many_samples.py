"""Plans of many samples: made and compared without holding the samples in memory, with the answers of small ones."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.listing import Generated, Objects
from cfcam_gpu.dataset import open_results
from cfcam_gpu.dataset.sources import columns, spool
from cfcam_gpu.dataset.sources.columns import Columns, ColumnSource, cut, pieces_of
from cfcam_gpu.dataset.sources.masks import with_masks
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.resume import _new_samples, _order
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.errors import InputError, StoreError
from tests.helpers.smallnet import Recorder, photo, run, save

COUNT = 40_000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("many"))
    store.write_plan(Generated(COUNT), 1024)
    return store


def new_samples(store: Store, samples: list[Sample] | Generated) -> tuple[list[Sample], list[str]]:
    """The samples that are new, and the notes."""
    recorder = Recorder()
    return _new_samples(store, store.read_plan(), samples, recorder), recorder.notes


def changed(change: Callable[[list[Sample]], object]) -> list[Sample]:
    samples = list(Generated(COUNT))
    change(samples)
    return samples


def test_the_samples_of_the_plan_are_not_new_in_any_order(store):
    assert new_samples(store, Generated(COUNT)) == ([], [])
    assert new_samples(store, Generated(COUNT, 7)) == ([], [])
    assert new_samples(store, changed(random.Random(0).shuffle)) == ([], [])


class Uneven(ColumnSource):
    """The samples of another source in pieces of all lengths."""

    def __init__(self, samples: Generated) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def pieces(self, *names: str) -> Iterator[Columns]:
        draw = random.Random(0)
        for piece in self.samples.pieces(*names):
            rest = piece[names[0]]
            start = 0
            while start < len(rest):
                end = start + draw.choice((1, 300, 5000, 16_384))
                yield {name: values[start:end] for name, values in piece.items()}
                start = end


@pytest.mark.parametrize("source", [Objects, Uneven, list])
def test_columns_and_objects_make_the_same_plan(store, tmp_path, source):
    other = Store(tmp_path)
    other.write_plan(source(Generated(COUNT)), 1024)
    assert other.plan_file.read_bytes() == store.plan_file.read_bytes()
    assert new_samples(store, source(Generated(COUNT))) == ([], [])
    new, _ = new_samples(store, source(Generated(COUNT + 2, 7)))
    assert [sample.sample_id for sample in new] == [
        sample.sample_id for sample in Generated(COUNT + 2, 7) if int(sample.name.split("_")[1]) >= COUNT
    ]


class Wrong(ColumnSource):
    """Three samples, of a source that says it has `said`, in columns of which one may be too short."""

    def __init__(self, said: int = 3, names: int = 3) -> None:
        self.said, self.names = said, names

    def __len__(self) -> int:
        return self.said

    def pieces(self, *names: str) -> Iterator[Columns]:
        values: list[str | None] = ["a", "b", "c"]
        yield {name: values[: self.names] if name == "name" else values for name in names}


@pytest.mark.parametrize("source", [Wrong(said=2), Wrong(said=4), Wrong(names=2), Wrong(names=0)])
def test_no_sample_of_a_source_that_does_not_fit_together_is_left_out(tmp_path, source):
    store = Store(tmp_path)
    with pytest.raises(InputError, match=r"the length [24], and gave 3|equally long, got .*name: [02]"):
        store.write_plan(source, 2)
    assert not store.plan_file.exists()


class Alive(Sample):
    """A sample that counts how many there are at once."""

    now = most = 0

    def __init__(self, *values: Any, **more: Any) -> None:
        super().__init__(*values, **more)
        Alive.now += 1
        Alive.most = max(Alive.most, Alive.now)

    def __del__(self) -> None:
        Alive.now -= 1


@pytest.mark.parametrize("names", [("uri",), ("sample_id", "uri")])
def test_samples_are_not_held_while_their_texts_are_taken(names):
    """Thousands of them at once would cost more time in the garbage collector than all else."""
    samples = (Alive(f"{i}", f"/{i}.png") for i in range(1000))
    (piece,) = pieces_of(samples, *names)
    assert piece == {name: [f"/{i}.png" if name == "uri" else f"{i}" for i in range(1000)] for name in names}
    assert (Alive.most <= 2, Alive.now) == (True, 0)


@pytest.mark.parametrize("source", [list, tuple, set])
def test_a_value_that_is_no_text_is_named(tmp_path, source):
    with pytest.raises(InputError, match=r"uri of a sample must be text, got PosixPath; give str\(…\)"):
        run(source([Sample("a", Path("/a.png"), name="a")]), tmp_path / "out")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="sample_id of a sample must be text, got int"):
        run(source([Sample(5, "/a.png", name="a")]), tmp_path / "out")  # type: ignore[arg-type]


def test_a_source_iterates_over_whole_samples_only():
    with pytest.raises(InputError, match="equally long"):
        list(Wrong(names=2))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_rows_are_cut_without_losing_any(count):
    lengths = [0, 1, 5, 0, 2, 9]
    values = [str(i) for i in range(sum(lengths))]
    rest = iter(values)
    pieces = [{"uri": [next(rest) for _ in range(length)]} for length in lengths]
    wanted = [values[i : i + count] for i in range(0, len(values), count)]
    assert [piece["uri"] for piece in cut(pieces, count)] == wanted


def test_new_and_missing_samples_are_found(store):
    extra = [Sample("x.png", "/x.png", name="x"), Sample("y.png", "/y.png", name="n00000000/N00000000_5")]
    samples = changed(lambda samples: samples.__setitem__(slice(100, 105), extra))
    new, notes = new_samples(store, samples)
    assert [(sample.sample_id, sample.name) for sample in new] == [
        ("x.png", "x"),
        ("y.png", "n00000000/N00000000_5-2"),
    ]
    assert notes == ["5 planned samples are no longer among the inputs; the run keeps it"]


@pytest.mark.parametrize("position", [0, COUNT // 2, COUNT - 1])
def test_a_sample_in_another_place_is_named(store, position):
    moved = replace(list(Generated(COUNT))[position], uri="/elsewhere")
    samples = changed(lambda samples: samples.__setitem__(position, moved))
    with pytest.raises(StoreError, match=rf"sample '{moved.sample_id}' is /data/.*, now it is /elsewhere"):
        new_samples(store, samples)


def test_memory_does_not_grow_with_the_samples(tmp_path):
    def peak(count: int, step: int) -> int:
        store = Store(tmp_path / f"{count}")
        store.make_folder()
        tracemalloc.start()
        store.write_plan(Generated(count), 1024)
        new_samples(store, Generated(count, step))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(160_000, 1) <= 1.1 * peak(40_000, 1)
    assert peak(160_000, 7) - peak(40_000, 7) <= 24 * 120_000  # hashes; 1.25 kB with the samples


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_hashes_are_ordered_as_by_argsort(count):
    ids = np.random.default_rng(0).integers(-(2**63), 2**63, count, np.int64)
    ids[: count // 4] = np.arange(count // 4) - 100
    ids[-2:] = [-(2**63), 2**63 - 1][:count]
    assert ids[_order(ids)].tolist() == sorted(ids.tolist())
    assert sorted(_order(ids).tolist()) == list(range(count))


def test_samples_with_the_masks_of_a_folder_are_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "AT_ONCE", 500)
    monkeypatch.setattr(columns, "AT_ONCE", 500)
    monkeypatch.setattr("bench.listing.AT_ONCE", 500)

    def peak(count: int) -> int:
        tracemalloc.start()
        assert len(with_masks(Generated(count), tmp_path)) == count
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(2_000)  # modules are imported
    assert peak(8_000) - peak(2_000) < 100 * 6_000


class Pictures:
    """A source of samples that makes them as they are asked for, and counts how often."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count, self.made = folder, count, 0

    def __len__(self) -> int:
        return self.count

    def __contains__(self, sample: object) -> bool:
        return sample in list(self)

    def __iter__(self) -> Iterator[Sample]:
        for i in range(self.count):
            self.made += 1
            yield Sample(f"s{i}", str(self.folder / "a.png"), name=f"s{i}")


def test_a_run_takes_samples_from_a_source_and_resumes(tmp_path):
    folder, out = save(tmp_path / "in", a=photo(1)), tmp_path / "out"
    source = Pictures(folder, 5)
    assert run(source, out, part_size=2).now == 5
    summary = run(Pictures(folder, 7), out)
    assert (summary.before, summary.now) == (5, 2)
    assert [row["sample_id"] for row in open_results(out).rows()] == [f"s{i}" for i in range(7)]
