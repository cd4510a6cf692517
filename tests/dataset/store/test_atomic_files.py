"""A file that has its name is whole."""

from __future__ import annotations

import pytest

from cfcam_gpu.dataset.store.atomic_files import atomic_file, write_atomically


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "deep/file"
    write_atomically(path, b"first")
    with pytest.raises(TypeError), atomic_file(path) as file:
        file.writelines([b"half", None])  # type: ignore[list-item]
    assert path.read_bytes() == b"first"
    assert [p.name for p in path.parent.iterdir()] == ["file"]
