"""Data sets of Hugging Face in their other forms: Parquet of the Hub, several labels, caches, damaged and odd files."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cfcam_gpu.dataset.sources.find import find_samples
from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.errors import ImageError, InputError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ["cat", "dog", "cow"]


def _png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3), (value,) * 3).save(buffer, "png")
    return buffer.getvalue()


def _images(count: int, paths: list[str | None] | None = None) -> pa.Array:
    paths = paths or [f"{i}.png" for i in range(count)]
    return pa.array([{"bytes": _png(i), "path": path} for i, path in enumerate(paths)], IMAGE)


def _with_features(table: pa.Table, features: dict[str, Any]) -> pa.Table:
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _value(sample: Sample) -> int:
    return int(open_image(sample.uri).getpixel((0, 0))[0])  # type: ignore[index]


CLASSED = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": NAMES}}


def test_a_parquet_file_of_the_hub(tmp_path: Path) -> None:
    table = _with_features(pa.table({"image": _images(5), "label": [0, 1, 2, -1, None]}), CLASSED)
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet", row_group_size=2)
    samples = find_samples([str(tmp_path / "train-00000-of-00001.parquet")])
    assert [s.sample_id for s in samples] == [f"train-00000-of-00001/{i}.png" for i in range(5)]
    assert [s.label for s in samples] == ["cat", "dog", "cow", None, None]
    assert [_value(s) for s in samples] == [0, 1, 2, 3, 4]
    assert [s.sample_id for s in find_samples([str(tmp_path)])] == [s.sample_id for s in samples]


def test_a_parquet_file_of_the_hub_without_features_and_paths(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": _images(3, [None] * 3), "label": [7, 8, 9]}), tmp_path / "x.parquet")
    samples = find_samples([str(tmp_path / "x.parquet")])
    assert [(s.label, _value(s)) for s in samples] == [("7", 0), ("8", 1), ("9", 2)]
    assert len({s.sample_id for s in samples}) == 3


@pytest.mark.parametrize(
    "feature",
    [
        {"_type": "Sequence", "feature": CLASSED["label"]},
        {"_type": "List", "feature": CLASSED["label"]},
        [CLASSED["label"]],
    ],
)
def test_several_labels_of_an_image_are_kept(tmp_path: Path, feature: Any) -> None:
    features = {"image": {"_type": "Image"}, "findings": feature}
    table = pa.table({"image": _images(3), "findings": [[0, 2], [], [1]]})
    pq.write_table(_with_features(table, features), tmp_path / "x.parquet")
    assert [s.label for s in find_samples([str(tmp_path / "x.parquet")])] == ["cat|cow", None, "dog"]
    _save(tmp_path / "saved", table, features)
    assert [s.label for s in find_samples([str(tmp_path / "saved")])] == ["cat|cow", None, "dog"]


def test_lists_of_names_as_labels(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": _images(2), "labels": [["a", "b"], ["c"]]}), tmp_path / "x.parquet")
    assert [s.label for s in find_samples([str(tmp_path / "x.parquet")])] == ["a|b", "c"]


def _save(folder: Path, table: pa.Table, features: Any) -> None:
    folder.mkdir()
    with pa.OSFile(str(folder / "data.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


def test_a_parquet_manifest_is_still_one(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png(5))
    pq.write_table(pa.table({"path": ["a.png"], "label": [1]}), tmp_path / "x.parquet")
    (sample,) = find_samples([str(tmp_path / "x.parquet")])
    assert (sample.sample_id, sample.label, _value(sample)) == ("a.png", "1", 5)


def test_a_folder_of_the_cache_is_said_to_be_one(tmp_path: Path) -> None:
    _save(tmp_path / "x", pa.table({"image": _images(1)}), CLASSED)
    (tmp_path / "x" / "state.json").unlink()
    with pytest.raises(
        InputError, match=r"is of the cache of Hugging Face's datasets; load the data set and write it"
    ):
        find_samples([str(tmp_path / "x")])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.json", {"_data_files": [{"filename": 7}]}),
        ("state.json", {"_data_files": [7]}),
        ("state.json", {"_data_files": {"filename": "x"}}),
        ("state.json", {"_data_files": None}),
        ("state.json", {"_data_files": [{"filename": ["x"]}]}),
        ("dataset_info.json", {"features": {"image": {"_type": ["Image"]}}}),
        ("dataset_info.json", {"features": {"image": "Image"}}),
        ("dataset_info.json", {"features": 7}),
        ("dataset_info.json", {"features": {"image": None}}),
    ],
)
def test_wrong_types_in_the_files_beside_the_data(tmp_path: Path, name: str, content: Any) -> None:
    _save(tmp_path / "x", pa.table({"image": _images(1), "label": [0]}), CLASSED)
    (tmp_path / "x" / name).write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"must list the data files|needs a column of the type Image"):
        find_samples([str(tmp_path / "x")])


@pytest.mark.parametrize("names", [7, "cat", {"0": "cat"}, None])
def test_class_names_of_a_wrong_type_leave_the_indices(tmp_path: Path, names: Any) -> None:
    features = {**CLASSED, "label": {"_type": "ClassLabel", "names": names}}
    _save(tmp_path / "x", pa.table({"image": _images(1), "label": [2]}), features)
    assert [s.label for s in find_samples([str(tmp_path / "x")])] == ["2"]


def test_a_damaged_parquet_file_costs_one_sample_in_a_folder(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": _images(50), "label": [0] * 50}), tmp_path / "x.parquet")
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    content[4:2000] = b"\xff" * 1996
    (tmp_path / "x.parquet").write_bytes(content)
    (tmp_path / "a.png").write_bytes(_png(5))
    found = {s.sample_id: s for s in find_samples([str(tmp_path)])}
    assert _value(found.pop("a.png")) == 5
    for sample in found.values():
        with pytest.raises(ImageError):
            open_image(sample.uri)
    assert found


_FUZZ = """
import random, sys
from pathlib import Path
from cfcam_gpu.dataset.sources.find import find_samples
from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.dataset.sources.huggingface import _opened
from cfcam_gpu.errors import ImageError, InputError
folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
whole = (folder / "data.arrow").read_bytes()
generator = random.Random(0)
for _ in range(rounds):
    damaged = bytearray(whole)
    for _ in range(generator.choice([1, 1, 2, 4])):
        damaged[generator.randrange(len(damaged))] = generator.choice([0, 255, 127, 128, generator.randrange(256)])
    (folder / "data.arrow").write_bytes(damaged[: len(damaged) - generator.choice([0, 0, 0, generator.randrange(400)])])
    _opened.cache_clear()
    try:
        for sample in find_samples([str(folder)]):
            try:
                open_image(sample.uri)
            except ImageError:
                pass
    except InputError:
        pass
