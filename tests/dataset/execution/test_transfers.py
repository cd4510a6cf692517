"""Copies for which the host does not wait, and runs whose results are read one batch later.

A stand-in for a device does a copy no sooner than the host waits for it: what is read too early is garbage, and what is
written into a buffer too early arrives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cfcam_gpu.dataset import open_results
from cfcam_gpu.dataset.execution import batch_explainer
from cfcam_gpu.dataset.execution.transfers import Transfers
from cfcam_gpu.errors import CFCAMError
from tests.helpers.smallnet import Recorder, photo, rows, run, save


class Copy:
    """A copy that is done when the host first waits for it."""

    def __init__(self, device: LateDevice, name: str, source: Tensor, target: Tensor) -> None:
        self.device, self.name, self.source, self.target = device, name, source, target
        self.is_done = False

    def synchronize(self) -> None:
        if not self.is_done:
            self.device.record.append(f"end of {self.name}")
            self.is_done = True
            if self.name in self.device.fails:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.target.copy_(self.source)


class LateDevice:
    """`Copies` that records what is asked of it.

    Args:
        computes: whether the pixels are there at once, since a model is to read them.
        fails: names of the copies whose end is an error.
    """

    def __init__(self, *, computes: bool = False, fails: tuple[str, ...] = ()) -> None:
        self.computes, self.fails = computes, fails
        self.record: list[str] = []
        self.buffers: list[Tensor] = []

    def pinned(self, size: int) -> Tensor:
        self.buffers.append(torch.full((size,), 0xAB, dtype=torch.uint8))
        return self.buffers[-1]

    def upload(self, source: Tensor) -> tuple[Tensor, Copy]:
        target = source.clone() if self.computes else torch.zeros_like(source)
        return target, self._copy("upload", source, target)

    def download(self, source: Tensor, target: Tensor) -> Copy:
        target.fill_(0xAB)
        return self._copy("download", source, target)

    def _copy(self, kind: str, source: Tensor, target: Tensor) -> Copy:
        name = f"{kind} {sum(line.startswith(kind) for line in self.record)}"
        self.record.append(name)
        if kind == "upload" and self.computes:
            target = torch.empty_like(target)
        return Copy(self, name, source, target)


def arrays(value: int, count: int = 3) -> list[np.ndarray]:
    return [np.full((4, 5, 3), 10 * value + i, np.uint8) for i in range(count)]


def test_pixels_are_not_replaced_before_they_are_copied():
    device = LateDevice()
    transfers = Transfers(device)
    copies = [transfers.upload(arrays(i)) for i in range(5)]
    for _ in range(2):  # whatever is still under way
        copies.append(transfers.upload(arrays(9)))
    for i in range(5):
        torch.testing.assert_close(copies[i], torch.from_numpy(np.stack(arrays(i))))
    assert device.record[:3] == ["upload 0", "upload 1", "end of upload 0"]
    assert len(device.buffers) == 2


def test_a_larger_batch_gets_a_larger_buffer_after_the_copy_from_the_smaller_one():
    device = LateDevice()
    transfers = Transfers(device)
    small = transfers.upload(arrays(1, 2))
    transfers.upload(arrays(2, 2))
    transfers.upload(arrays(3, 7))
    assert device.record == ["upload 0", "upload 1", "end of upload 0", "upload 2"]
    torch.testing.assert_close(small, torch.from_numpy(np.stack(arrays(1, 2))))
    assert [len(buffer) for buffer in device.buffers] == [120, 120, 420]


def test_results_are_read_late_and_stay_when_the_buffer_is_used_again():
    transfers = Transfers(LateDevice())
    for count in (3, 1, 5):
        tensors = [
            {"grid": torch.rand(count, 2, 2), "blank": torch.arange(count) % 2 == 0, "n": torch.arange(count)}
            for _ in range(4)
        ]
        downloads = [transfers.download(tensors[0])]
        values = []
        for later in tensors[1:]:
            downloads.append(transfers.download(later))
            values.append(downloads.pop(0).values())
        values.append(downloads.pop().values())
        for columns, expected in zip(values, tensors, strict=True):
            for name, tensor in expected.items():
                torch.testing.assert_close(torch.from_numpy(columns[name]), tensor, rtol=0, atol=0)


def test_a_third_batch_is_refused_while_two_are_unread():
    transfers = Transfers(LateDevice())
    for _ in range(2):
        transfers.download({"n": torch.arange(3)})
    with pytest.raises(AssertionError, match="two batches are unread"):
        transfers.download({"n": torch.arange(3)})


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch):
    """A function that lets runs on the CPU use a late device."""

    def use(device: LateDevice) -> LateDevice:
        monkeypatch.setattr(batch_explainer, "transfers_of", lambda _device: Transfers(device))
        return device

    return use


def columns(out: Path) -> list[dict[str, Any]]:
    """The rows of a run with grids as lists."""
    return [
        {name: np.asarray(value).tolist() if name == "grid" else value for name, value in row.items()}
        for row in rows(out)
    ]


@pytest.mark.parametrize("settings", [{}, {"top_k": 2}], ids=["a class", "two classes"])
def test_a_run_reads_a_batch_while_the_next_one_is_under_way(mixed, tmp_path, late, settings):
    """Rows, their order, errors and the stored table are those of a run that reads at once."""
    save(mixed, **{f"g{i}": photo(i) for i in range(4)})
    run(mixed, tmp_path / "plain", batch_size=2, part_size=4, **settings)
    device = late(LateDevice(computes=True))
    run(mixed, tmp_path / "late", batch_size=2, part_size=4, **settings)
    assert open_results(tmp_path / "late").table().equals(open_results(tmp_path / "plain").table())
    order = [line for line in device.record if not line.startswith("end of upload")]
    expected = ["upload 0", "download 0"]
    for i in range(1, 5):
        expected += [f"upload {i}", f"download {i}", f"end of download {i - 1}"]
    assert order == [*expected, "end of download 4"]


def test_memory_that_is_short_when_a_batch_is_read_halves_that_batch(mixed, tmp_path, late, caplog):
    save(mixed, **{f"g{i}": photo(i) for i in range(4)})
    run(mixed, tmp_path / "plain", batch_size=4)
    device = late(LateDevice(computes=True, fails=("download 0",)))
    run(mixed, tmp_path / "late", batch_size=4)
    assert "out of memory with 3 images at once; going on with 1" in caplog.text
    assert "end of download 0" in device.record
    expected = columns(tmp_path / "plain")
    for row, other in zip(columns(tmp_path / "late"), expected, strict=True):
        assert (row["sample_id"], row["status"], row["message"]) == (
            other["sample_id"], other["status"], other["message"]
        )  # fmt: skip
        if row["status"] == "ok":
            assert row["prob"] == pytest.approx(other["prob"], abs=1e-6)
            np.testing.assert_allclose(row["grid"], other["grid"], atol=1e-6)


def test_one_image_that_does_not_fit_ends_the_run_and_the_batches_before_it_stay(tmp_path, late):
    folder = save(tmp_path / "in", **{f"p{i}": photo(i) for i in range(4)})
    late(LateDevice(computes=True, fails=("download 2",)))
    with pytest.raises(CFCAMError, match=r"out of memory with images \(1, 3, 32, 32\)"):
        run(folder, tmp_path / "out", batch_size=1, part_size=1)
    late(LateDevice(computes=True))
    assert run(folder, tmp_path / "out", batch_size=1, part_size=1).before == 2
    run(folder, tmp_path / "plain", batch_size=1, part_size=1)
    assert open_results(tmp_path / "out").table().equals(open_results(tmp_path / "plain").table())


def test_an_interrupted_run_goes_on_with_the_same_rows(mixed, tmp_path, late):
    save(mixed, **{f"g{i}": photo(i) for i in range(4)})
    late(LateDevice(computes=True))
    with pytest.raises(KeyboardInterrupt):
        run(mixed, tmp_path / "late", batch_size=2, part_size=2, observer=Recorder(after=5))
    summary = run(mixed, tmp_path / "late", batch_size=2, part_size=2)
    assert 0 < summary.before < 10
    run(mixed, tmp_path / "plain", batch_size=2, part_size=2)
    assert open_results(tmp_path / "late").table().equals(open_results(tmp_path / "plain").table())
