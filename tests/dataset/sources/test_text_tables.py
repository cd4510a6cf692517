"""Manifests as other programs write them: spreadsheets, old Macs, pandas, Windows, lists and JSON Lines."""

from __future__ import annotations

import os
import unicodedata
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cfcam_gpu.dataset import explain_dataset
from cfcam_gpu.dataset.sources.find import find_samples
from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.errors import ImageError, InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "b.png", "sub/c d.png"):
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    return tmp_path


def _listed(
    path: Path, content: str | bytes, path_column: str | None = None
) -> list[tuple[str, str | None, str | None]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    samples = find_samples([str(path)], path_column=path_column)
    assert [_opens(sample.uri) for sample in samples] == [True] * len(samples)
    return [(sample.sample_id, sample.label, sample.target) for sample in samples]


def _opens(uri: str) -> bool:
    try:
        return open_image(uri).size == (2, 2)
    except ImageError:
        return False


TWO = [("a.png", "1", None), ("b.png", "2", None)]


@pytest.mark.parametrize(
    "content",
    [
        "path,label\ra.png,1\rb.png,2\r",
        "path,label\ra.png,1\r\nb.png,2\n",
        "path,label\na.png,1\nb.png,2\n,\n,\n\n",
        "path,label\r\na.png,1\r\n;;\r\nb.png,2\r\n".replace(";;", ","),
        "sep=;\npath;label\na.png;1\nb.png;2\n",
        "sep=|\r\npath|label\r\na.png|1\r\nb.png|2\r\n",
        "\ufeffSEP=,\npath,label\na.png,1\nb.png,2\n",
        "path,label\na.png,1.0\nb.png,2.0\n",
        "path,label\na.png ,1\n b.png,2\n",
    ],
    ids=[
        "old Mac", "mixed line ends", "empty last rows", "empty row between", "sep", "sep, CRLF", "BOM and sep",
        "floats", "spaces around paths",
    ],
)  # fmt: skip
def test_csv_as_other_programs_write_it(folder: Path, content: str) -> None:
    listed = _listed(folder / "list.csv", content)
    assert [(sample_id.strip(), label, target) for sample_id, label, target in listed] == TWO


def test_classes_that_pandas_wrote_as_floats(folder: Path) -> None:
    content = "path,label,target\na.png,285.0,285.0\nb.png,,\n"
    assert _listed(folder / "pandas.csv", content) == [("a.png", "285", "285"), ("b.png", None, None)]


def test_names_that_only_look_like_floats_stay(folder: Path) -> None:
    content = "path,label\na.png,1.0\nb.png,1.5\n"
    assert _listed(folder / "versions.csv", content) == [("a.png", "1.0", None), ("b.png", "1.5", None)]


def test_the_line_of_a_mistake_behind_a_separator_hint(folder: Path) -> None:
    with pytest.raises(InputError, match=r", line 4: cells: 1, but the header has 2$"):
        _listed(folder / "list.csv", "sep=;\npath;label\na.png;1\nb.png\n")


@pytest.mark.parametrize("name", ["sub\\c d.png", ".\\sub\\c d.png", "sub\\c d.png "])
def test_backslashes_of_windows(folder: Path, name: str) -> None:
    assert _listed(folder / "list.csv", f"path\n{name}\n") == [(name, None, None)]


def test_a_file_that_has_the_odd_name_itself_comes_first(folder: Path) -> None:
    for name in ("sub\\c d.png", "a.png "):
        Image.new("RGB", (3, 3)).save(folder / name, "png")
        (folder / "list.csv").write_text(f"path\n{name}\n")
        (sample,) = find_samples([str(folder / "list.csv")])
        assert open_image(sample.uri).size == (3, 3)


@pytest.mark.parametrize(("on_disk", "written"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_composed_otherwise(folder: Path, on_disk: Any, written: Any) -> None:
    name = "Übung é.png"
    Image.new("RGB", (2, 2)).save(folder / unicodedata.normalize(on_disk, name))
    text = unicodedata.normalize(written, name)
    assert _listed(folder / "list.csv", f"path\n{text}\n") == [(text, None, None)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a.png\nb.png\n", [("a.png", None, None), ("b.png", None, None)]),
        ("\ufeffa.png 1\r\n\r\nb.png\t2\r\n", TWO),
        ("sub/c d.png\nsub/c d.png", None),
        ("sub/c d.png 7", [("sub/c d.png", "7", None)]),
    ],
)
def test_lists_of_paths(
    folder: Path, content: str, expected: list[tuple[str, str | None, str | None]] | None
) -> None:
    if expected is None:
        with pytest.raises(
            InputError, match=r", line 2: sample_id 'sub/c d\.png' was given in line 1 already; several"
        ):
            _listed(folder / "list.txt", content)
    else:
        assert _listed(folder / "list.txt", content) == expected


def test_a_text_that_lists_no_paths_is_an_image_that_fails(folder: Path) -> None:
    (folder / "notes.txt").write_text("these are notes\n")
    (sample,) = find_samples([str(folder / "notes.txt")])
    assert sample.uri == str(folder / "notes.txt")
    (folder / "scan").write_bytes((folder / "a.png").read_bytes())
    assert _listed(folder / "bare.txt", "scan\n") == [("scan", None, None)]


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson"])
def test_json_lines(folder: Path, suffix: str) -> None:
    content = '{"path": "a.png", "label": 1, "x": {}}\n\n{"Path": "b.png", "label": 2.0, "target": null}\n'
    assert _listed(folder / f"list.{suffix}", content) == TWO
    content = '{"path": "a.png", "label": ["edema", "mass"], "sample_id": 7}\n'
    assert _listed(folder / f"list.{suffix}", content) == [("7", "edema|mass", None)]


def test_lines_of_json_that_lack_a_path_or_hold_a_number_without_end_cost_one_sample(folder: Path) -> None:
    content = (
        f'{{"path": "a.png", "label": 1}}\n{{"label": 2}}\n{{"path": "b.png", "target": {"9" * 5000}}}\n'
    )
    (folder / "list.jsonl").write_text(content)
    listed = [
        (s.sample_id, s.label, s.target, _opens(s.uri)) for s in find_samples([str(folder / "list.jsonl")])
    ]
    assert listed == [
        ("a.png", "1", None, True),
        ("line 2", "2", None, False),
        ("b.png", None, "9" * 5000, True),
    ]


def test_a_line_of_json_with_a_column_in_two_spellings(folder: Path) -> None:
    (folder / "list.jsonl").write_text('{"path": "a.png"}\n{"path": "b.png", "Path": "c.png"}\n')
    with pytest.raises(InputError, match="has the column 'path' more than once"):
        find_samples([str(folder / "list.jsonl")])
    (folder / "list.jsonl").write_text('{"path": "a.png"}\n{"path": "b.png", "uri": "c.png"}\n')
    bad = find_samples([str(folder / "list.jsonl")])[1]
    with pytest.raises(ImageError, match="there are a path and a uri; leave one empty"):
        open_image(bad.uri)


def test_a_name_with_half_of_a_character(folder: Path) -> None:
    (folder / "list.jsonl").write_text('{"path": "\\ud800.png"}\n')
    (sample,) = find_samples([str(folder / "list.jsonl")])
    with pytest.raises(ImageError, match="no file can have this name: it contains a lone surrogate"):
        open_image(sample.uri)


def test_texts_and_numbers_of_databases_in_parquet(folder: Path) -> None:
    paths, labels = pa.array([b"a.png", b"b.png"], pa.binary()), pa.array([Decimal(3), Decimal("7.00")])
    pq.write_table(pa.table({"path": paths, "label": labels}), folder / "list.parquet")
    found = find_samples([str(folder / "list.parquet")])
    assert [(s.sample_id, s.label, _opens(s.uri)) for s in found] == [
        ("a.png", "3", True),
        ("b.png", "7", True),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"path": "a.png"}\n{"path"\n', ", line 2: no valid JSON: "),
        ('["a.png"]\n', ", line 1: expected a JSON object, got list"),
        ('{"file_name": "a.png"}\n', "needs one column 'path' or 'uri', it has only 'file_name'; --path-column"),
        ('{"path": 7}\n', ", line 1: the path must be text, got int"),
        ('{"path": "a.png", "label": {"x": 1}}\n', ", line 1: the label must be an index or a name, got dict"),
        ("[" * 100_000, ", line 1: no valid JSON: "),
    ],
)  # fmt: skip
def test_mistakes_in_json_lines(folder: Path, content: str, message: str) -> None:
    (folder / "list.jsonl").write_text(content)
    with pytest.raises(InputError) as caught:
        find_samples([str(folder / "list.jsonl")])
    assert message in str(caught.value)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_column_of_paths_may_have_another_name(folder: Path, suffix: str) -> None:
    path = folder / f"list.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"File_Name": ["a.png", "b.png"], "label": [1, 2], "path": ["x", "y"]}), path)
        found = find_samples([str(path)], path_column="file_name")
        assert [(s.sample_id, s.label, _opens(s.uri)) for s in found] == [
            ("a.png", "1", True),
            ("b.png", "2", True),
        ]
    elif suffix == "csv":
        content = "File_Name;label;path\na.png;1;x\nb.png;2;y\n"
        assert _listed(path, content, path_column="file_name") == TWO
    else:
        content = '{"file_name": "a.png", "label": 1}\n{"file_name": "b.png", "label": 2}\n'
        assert _listed(path, content, path_column="FILE_NAME") == TWO


def test_a_path_column_that_is_not_there(folder: Path) -> None:
    (folder / "list.csv").write_text("path,label\na.png,1\n")
    with pytest.raises(InputError, match=r"has no column 'file', only 'path', 'label'$"):
        find_samples([str(folder / "list.csv")], path_column="file")
    with pytest.raises(
        InputError, match=r"^the path column 'file' is for manifests, and none of the inputs is one$"
    ):
        find_samples([str(folder / "a.png")], path_column="file")


def test_one_cell_that_is_not_utf_8_costs_one_sample(folder: Path) -> None:
    binary = pa.array([b"a.png", b"caf\xe9.png"], pa.binary())
    array = pa.StringArray.from_buffers(2, binary.buffers()[1], binary.buffers()[2])
    labels = pa.array([b"\xff", b"1"], pa.binary())
    names = pa.StringArray.from_buffers(2, labels.buffers()[1], labels.buffers()[2])
    pq.write_table(pa.table({"path": array, "label": names}), folder / "list.parquet")
    found = find_samples([str(folder / "list.parquet")])
    assert [(s.sample_id, s.label, _opens(s.uri)) for s in found] == [
        ("a.png", "\\xff", True),
        ("caf\\xe9.png", "1", False),
    ]
    Image.new("RGB", (2, 2)).save(folder / os.fsdecode(b"caf\xe9.png"), "png")
    assert _opens(find_samples([str(folder / "list.parquet")])[1].uri)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_pipe_as_a_manifest_does_not_hang(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"list.{suffix}")
    with pytest.raises(InputError, match=r"is not a regular file; give a file on disk$"):
        find_samples([str(tmp_path / f"list.{suffix}")])


@pytest.mark.parametrize("inputs", [[3], [None], [["a.png"]], 7 * [b"/"]])
def test_inputs_that_are_no_paths(tmp_path: Path, inputs: list[object]) -> None:
    with pytest.raises(
        InputError, match=r"^item 0 of the list: (expected a path, a sample or an image|the item names)"
    ):
        explain_dataset(inputs, tmp_path / "out")


def test_a_single_path_is_not_taken_letter_by_letter(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^input '/no/such/folder' does not exist"):
        explain_dataset("/no/such/folder", tmp_path / "out", device="cpu")


@pytest.mark.parametrize("cell", ["\\", "\\etc", " \\"])
def test_a_backslash_at_the_beginning_is_not_the_root(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f'path,sample_id\n"{cell}",a\n')
    (sample,) = find_samples([str(path)])
    assert Path(sample.uri).is_relative_to(tmp_path)
