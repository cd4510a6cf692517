"""Data sets that save_to_disk wrote, read without the `datasets` library, and checked against it where it is there."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from cfcam_gpu.dataset.sources.find import find_samples
from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.dataset.sources.sample import Sample, make_uri
from cfcam_gpu.errors import ImageError, InputError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3), (value,) * 3).save(buffer, "png")
    return buffer.getvalue()


def _save(
    folder: Path,
    columns: dict[str, Any],
    features: dict[str, Any] = FEATURES,
    files: int = 1,
    names: list[str] | None = None,
) -> Path:
    """The layout of save_to_disk: record batches of two rows, the rows spread over the files."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    names = names or [f"data-{i:05d}-of-{files:05d}.arrow" for i in range(files)]
    step = -(-table.num_rows // files) or 1
    for i, name in enumerate(names):
        with (
            pa.OSFile(str(folder / Path(name).name), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as out,
        ):
            out.write_table(table.slice(i * step, step), max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder


def _images(values: list[int], paths: list[str | None] | None = None) -> pa.Array:
    paths = paths or [None] * len(values)
    return pa.array([{"bytes": png(v), "path": p} for v, p in zip(values, paths, strict=True)], IMAGE)


def _value(sample: Sample) -> int:
    return int(np.asarray(open_image(sample.uri))[0, 0, 0])


def test_names_labels_and_images_over_several_files(tmp_path: Path) -> None:
    columns = {
        "label": [0, 1, -1, None, 1],
        "image": _images([1, 2, 3, 4, 5], ["a.png", "sub/b.jpg", "c d#1.png", "../e.png", "é"]),
    }
    samples = find_samples([str(_save(tmp_path / "my #1 set", columns, files=2))])
    assert [(s.sample_id, s.label, s.name, _value(s)) for s in samples] == [
        ("a.png", "cat", "a", 1),
        ("sub/b.jpg", "dog", "sub/b", 2),
        ("c d#1.png", None, "c d#1", 3),
        ("../e.png", None, "e", 4),
        ("é", "dog", "é", 5),
    ]


def test_id_column_names_the_rows(tmp_path: Path) -> None:
    features = {**FEATURES, "image_id": {"_type": "Value", "dtype": "int64"}}
    columns = {"image": _images([1, 2], ["a.png", "b.png"]), "label": [0, 1], "image_id": [900, 7]}
    assert [s.sample_id for s in find_samples([str(_save(tmp_path / "x", columns, features))])] == [
        "900",
        "7",
    ]


@pytest.mark.parametrize(
    "paths", [[None] * 4, ["a.png", "b.png", "a.png", "c.png"], ["a.png", "b.png", "c.png", ""]]
)
def test_content_names_the_rows_where_names_do_not(tmp_path: Path, paths: list[str | None]) -> None:
    """The same id wherever a row stands, so that it is no row number."""
    first = find_samples(
        [str(_save(tmp_path / "x", {"image": _images([1, 2, 3, 1], paths), "label": [0] * 4}))]
    )
    again = find_samples([str(_save(tmp_path / "y", {"image": _images([1, 3, 1, 2]), "label": [0] * 4}))])
    ids = [s.sample_id for s in first]
    assert sorted(ids) == sorted(s.sample_id for s in again)
    assert ids[3] == f"{ids[0]}-2"
    assert {s.sample_id: _value(s) for s in first} == {s.sample_id: _value(s) for s in again}


def test_splits_stand_before_the_ids(tmp_path: Path) -> None:
    for split, value in (("train", 1), ("test", 2)):
        _save(tmp_path / "x" / split, {"image": _images([value], ["a.png"]), "label": [0]})
    (tmp_path / "x" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    samples = find_samples([str(tmp_path / "x")])
    assert [(s.sample_id, _value(s)) for s in samples] == [("train/a.png", 1), ("test/a.png", 2)]


def test_two_data_sets_with_equal_names(tmp_path: Path) -> None:
    folders = [str(_save(tmp_path / n, {"image": _images([1], ["a.png"]), "label": [0]})) for n in "xy"]
    assert [s.sample_id for s in find_samples(folders)] == [f"{folders[0]}#a.png", f"{folders[1]}#a.png"]


@pytest.mark.parametrize(
    ("features", "columns", "label"),
    [
        ({"img": {"_type": "Image"}, "labels": {"_type": "Value"}}, {"labels": ["a cat"]}, "a cat"),
        ({"img": {"_type": "Image"}, "label": {"_type": "Value"}}, {"label": [5]}, "5"),
        (
            {"img": {"_type": "Image"}, "kind": {"_type": "ClassLabel", "names": ["x", "y"]}},
            {"kind": [1]},
            "y",
        ),
        ({"img": {"_type": "Image"}, "kind": {"_type": "ClassLabel", "names": ["x"]}}, {"kind": [3]}, "3"),
        ({"img": {"_type": "Image"}}, {}, None),
    ],
)
def test_columns_of_other_names(
    tmp_path: Path, features: dict[str, Any], columns: dict[str, Any], label: str | None
) -> None:
    (sample,) = find_samples([str(_save(tmp_path / "x", {"img": _images([4]), **columns}, features))])
    assert (sample.label, _value(sample)) == (label, 4)


def test_image_that_is_not_in_the_data_set_is_never_opened_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(9))
    image = pa.array([{"bytes": None, "path": str(tmp_path / "secret.png")}, None], IMAGE)
    samples = find_samples([str(_save(tmp_path / "x", {"image": image, "label": [0, 1]}))])
    for sample in samples:
        with pytest.raises(ImageError, match=r"^the data set does not hold the image itself; save it again"):
            open_image(sample.uri)


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/passwd", "a/../../b.arrow", "..\\b"])
def test_files_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    folder = _save(tmp_path / "x", {"image": _images([1]), "label": [0]})
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    message = f"data set {str(folder)!r} names the file {name!r}, which lies outside of it"
    with pytest.raises(InputError) as caught:
        find_samples([str(folder)])
    assert str(caught.value) == message
    with pytest.raises(ImageError) as refused:
        open_image(make_uri("hf", str(folder), name, "image", "0"))
    assert str(refused.value) == message


def test_split_outside_the_folder_is_refused(tmp_path: Path) -> None:
    _save(tmp_path / "y", {"image": _images([1]), "label": [0]})
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "dataset_dict.json").write_text('{"splits": ["../y"]}')
    with pytest.raises(InputError, match=r"which lies outside of it$"):
        find_samples([str(tmp_path / "x")])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("state.json", "{", "state.json' is no valid JSON: "),
        ("state.json", "[]", "state.json' must hold a JSON object, got list"),
        ("state.json", "{}", "state.json' must list the data files"),
        (
            "state.json",
            '{"_data_files": [], "_indices_data_files": [{"filename": "i"}]}',
            "holds a selection by indices; save it again with save_to_disk",
        ),
        ("state.json", '{"_data_files": []}', "holds no rows"),
        ("state.json", '{"_data_files": [{"filename": "gone.arrow"}]}', "gone.arrow' cannot be read: "),
        ("dataset_info.json", "{}", "needs a column of the type Image, it has nothing"),
        (
            "dataset_info.json",
            '{"features": {"label": {"_type": "Value"}}}',
            "needs a column of the type Image, it has label (Value)",
        ),
        ("dataset_info.json", '{"features": {"photo": {"_type": "Image"}}}', "has no column photo.path"),
        ("data-00000-of-00001.arrow", "no arrow", "data-00000-of-00001.arrow' cannot be read: "),
        ("data-00000-of-00001.arrow", "", "data-00000-of-00001.arrow' cannot be read: "),
    ],
)
def test_damaged_data_sets_are_told(tmp_path: Path, file: str, content: str, message: str) -> None:
    folder = _save(tmp_path / "x", {"image": _images([1]), "label": [0]})
    (folder / file).write_text(content)
    with pytest.raises(InputError) as caught:
        find_samples([str(folder)])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("column", "row"), [("image", "7"), ("image", "x"), ("gone", "0")])
