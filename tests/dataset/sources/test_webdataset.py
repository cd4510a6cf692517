"""WebDataset shards: keys, labels and images are found; nothing hostile is opened, nothing damaged is passed over."""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfcam_gpu.dataset.sources.find import find_samples
from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.dataset.sources.sample import Sample, make_uri, split_uri
from cfcam_gpu.dataset.sources.webdataset import _MAX_IMAGE_BYTES, tar_samples
from cfcam_gpu.errors import ImageError, InputError


def image_bytes(value: int, suffix: str = "png", side: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (value,) * 3).save(buffer, suffix)
    return buffer.getvalue()


def _shard(
    path: Path, members: Sequence[tuple[str, bytes | Mapping[str, object]]], kind: int = tarfile.PAX_FORMAT
) -> Path:
    """Members: name and content, or name and the header's fields for those that are no files."""
    with tarfile.open(path, "w", format=kind) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                for field, value in content.items():
                    setattr(info, field, value)
                archive.addfile(info)
    return path


def _value(sample: Sample) -> int:
    image = open_image(sample.uri)
    assert image.mode == "RGB"
    return int(np.asarray(image)[0, 0, 0])


def _reason(sample: Sample) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(sample.uri)
    return str(caught.value)


def _ids(samples: list[Sample]) -> list[str]:
    return [sample.sample_id for sample in samples]


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_keys_labels_and_images(tmp_path: Path, kind: int) -> None:
    path = _shard(
        tmp_path / "part-0.tar",
        [
            ("./000.png", image_bytes(10)),
            ("./000.cls", b"3\n"),
            ("./001.json", json.dumps({"label": "cat", "target": 7, "size": [1]}).encode()),
            ("./001.jpg", image_bytes(20)),
            ("./train/001.png", image_bytes(30)),
            ("./train/001.txt", b"a caption"),
            ("./000.json", b'{"label": "lower priority", "target": "dog"}'),
        ],
        kind,
    )
    samples = find_samples([str(path)])
    assert [(s.sample_id, s.label, s.target, s.name, _value(s)) for s in samples] == [
        ("part-0/000", "3", "dog", "part-0/000", 10),
        ("part-0/001", "cat", "7", "part-0/001", 20),
        ("part-0/train/001", None, None, "part-0/train/001", 30),
    ]


def test_several_images_of_one_key(tmp_path: Path) -> None:
    path = _shard(
        tmp_path / "x.tar",
        [
            ("a.jpg", image_bytes(1)),
            ("a.mask.png", image_bytes(2)),  # a mask beside the image is not explained
            ("b.left.png", image_bytes(3)),
            ("b.right.png", image_bytes(4)),
            ("c.jpg", image_bytes(5)),
            ("c.png", image_bytes(6)),
            ("a.jpg", image_bytes(7)),  # appended once more
        ],
    )
    found = {s.sample_id: _value(s) for s in find_samples([str(path)])}
    assert list(found) == [
        *("x.tar#x/a.jpg".replace("x.tar", path.as_posix()), f"{path.as_posix()}#x/a.jpg-2"),
        *("x/b.left.png", "x/b.right.png", "x/c.jpg", "x/c.png"),
    ]
    assert list(found.values()) == [1, 7, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "name", ["a b#c@d+1", "100%", "Ünïcode 文", "x" * 150, os.fsdecode(b"caf\xe9"), "new\nline", "dir/sub/y"]
)
def test_any_name_is_found_again(tmp_path: Path, name: str) -> None:
    path = _shard(
        tmp_path / "a #1.tar",
        [(f"{name}.png", image_bytes(9)), ("z.png", image_bytes(8))],
        tarfile.GNU_FORMAT,
    )
    samples = find_samples([str(path)])
    assert [_value(sample) for sample in samples] == [9, 8]
    for sample in samples:
        sample.uri.encode()
        sample.sample_id.encode()


def test_images_are_read_by_one_seek_and_nothing_is_extracted(tmp_path: Path) -> None:
    path = _shard(tmp_path / "x.tar", [("a.png", image_bytes(1)), ("b.png", image_bytes(2))])
    before = sorted(tmp_path.rglob("*"))
    second = find_samples([str(path)])[1]
    scheme, (shard, place) = split_uri(second.uri)
    member, _, numbers = place.rpartition("@")
    offset, size = map(int, numbers.split("+"))
    assert (scheme, shard, member) == ("tar", str(path), "b.png")
    assert path.read_bytes()[offset : offset + size] == image_bytes(2)
    assert _value(second) == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_hostile_members_are_never_opened_as_paths(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(image_bytes(99))
    link = {"type": tarfile.SYMTYPE, "linkname": str(secret)}
    path = _shard(
        tmp_path / "evil.tar",
        [
            (str(secret), image_bytes(1)),  # the bytes of the member are read, not the file of that name
            ("../secret2.png", image_bytes(2)),
            ("link.png", link),
            ("hard.png", {"type": tarfile.LNKTYPE, "linkname": "../secret.png"}),
            ("null.png", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}),
            ("pipe.png", {"type": tarfile.FIFOTYPE}),
            ("labelled.png", image_bytes(3)),
            ("labelled.cls", link),
            ("folder.png", {"type": tarfile.DIRTYPE}),
            (".hidden/x.png", image_bytes(4)),
        ],
    )
    samples = {s.sample_id: s for s in find_samples([str(path)])}
    linked = "a link in the shard, which is not followed; pack the file itself"
    special = "not a regular file in the shard"
    key = str(secret).lstrip("/").removesuffix(".png")
    assert list(samples) == [
        f"evil/{key}",
        *(f"evil/{n}" for n in ("../secret2", "link", "hard", "null", "pipe", "labelled")),
    ]
    assert _value(samples[f"evil/{key}"]) == 1
    assert _value(samples["evil/../secret2"]) == 2
    assert [_reason(samples[f"evil/{n}"]) for n in ("link", "hard", "null", "pipe")] == [
        linked,
        linked,
        special,
        special,
    ]
    assert samples["evil/labelled"].label is None
    for sample in samples.values():
        assert not sample.name.startswith("/")
        assert ".." not in sample.name.split("/")
    assert not (tmp_path.parent / "secret2.png").exists()


