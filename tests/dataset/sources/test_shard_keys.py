"""Label files of a shard belong to the image of their name and place; what cannot be told apart fails by name."""

from __future__ import annotations

import gzip
import io
import logging
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from cfcam_gpu.dataset.sources.find import find_samples
from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.errors import ImageError, InputError


def _png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (value,) * 3).save(buffer, "png")
    return buffer.getvalue()


def _shard(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def _pixel_or_reason(uri: str) -> str:
    try:
        return str(open_image(uri).getpixel((0, 0)))[1:].partition(",")[0]
    except ImageError as error:
        return str(error).partition(",")[0]


def _listed(path: Path) -> list[tuple[str, str | None, str]]:
    """Of every sample: its key, its label, and its pixel or why it fails."""
    samples = find_samples([str(path)])
    return [(s.sample_id.rpartition("s/")[2], s.label, _pixel_or_reason(s.uri)) for s in samples]


_TWICE = "the shard holds this key twice with different members"


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        pytest.param(
            [("0.png", _png(1)), ("0.cls", b"1"), ("0.png", _png(2)), ("0.cls", b"2")],
            [("0.png", "1", "1"), ("0.png-2", "2", "2")],
            id="image, label, image, label",
        ),
        pytest.param(
            [("0.cls", b"1"), ("0.png", _png(1)), ("1.png", _png(9)), ("0.cls", b"2"), ("0.png", _png(2))],
            [("0.png", "1", "1"), ("0.png-2", "2", "2"), ("1", None, "9")],
            id="another key between",
        ),
        pytest.param(
            [("0.png", _png(1)), ("0.png", _png(2)), ("0.cls", b"1"), ("0.cls", b"2")],
            [("0.png", None, _TWICE), ("0.png-2", None, _TWICE)],
            id="images first",
        ),
        pytest.param(
            [("0.png", _png(1)), ("0.cls", b"1"), ("0.png", _png(2))],
            [("0.png", None, _TWICE), ("0.png-2", None, _TWICE)],
            id="one label",
        ),
        pytest.param(
            [("0.png", _png(1)), ("0.cls", b"1"), ("0.cls", b"2")], [("0", None, _TWICE)], id="two labels"
        ),
        pytest.param(
            [("0.png", _png(1)), ("0.png", _png(2))],
            [("0.png", None, "1"), ("0.png-2", None, "2")],
            id="no labels",
        ),
    ],
)
def test_a_key_twice_never_gets_the_other_ones_label(
    tmp_path: Path, members: list[tuple[str, bytes]], expected: list[tuple[str, str | None, str]]
) -> None:
    assert _listed(_shard(tmp_path / "s.tar", members)) == expected


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        pytest.param(
            [(f"22.0{i}.{kind}", _png(i) if kind == "png" else b'{"label": %d}' % i) for i in (5, 6)
             for kind in ("png", "json")],
            [("22.05.png", "5", "5"), ("22.06.png", "6", "6")],
            id="dates",
        ),
        pytest.param(
            [("cat.0.jpg", _png(1)), ("cat.1.jpg", _png(2)), ("cat.1.cls", b"b"), ("cat.0.cls", b"a")],
            [("cat.0.jpg", "a", "1"), ("cat.1.jpg", "b", "2")],
            id="labels in another order",
        ),
        pytest.param(
            [("cat.jpg", _png(1)), ("cat.cls", b"a"), ("cat.0.jpg", _png(2)), ("cat.0.cls", b"b")],
            [("cat.jpg", "a", "1"), ("cat.0.jpg", "b", "2")],
            id="a labelled image beside the plain one",
        ),
        pytest.param(
            [("a.left.png", _png(1)), ("a.right.png", _png(2)), ("a.cls", b"7")],
            [("a.left.png", "7", "1"), ("a.right.png", "7", "2")],
            id="a label for both views",
        ),
        pytest.param(
            [("a.left.png", _png(1)), ("a.cls", b"7"), ("a.right.png", _png(2)), ("a.cls", b"8")],
            [("a.left.png", None, _TWICE), ("a.right.png", None, _TWICE)],
            id="two labels for both views",
        ),
        pytest.param(
            [("a.0.png", _png(1)), ("a.0.cls", b"1"), ("a.1.cls", b"2")],
            [("a.0.png", "1", "1"), ("a.1", None, "no image of this name")],
            id="a missing image",
        ),
        pytest.param(
            [("a.png", _png(1)), ("a.mask.png", _png(2)), ("a.meta.json", b'{"label": "x"}')],
            [("a", None, "1")],
            id="masks and other files",
        ),
    ],
)  # fmt: skip
def test_dots_in_the_base_name_keep_the_labels(
    tmp_path: Path, members: list[tuple[str, bytes]], expected: list[tuple[str, str | None, str]]
) -> None:
    assert _listed(_shard(tmp_path / "s.tar", members)) == expected


