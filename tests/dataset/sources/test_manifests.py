"""Manifests: every row becomes a sample, every mistake an error with its line, no path leaves the folder."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cfcam_gpu.dataset.sources import columns, manifest_paths, manifests, spool
from cfcam_gpu.dataset.sources.find import find_samples, listed_samples
from cfcam_gpu.dataset.sources.manifest_paths import resolve_path
from cfcam_gpu.dataset.sources.manifests import manifest_samples
from cfcam_gpu.dataset.sources.names import image_stem, is_plain, names_of_id, safe_name
from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.dataset.sources.sample import Sample, clean_text, path_uri
from cfcam_gpu.errors import ImageError, InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two images."""
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b c.png"):
        Image.new("RGB", (2, 2), (7, 7, 7)).save(tmp_path / name)
    return tmp_path


def _write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _rows(samples: list[Sample]) -> list[tuple[str, str | None, str | None, str]]:
    return [(s.sample_id, s.label, s.target, s.name) for s in samples]


@pytest.mark.parametrize(
    "content",
    [
        "path,label,target,note\na.png,cat,3,x\nsub/b c.png,,,\n",
        "\ufeffpath;label;target;note\r\na.png;cat;3;x\r\nsub/b c.png;;;\r\n",
        "label\tPath\ttarget\ncat\ta.png\t3\n\n\tsub/b c.png\t\n\n",
        'note, path, label, target\n"x, y\nz", a.png, cat , 3\n"", ./sub/b c.png, ,\n',
    ],
    ids=["commas", "semicolons, BOM, CRLF", "tabs, blank lines", "quotes, spaces, line break in a cell"],
)
def test_csv_in_its_usual_forms(folder: Path, content: str) -> None:
    samples = find_samples([str(_write(folder / "list.csv", content))])
    assert _rows(samples) == [("a.png", "cat", "3", "a"), ("sub/b c.png", None, None, "sub/b c")]
    assert [sample.uri for sample in samples] == [str(folder / "a.png"), str(folder / "sub/b c.png")]
    assert [open_image(sample.uri).size for sample in samples] == [(2, 2)] * 2


@pytest.mark.parametrize("batch", [1, 1000])
def test_parquet(folder: Path, batch: int) -> None:
    table = pa.table(
        {
            "path": pa.array(["a.png", "sub/b c.png"]).dictionary_encode(),
            "label": pa.array([3.0, None]),  # what pandas makes of whole numbers with one missing
            "target": pa.array([1, None], pa.int8()),
            "sample_id": pa.array([17, 18]),
            "note": pa.array([{"x": 1}, None]),
        }
    )
    pq.write_table(table, folder / "list.parquet", row_group_size=batch)
    assert _rows(find_samples([str(folder / "list.parquet")])) == [
        ("17", "3", "1", "17"),
        ("18", None, None, "18"),
    ]


def test_one_image_with_two_targets(folder: Path) -> None:
    path = _write(folder / "list.csv", "path,sample_id,target\na.png,a/1,cat\na.png,a/2,dog\n")
    assert _rows(find_samples([str(path)])) == [("a/1", None, "cat", "a/1"), ("a/2", None, "dog", "a/2")]


def test_missing_files_are_left_to_the_decoder(folder: Path) -> None:
    (sample,) = find_samples([str(_write(folder / "list.csv", "path\ngone.png\n"))])
    with pytest.raises(ImageError, match=r"^the file does not exist$"):
        open_image(sample.uri)