def test_key_without_an_image_is_a_failing_sample(tmp_path: Path) -> None:
    path = _shard(tmp_path / "x.tar", [("a.txt", b"words"), ("a.cls", b"1"), ("README", b"hello")])
    a, readme = find_samples([str(path)])
    assert (a.sample_id, readme.sample_id) == ("x/a", "x/README")
    assert _reason(a) == "no image among the members of this key, only .cls, .txt"
    assert _reason(readme) == "no image among the members of this key, only no extension"


def test_bad_labels_are_told_and_leave_the_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = {
        "a": b"{no json",
        "b": b"[1]",
        "c": b'{"label": [[1]]}',
        "d": b"\xff",
        "e": b"[" * 100_000,
        "f": b" " * 2_000_000,
    }
    members = [(f"{k}.png", image_bytes(1)) for k in bad] + [(f"{k}.json", v) for k, v in bad.items()]
    with caplog.at_level(logging.WARNING, "cfcam_gpu"):
        samples = tar_samples(_shard(tmp_path / "x.tar", members), "x")
    assert [(s.label, _value(s)) for s in samples] == [(None, 1)] * 6
    assert "6 label files cannot be used, the samples go without a label; the first: a.json: " in caplog.text


def test_lone_surrogates_in_a_label_can_be_stored(tmp_path: Path) -> None:
    path = _shard(tmp_path / "x.tar", [("a.png", image_bytes(1)), ("a.json", rb'{"label": "\ud800"}')])
    assert find_samples([str(path)])[0].label == "\\ud800"


_WHOLE = [(f"{k}.png", image_bytes(k)) for k in range(4)]


def _cut(content: bytes, to: int) -> bytes:
    return content[:to]


@pytest.mark.parametrize(
    ("damage", "readable", "reason"),
    [
        pytest.param(
            lambda c: c[: 2 * 1024 + 512 + 20],  # within the data of the third member
            3,
            "the tar is truncated or corrupt (unexpected end of data) after member '2.png'; what follows is not read",
            id="within data",
        ),
        pytest.param(
            lambda c: c[: 2 * 1024 + 100],
            2,
            "the tar is truncated: its end marker is missing after member '1.png'; what follows is not read",
            id="within a header",
        ),
        pytest.param(
            lambda c: c[: 2 * 1024],
            2,
            "the tar is truncated: its end marker is missing after member '1.png'; what follows is not read",
            id="between members",
        ),
        pytest.param(
            lambda c: c[:2048] + b"\xff" * 512 + c[2560:],
            2,
            "the tar is corrupt: a damaged header after member '1.png'; what follows is not read",
            id="damaged header",
        ),
        pytest.param(
            lambda c: c + c,
            4,
            "the tar holds more data behind its end (several tars in one file?) after member '3.png'; "
            "what follows is not read",
            id="two tars in one",
        ),
        pytest.param(
            lambda _: b"this is no tar at all" * 100,
            0,
            "the tar is truncated or corrupt (invalid header) after its start; what follows is not read",
            id="no tar",
        ),
        pytest.param(
            lambda _: b"",
            0,
            "the tar is truncated or corrupt (empty file) after its start; what follows is not read",
            id="empty",
        ),
    ],
)
def test_what_a_damaged_shard_still_holds_is_listed_and_the_rest_is_a_failing_sample(
    tmp_path: Path, damage: Callable[[bytes], bytes], readable: int, reason: str
) -> None:
    path = _shard(tmp_path / "x.tar", list(_WHOLE))
    path.write_bytes(damage(path.read_bytes()))
    samples = find_samples([str(path)])
    assert _ids(samples) == [*(f"x/{k}" for k in range(readable)), "x/rest of the shard"]
    assert _reason(samples[-1]).replace("bad checksum", "invalid header") == reason
    whole = [s for s in samples[:-1] if not (readable == 3 and s.sample_id == "x/2")]
    assert [_value(s) for s in whole] == list(range(len(whole)))
    if readable == 3:
        assert _reason(samples[2]) == "the shard is truncated within this member"