@pytest.mark.parametrize(
    ("name", "content", "label", "target"),
    [
        ("json", b'{"label": [3]}', "3", None),
        ("json", b'{"label": [3, 5], "target": 5}', "3|5", "5"),
        ("json", b'{"label": ["edema", "mass"]}', "edema|mass", None),
        ("json", b'{"label": 285.0, "target": 285.0}', "285", "285"),
        ("json", b"\xef\xbb\xbf" + b'{"label": 1}', "1", None),
        ("cls", b"\xef\xbb\xbf7\r\n", "7", None),
        ("cls", b"tabby cat\n", "tabby cat", None),
    ],
)
def test_labels_in_their_usual_forms(
    tmp_path: Path,
    name: str,
    content: bytes,
    label: str,
    target: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (sample,) = find_samples([str(_shard(tmp_path / "s.tar", [("0.png", _png(1)), (f"0.{name}", content)]))])
    assert (sample.label, sample.target) == (label, target)
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "content", "label", "target", "warning"),
    [
        ("json", b'{"label": 0.5, "target": 2}', None, "2", "'label' must be an index or a name, got float"),
        ("json", b'{"label": 3, "target": [1, 2]}', "3", None, "'target' must be one class, got 2"),
        ("json", b'{"label": {"name": "cat"}}', None, None, "'label' must be an index or a name, got dict"),
        ("cls", b"3\n5\n", None, None, "expected one line, got several"),
    ],
)
def test_labels_that_are_none_are_warned_about(
    tmp_path: Path,
    name: str,
    content: bytes,
    label: str | None,
    target: str | None,
    warning: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = _shard(tmp_path / "s.tar", [("0.png", _png(1)), (f"0.{name}", content)])
    with caplog.at_level(logging.WARNING, "cfcam_gpu"):
        (sample,) = find_samples([str(path)])
    assert (sample.label, sample.target) == (label, target)
    assert caplog.text.rstrip().endswith(f"0.{name}: {warning}")


@pytest.mark.parametrize(
    ("index", "content", "label", "warns"),
    [
        (b"1", b'{"label": 2}', None, True),
        (b"1", b'{"label": 1.0, "target": 2}', "1", False),
        (b"1", b'{"label": "tabby"}', "1", False),
        (b"tabby", b'{"label": "cat"}', "tabby", False),
    ],
)
def test_two_label_files_that_disagree(
    tmp_path: Path,
    index: bytes,
    content: bytes,
    label: str | None,
    caplog: pytest.LogCaptureFixture,
    *,
    warns: bool,
) -> None:
    path = _shard(tmp_path / "s.tar", [("0.png", _png(1)), ("0.json", content), ("0.cls", index)])
    with caplog.at_level(logging.WARNING, "cfcam_gpu"):
        (sample,) = find_samples([str(path)])
    assert sample.label == label
    expected = [
        "1 label file cannot be used, the samples go without a label; the first: 0.json: 'label' is 2, and 1 in"
    ]
    assert [text.split(".tar: ")[1][: len(expected[0])] for text in caplog.messages] == expected * warns


def test_members_called_dicom_are_images(tmp_path: Path) -> None:
    (sample,) = find_samples([str(_shard(tmp_path / "s.tar", [("0.dicom", b"x" * 200), ("0.cls", b"4")]))])
    assert sample.label == "4"
    assert sample.uri.startswith("tar:")


def test_gzip_called_tar_names_the_command(tmp_path: Path) -> None:
    plain = _shard(tmp_path / "plain.tar", [("0.png", _png(1))]).read_bytes()
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "s.tar"
    path.write_bytes(gzip.compress(plain))
    with pytest.raises(InputError, match=r"s\.tar' is compressed.*gunzip < s\.tar > s-unpacked\.tar$"):
        find_samples([str(path)])
    (sample,) = find_samples([str(tmp_path / "in")])
    assert _pixel_or_reason(sample.uri).endswith("s.tar' is compressed")


def test_an_empty_tar_alone_is_an_input_error(tmp_path: Path) -> None:
    empty = _shard(tmp_path / "s.tar", [])
    with pytest.raises(InputError, match=r"^no samples in .*s\.tar: the shards are empty$"):
        find_samples([str(empty)])
    other = _shard(tmp_path / "t.tar", [("0.png", _png(1))])
    assert len(find_samples([str(empty), str(other)])) == 1


def test_the_same_member_many_times_takes_linear_time(tmp_path: Path) -> None:
    path = _shard(tmp_path / "s.tar", [("0.png", b"x")] * 20_000)
    start = time.process_time()
    samples = find_samples([str(path)])
    assert time.process_time() - start < 20  # it was minutes
    assert [s.sample_id.rpartition("/")[2] for s in samples[:2]] == ["0.png", "0.png-2"]
    assert samples[-1].sample_id.endswith("0.png-20000")