print("alive")
"""


def test_damaged_arrow_files_never_end_the_process(tmp_path: Path) -> None:
    table = pa.table({"image": _images(12), "label": [0, 1, 2] * 4})
    _save(tmp_path / "x", table, CLASSED)
    run = subprocess.run(
        [sys.executable, "-c", _FUZZ, str(tmp_path / "x"), "250"], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (0, "alive\n"), run.stderr


@pytest.mark.parametrize("kind", ["images", "manifest"])
def test_a_damaged_column_never_loses_rows(tmp_path: Path, kind: str) -> None:
    """Its pages may say that they hold fewer rows than the file has: every byte of the last pages becomes others."""
    table = {"image": _images(6)} if kind == "images" else {"path": [f"{i}.png" for i in range(6)]}
    buffer = io.BytesIO()
    pq.write_table(pa.table(table), buffer, row_group_size=2)
    content = buffer.getvalue()
    metadata = pq.ParquetFile(buffer).metadata
    column = metadata.row_group(metadata.num_row_groups - 1).column(metadata.num_columns - 1)
    path, refused = tmp_path / "set.parquet", 0
    for position in range(column.data_page_offset, column.data_page_offset + 60):
        for value in (0, 2, 8):
            path.write_bytes(content[:position] + bytes([value]) + content[position + 1 :])
            try:
                assert len(find_samples([str(path)])) == 6
            except InputError as error:
                refused += "of 6 rows" in str(error)
    assert refused > 0