def test_header_of_negative_size_ends_the_listing(tmp_path: Path) -> None:
    path = _shard(tmp_path / "x.tar", list(_WHOLE))
    content = bytearray(path.read_bytes())
    header = content[1024:1536]
    header[124:136] = b"\xff" * 8 + (-1024).to_bytes(4, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content[1024:1536] = header
    path.write_bytes(content)
    samples = find_samples([str(path)])
    assert _ids(samples) == ["x/0", "x/rest of the shard"]
    assert "after member '0.png'; what follows is not read" in _reason(samples[-1])


@pytest.mark.parametrize("seed", range(4))
def test_random_damage_gives_samples_never_a_crash(tmp_path: Path, seed: int) -> None:
    content = _shard(tmp_path / "x.tar", [*_WHOLE, ("y" * 150 + ".png", image_bytes(5))]).read_bytes()
    generator = np.random.default_rng(seed)
    for _ in range(40):
        damaged = bytearray(content)
        for position in generator.integers(0, len(content), 6):
            damaged[position] = generator.integers(256)
        (tmp_path / "x.tar").write_bytes(damaged[: generator.integers(1, len(content))])
        samples = find_samples([str(tmp_path / "x.tar")])
        assert samples
        for sample in samples:
            assert _size_or_reason(sample.uri).strip()


def _size_or_reason(uri: str) -> str:
    try:
        return str(open_image(uri).size)
    except ImageError as error:
        return str(error)


def test_shard_that_changed_since_it_was_listed(tmp_path: Path) -> None:
    path = _shard(tmp_path / "x.tar", [("a.bmp", image_bytes(1, "bmp")), ("b.bmp", image_bytes(2, "bmp"))])
    samples = find_samples([str(path)])
    _shard(
        path, [("b.bmp", image_bytes(2, "bmp")), ("a.bmp", image_bytes(1, "bmp"))]
    )  # same sizes, other order
    assert {_reason(sample) for sample in samples} == {"the shard has changed since it was listed"}
    path.write_bytes(path.read_bytes()[:100])
    assert _reason(samples[0]) == "the shard has changed since it was listed"
    path.unlink()
    assert _reason(samples[0]) == "the shard cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("a.png", "expected MEMBER@OFFSET+SIZE behind the shard, got 'a.png'"),
        ("a.png@-1+5", "expected MEMBER@OFFSET+SIZE behind the shard, got 'a.png@-1+5'"),
        ("a.png@0+5", "the shard cannot be read: "),
        ("a.png@1+5", "the shard cannot be read: "),
        ("a.png@513+5", "the shard has changed since it was listed"),
        (
            f"a.png@512+{_MAX_IMAGE_BYTES}",
            f"a member of 1,073,742,336 bytes is over the limit of {_MAX_IMAGE_BYTES:,}",
        ),
        ("a.png@999999999999+5", "the shard has changed since it was listed"),
    ],
)
def test_made_up_places_are_refused(tmp_path: Path, place: str, reason: str) -> None:
    path = _shard(tmp_path / "x.tar", [("a.png", image_bytes(1))])
    with pytest.raises(ImageError) as caught:
        open_image(make_uri("tar", str(path), place))
    assert str(caught.value).startswith(reason)


def test_empty_and_undecodable_members(tmp_path: Path) -> None:
    path = _shard(
        tmp_path / "x.tar",
        [("a.png", b""), ("b.png", b"no image"), ("c.png", image_bytes(1, "jpeg", 64)[:400])],
    )
    reasons = [_reason(sample) for sample in find_samples([str(path)])]
    assert reasons[:2] == ["empty file", "not an image that can be read"]
    assert reasons[2].startswith("truncated or corrupt: ")


@pytest.mark.parametrize("name", ["x.tar.gz", "x.TGZ", "x.tar.zst"])
def test_compressed_shards_are_refused_where_named_and_fail_in_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    message = "is compressed, and images are read from the middle of a shard; unpack it first: "
    with pytest.raises(InputError, match=message):
        find_samples([str(tmp_path / name)])
    (sample,) = find_samples([str(tmp_path)])
    assert sample.sample_id == name
    assert message in _reason(sample)


def test_a_pipe_in_a_shards_place_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.tar")
    (sample,) = find_samples([str(tmp_path)])
    assert _reason(sample) == "not a regular file"


def test_shards_of_a_folder_and_of_two_folders(tmp_path: Path) -> None:
    for folder in ("train", "val"):
        (tmp_path / folder).mkdir()
        _shard(tmp_path / folder / "0.tar", [("a.png", image_bytes(1))])
    assert _ids(find_samples([str(tmp_path)])) == ["train/0/a", "val/0/a"]
    both = find_samples([f"{tmp_path}/*/0.tar"])
    assert _ids(both) == [f"{tmp_path}/train/0.tar#0/a", f"{tmp_path}/val/0.tar#0/a"]
    assert [sample.name for sample in both] == ["0/a", "0/a-2"]