def test_cells_that_are_not_there(tmp_path: Path, column: str, row: str) -> None:
    folder = _save(tmp_path / "x", {"image": _images([1]), "label": [0]})
    with pytest.raises(ImageError) as caught:
        open_image(make_uri("hf", str(folder), "data-00000-of-00001.arrow", column, row))
    assert str(caught.value) == f"the data file has no row {row} or no column {column!r}"


def test_what_the_datasets_library_writes(tmp_path: Path) -> None:
    """In a process of its own, for the library is slow to import and changes settings."""
    pytest.importorskip("datasets", reason="the library that writes such data sets is not installed")
    code = f"""
import datasets, numpy as np
from PIL import Image
datasets.disable_progress_bars()
features = datasets.Features({{"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}})
images = [Image.fromarray(np.full((4, 4, 3), i, np.uint8)) for i in (1, 2, 3)]
images[0].save({str(tmp_path / "first.png")!r})
rows = {{"image": [{str(tmp_path / "first.png")!r}, *images[1:]], "label": [0, 1, -1]}}
data = datasets.Dataset.from_dict(rows, features=features)
data.save_to_disk({str(tmp_path / "one")!r}, num_shards=2)
datasets.DatasetDict({{"train": data, "test": data.select([2, 0])}}).save_to_disk({str(tmp_path / "two")!r})
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    one, two = (find_samples([str(tmp_path / name)]) for name in ("one", "two"))
    assert [(s.label, _value(s)) for s in one] == [("cat", 1), ("dog", 2), (None, 3)]
    assert [(s.sample_id.split("/")[0], s.label, _value(s)) for s in two] == [
        *(("train", "cat", 1), ("train", "dog", 2), ("train", None, 3)),
        *(("test", None, 3), ("test", "cat", 1)),
    ]
    assert {s.sample_id.split("/")[1] for s in two} == {s.sample_id for s in one}


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json", "data.arrow"])
def test_a_pipe_in_the_place_of_a_file_does_not_hang(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "set"
    (folder / "train").mkdir(parents=True)
    (folder / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (folder / "train/dataset_info.json").write_text('{"features": {"image": {"_type": "Image"}}}')
    (folder / "train/state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    (folder / "train" / name).unlink(missing_ok=True)
    os.mkfifo(folder / "train" / name)
    with pytest.raises(InputError, match=r"cannot be read: .*not a regular file"):
        find_samples([str(folder)])