def test_absolute_paths_and_uris(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "x #1.png"
    Image.new("RGB", (3, 3)).save(elsewhere)
    for cell in (str(elsewhere), "file://" + str(elsewhere).replace(" ", "%20").replace("#", "%23")):
        (sample,) = find_samples([str(_write(folder / "list.csv", f"uri\n{cell}\n"))])
        assert open_image(sample.uri).size == (3, 3)
    (sample,) = find_samples([str(_write(folder / "list.csv", f"path\n{elsewhere}\n"))])
    assert open_image(sample.uri).size == (3, 3)
    assert not sample.name.startswith("/")


def test_paths_that_read_like_uris_are_paths(folder: Path) -> None:
    Image.new("RGB", (5, 5)).save(folder / "tar:x#y.png")
    (sample,) = find_samples([str(_write(folder / "list.csv", "path\ntar:x#y.png\n"))])
    assert open_image(sample.uri).size == (5, 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "needs one column 'path' or 'uri', it has only nothing"),
        ("file,label\na.png,1\n", "needs one column 'path' or 'uri', it has only 'file', 'label'"),
        ("path,uri\na,b\n", "needs one column 'path' or 'uri', it has both"),
        ("path,Path\na,b\n", "has the column 'path' more than once"),
        ("path,label\n", "holds no rows"),
        ("path,label\n,1\n,2\n", ", line 2: the path is empty"),
        ("path,label\na.png,1\na.png,2\n", ", line 3: sample_id 'a.png' was given in line 2 already"),
        ("path,label\na.png,1\n\n./a.png,2\n", ", line 4: sample_id 'a.png' was given in line 2 already"),
        ("path,sample_id\na.png,x\nb.png,x\n", ", line 3: sample_id 'x' was given in line 2 already"),
        (
            "path\na.png\na.png\n",
            "already; several rows for one image need a column sample_id that tells them apart",
        ),
        ("path,label\ra.png,1\rb.png\r", ", line 3: cells: 1, but the header has 2"),
        ("file,label\na.png,1\n", "; --path-column names another"),
        ('path,label\n"a\nb.png",1\nc.png\n', ", line 4: cells: 1, but the header has 2"),
        ("path,label\na.png,1,2\n", ", line 2: cells: 3, but the header has 2"),
        ('path\na.png\n"b.png\nc.png\n', ", line 3: no valid CSV: unexpected end of data"),
        (b"path\na.png\ncaf\xe9.png\n", ", line 3: not UTF-8; save the manifest as UTF-8"),
        ("path\na.png\n".encode("utf-16"), ", line 1: not UTF-8; save the manifest as UTF-8"),
        (
            "path\n../a.png\n",
            ", line 2: path '../a.png' leaves the manifest's folder by '..'; write an absolute path or put the "
            "manifest higher up",
        ),
        ("path\nsub/../../a.png\n", ", line 2: path 'sub/../../a.png' leaves the manifest's folder by '..'"),
        ("path\nsub\\..\\..\\a.png\n", "leaves the manifest's folder by '..'"),
        ("uri\n../a.png\n", ", line 2: uri '../a.png' leaves the manifest's folder by '..'"),
        ("uri\ntar:../x.tar#a@512+1\n", "leaves the manifest's folder by '..'"),
        ("uri\ntar:%2E./x.tar#a@512+1\n", "leaves the manifest's folder by '..'"),
        ("uri\nhf:../x#f#c#0\n", "leaves the manifest's folder by '..'"),
        ("uri\nfile:../x\n", "leaves the manifest's folder by '..'"),
        ("uri\ntar:x\n", ", line 2: uri 'tar:x' tar: needs 2 parts divided by '#', got 1"),
        ("uri\nbroken:x#y\n", ", line 2: uri 'broken:x#y' names no image"),
        (
            "uri\naz://box/a.png\n",
            ", line 2: uri 'az://box/a.png' is of the kind az://, which is not read, only s3://, gs://, hf://, https://",
        ),
        ("uri\nfile:a%00b\n", "holds a null character"),
    ],
)
def test_mistakes_are_told_with_their_line(folder: Path, content: str | bytes, message: str) -> None:
    path = _write(folder / "list.csv", content)
    with pytest.raises(InputError) as caught:
        find_samples([str(path)])
    assert str(caught.value).startswith(f"manifest {str(path)!r}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"file": ["a"]}), "needs one column 'path' or 'uri', it has only 'file'"),
        (pa.table({"path": [None, None]}), ", row 1: the path is empty"),
        (pa.table({"path": ["a", "b", "a"]}), ", row 3: sample_id 'a' was given in row 1 already"),
        (pa.table({"path": ["../a", "../b"]}), ", row 1: path '../a' leaves the manifest's folder"),
        (pa.table({"path": ["a\0b"]}), ", row 1: path 'a\\x00b' holds a null character"),
        (pa.table({"path": [1]}), ", row 1: the path must be text, got int"),
        (
            pa.table({"path": ["a"], "label": [[[1]]]}),
            ", row 1: the label must be an index or a name, got list",
        ),
        (
            pa.table({"path": ["a"], "label": [1.5]}),
            ", row 1: the label must be an index or a name, got float",
        ),
        (pa.table({"path": ["a"], "target": [[1, 2]]}), ", row 1: the target must be one class, got 2"),
        (pa.table({"path": pa.array([], pa.string())}), "holds no rows"),
    ],
)
def test_mistakes_in_parquet_are_told_with_their_row(folder: Path, table: pa.Table, message: str) -> None:
    pq.write_table(table, folder / "list.parquet")
    with pytest.raises(InputError) as caught:
        find_samples([str(folder / "list.parquet")])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("row", "sample_id", "reason"),
    [
        ({"path": "", "label": 2}, "line 2", "the path is empty"),
        ({"path": "", "sample_id": "b"}, "b", "the path is empty"),
        ({"path": None}, "line 2", "the path is empty"),
        ({"path": 7, "label": 2}, "line 2", "the path must be text, got int"),
        ({"path": "../b.png", "label": 2}, "../b.png", "path '../b.png' leaves the manifest's folder by '..'; write"),
        ({"path": "a\0b"}, "a\0b", r"path 'a\x00b' holds a null character"),
        ({"path": "b.png", "label": {"x": 1}}, "b.png", "the label must be an index or a name, got dict"),
        ({"path": "b.png", "label": [[1]], "sample_id": 5}, "5", "the label must be an index or a name, got list"),
        ({"path": "b.png", "label": 2, "target": [1, 2]}, "b.png", "the target must be one class, got 2"),
        ({"path": "b.png", "sample_id": {"x": 1}}, "b.png", "the sample_id must be text, got dict"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_cell_costs_its_sample_alone(
    folder: Path, row: dict[str, Any], sample_id: str, reason: str
) -> None:
    content = f'{{"path": "a.png", "label": 1}}\n{json.dumps(row)}\n'.encode()
    good, bad = find_samples([str(_write(folder / "list.jsonl", content))])
    assert (good.sample_id, good.label) == ("a.png", "1")
    assert open_image(good.uri).size == (2, 2)
    assert (bad.sample_id, bad.label) == (sample_id, "2" if row.get("label") == 2 else None)
    with pytest.raises(ImageError) as caught:
        open_image(bad.uri)
    assert str(caught.value).startswith(reason)


def test_a_mistake_in_a_cell_of_csv_and_parquet_costs_its_sample_alone(folder: Path) -> None:
    table = pa.table({"path": ["../b.png", "a.png"], "label": [1.5, 2.0]})
    pq.write_table(table, folder / "list.parquet")
    for path in (folder / "list.parquet", _write(folder / "list.csv", b"path,label\n../b.png,x\na.png,2\n")):
        bad, good = find_samples([str(path)])
        assert (good.sample_id, good.label, bad.uri.partition(":")[0]) == ("a.png", "2", "broken")


def test_a_row_with_a_mistake_is_the_same_sample_behind_other_rows(folder: Path) -> None:
    """Else a run could not go on once a row is added above it."""
    row = b"../b.png,b\n"
    (_, before) = find_samples([str(_write(folder / "list.csv", b"path,sample_id\na.png,a\n" + row))])
    more = b"path,sample_id\na.png,a\nsub/b c.png,c\n"
    (_, _, after) = find_samples([str(_write(folder / "list.csv", more + row))])
    assert before == after


@pytest.mark.parametrize(
    "damage", [lambda _: b"", lambda _: b"no parquet", lambda c: c[:-9], lambda c: b"x" * 40 + c[40:]]
)
def test_damaged_parquet_is_told(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    path = folder / "list.parquet"
    pq.write_table(pa.table({"path": [f"{i}.png" for i in range(1000)]}), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError) as caught:
        find_samples([str(path)])
    assert str(caught.value).startswith(f"manifest {str(path)!r} ")
    assert "\n" not in str(caught.value)


def test_manifest_inside_a_folder_of_images_is_no_manifest(folder: Path) -> None:
    _write(folder / "labels.csv", "path\na.png\n")
    assert [s.sample_id for s in find_samples([str(folder)])] == ["a.png", "labels.csv", "sub/b c.png"]


def test_manifest_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = _write(folder / "list.csv", "path\na.png\n")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"^manifest '.*list\.csv' cannot be read: Permission denied$"):
        manifest_samples(path)


_CELL = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.lists(st.tuples(_CELL, _CELL), min_size=1, max_size=5, unique_by=lambda row: row[1].strip()))
def test_any_cells_come_back_and_stay_inside_the_folder(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([("path", "sample_id"), *rows])
    path = _write(tmp_path / "list.csv", text.getvalue())
    try:
        samples = find_samples([str(path)])
    except InputError as error:
        assert "line" in str(error)  # noqa: PT017
        return
    assert len(samples) == len(rows)
    for sample, (cell, identity) in zip(samples, rows, strict=True):
        assert identity.strip() in ("", sample.sample_id)
        assert (
            cell.lstrip().startswith("/")
            or Path(sample.uri).is_relative_to(
                tmp_path
            )  # "." is the folder itself, which then fails to decode
            or sample.uri.startswith("file:")
        )


@given(st.text("ab.~ /:\\\\é\x7f-[1", min_size=1, max_size=12) | st.text(max_size=8))
@example("a" * 181)
@example("a/./b.png")
@example("b.tar.png")
def test_a_plain_path_is_what_a_closer_look_makes_of_it(text: str) -> None:
    """The short way for most paths."""
    if not is_plain(text):
        return
    name = safe_name(text)
    assert str(name) == text == PurePosixPath(text).as_posix() == clean_text(text.strip())
    assert names_of_id(text) == (str(image_stem(name)), text)
    assert resolve_path(Path("/lists/a.csv"), text) == path_uri(
        manifest_paths._inside(Path("/lists/a.csv"), text)
    )
    assert manifest_paths._spelling(Path("/lists"), text) == text


KINDS = {
    "csv": lambda rows: "path,label\n" + "".join(f"{path},{label or ''}\n" for path, label in rows),
    "jsonl": lambda rows: "".join(json.dumps({"path": path, "label": label}) + "\n" for path, label in rows),
    "txt": lambda rows: "".join(f"{path} {label or ''}\n" for path, label in rows),
}


def made(folder: Path, kind: str, rows: list[tuple[str, str | None]]) -> Path:
    path = folder / f"list.{kind}"
    if kind == "parquet":
        pq.write_table(
            pa.table(dict(zip(("path", "label"), map(list, zip(*rows, strict=True)), strict=True))), path
        )
        return path
    return _write(path, KINDS[kind](rows))


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (spool, columns):
        monkeypatch.setattr(module, "AT_ONCE", 500)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "txt", "parquet"])
@pytest.mark.usefixtures("small_pieces")
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, kind: str) -> None:
    """But for hashes of 8 bytes; it were 440 bytes if the samples were held."""

    def peak(count: int) -> int:
        path = made(tmp_path, kind, [(f"n{i // 50:08}/{i:08}.png", f"{i % 9}") for i in range(count)])
        tracemalloc.start()
        assert len(listed_samples([str(path)])) == count
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    few = min(peak(2_000) for _ in range(3))
    assert min(peak(8_000) for _ in range(3)) - few < 100 * 6_000


@pytest.mark.parametrize("kind", ["csv", "jsonl", "txt", "parquet"])
@pytest.mark.usefixtures("small_pieces")
def test_a_repeated_id_is_told_wherever_it_is(tmp_path: Path, kind: str) -> None:
    rows: list[tuple[str, str | None]] = [(f"{i}.png", "1") for i in range(1200)]
    rows[1100] = rows[700] = ("30.png", "1")
    where = "row" if kind == "parquet" else "line"
    first, second = (32, 702) if kind == "csv" else (31, 701)
    with pytest.raises(
        InputError, match=rf"{where} {second}: sample_id '30.png' was given in {where} {first} already"
    ):
        manifest_samples(made(tmp_path, kind, rows))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(("last", "expected"), [("7.0", "1"), (None, "1"), ("v2", "1.0"), ("7", "1.0")])
@pytest.mark.usefixtures("small_pieces")
def test_whole_numbers_are_a_matter_of_the_whole_column(
    tmp_path: Path, kind: str, last: str | None, expected: str
) -> None:
    rows = [*((f"{i}.png", "1.0") for i in range(1200)), ("last.png", last)]
    samples = list(manifest_samples(made(tmp_path, kind, rows)))
    assert {sample.label for sample in samples[:-1]} == {expected}
    assert samples[-1].label == ("7" if last == "7.0" else last)


def test_two_ids_with_one_hash_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "hash", lambda _text: 7, raising=False)
    path = made(tmp_path, "csv", [("a.png", "1"), ("b.png", "2")])
    assert [sample.sample_id for sample in manifest_samples(path)] == ["a.png", "b.png"]
