"""Runs over images at URLs, which worker processes open by themselves."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cfcam_gpu.dataset.sources.find import find_samples
from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.dataset.sources.sample import Sample, split_uri, url_uri
from cfcam_gpu.dataset.sources.spool import SpooledSamples
from cfcam_gpu.errors import InputError, MissingPackageError
from tests.helpers.places import BUCKET, LocalS3, WebServer
from tests.helpers.smallnet import photo, rows, run


def png(seed: int) -> bytes:
    file = io.BytesIO()
    photo(seed).save(file, "PNG")
    return file.getvalue()


def tar(**files: bytes) -> bytes:
    """A shard; `a_png=...` is its member a.png."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_a_folder_gives_the_rows_of_the_same_folder_on_disk(s3: LocalS3, tmp_path: Path) -> None:
    """Ids, names, order and maps; worker processes read the objects."""
    names = (
        "b.png",
        "a.jpg",
        "sub/a.png",
        "sub.png",
        ".hidden.png",
        ".git/x.png",
        "notes.txt",
        "sub/ü 1#.png",
    )
    for i, name in enumerate(names):
        content = b"no image" if name == "notes.txt" else png(i)
        s3.put(f"same/{name}", content)
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    s3.put("same-other/x.png", png(9))
    run(tmp_path / "in", tmp_path / "local", max_errors=9)
    run(f"s3://{BUCKET}/same", tmp_path / "remote", workers=2, max_errors=9)
    remote, local = rows(tmp_path / "remote"), rows(tmp_path / "local")
    assert len(remote) == 6
    for there, here in zip(remote, local, strict=True):
        assert there.pop("uri") == f"s3://{BUCKET}/same/{here['sample_id']}"
        del here["uri"]
        np.testing.assert_array_equal(there.pop("grid"), here.pop("grid"))
        assert there == here
    pictures = [
        sorted(path.relative_to(tmp_path / out).as_posix() for path in (tmp_path / out).rglob("*_cfcam.png"))
        for out in ("remote", "local")
    ]
    assert pictures[0] == pictures[1] != []
    assert run(f"s3://{BUCKET}/same/", tmp_path / "remote", max_errors=9).before == 6


def test_single_files_patterns_and_braces(s3: LocalS3) -> None:
    for name in ("1.png", "2.png", "3.txt", "x[1].png", ".4.png"):
        s3.put(f"some/{name}", png(1))
    start = f"s3://{BUCKET}/some"
    assert [s.sample_id for s in find_samples([f"{start}/1.png"])] == [f"{start}/1.png"]
    assert [s.name for s in find_samples([f"{start}/*.png"])] == ["1", "2", "x[1]"]
    assert [s.name for s in find_samples([f"{start}/{{2,1}}.png", f"{start}/x[1].png"])] == ["2", "1", "x[1]"]
    assert len(find_samples([f"{start}/1.png", f"{start}/?.png"])) == 2


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"s3://{BUCKET}/nothing", "there is no such file or folder"),
        (f"s3://{BUCKET}/nothing/*.png", "no file matches the pattern"),
        ("s3://no-bucket-of-this-name/x", "there is no such bucket"),
        ("az://box/x.png", "is of the kind az://, which is not read"),
        ("memory://nothing", "files are those of one process"),
    ],
)
@pytest.mark.usefixtures("s3")
def test_inputs_that_are_not_there_are_told(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        find_samples([url])
    assert url in str(caught.value)


def test_keys_that_are_no_paths_make_safe_names(s3: LocalS3) -> None:
    for key in ("odd/../../up.png", "odd//twice.png", "odd/a\\b.png", "odd/sub/"):
        s3.put(key, png(1))
    samples = find_samples([f"s3://{BUCKET}/odd"])
    for sample in samples:
        assert not sample.name.startswith("/")
        assert ".." not in Path(sample.name).parts
        assert "\\" not in sample.name
        assert open_image(sample.uri).size == (60, 45)
    assert len(samples) >= 2


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "txt"])
def test_a_manifest_names_files_beside_it_and_urls(s3: LocalS3, web: WebServer, kind: str) -> None:
    s3.put("lists/cats/1 ü.png", png(1))
    web.files["/2.png"] = png(2)
    paths = ["cats/1 ü.png", web.url("/2.png")]
    content = {
        "csv": "path\n" + "\n".join(paths),
        "jsonl": "\n".join(json.dumps({"path": path}) for path in paths),
        "txt": "\n".join(paths),
    }
    if kind == "parquet":
        file = io.BytesIO()
        pq.write_table(pa.table({"path": paths}), file)
        url = s3.put("lists/all.parquet", file.getvalue())
    else:
        url = s3.put(f"lists/all.{kind}", content[kind].encode())
    samples = find_samples([url])
    assert [sample.sample_id for sample in samples] == paths
    assert [sample.uri for sample in samples] == [f"s3://{BUCKET}/lists/cats/1 ü.png", paths[1]]
    for seed, sample in enumerate(samples, 1):
        np.testing.assert_array_equal(np.asarray(open_image(sample.uri)), np.asarray(photo(seed)))


def test_a_manifest_on_disk_may_name_urls_and_masks_at_urls(s3: LocalS3, tmp_path: Path) -> None:
    url, mask = s3.put("m/1.png", png(1)), s3.put("m/mask.png", png(1))
    (tmp_path / "list.csv").write_text(f"path,mask\n{url},{mask}\n")
    (sample,) = find_samples([str(tmp_path / "list.csv")])
    assert (sample.uri, sample.mask) == (url, mask)


@pytest.mark.parametrize("column", ["path", "uri"])
@pytest.mark.parametrize(
    "text",
    [
        "/etc/passwd", "file:///etc/passwd", "file:/etc/passwd", "FILE:///etc/passwd", "../../secret.png", "a/../../x",
        "a\\..\\..\\x.png", "C:\\secret.png", "\\\\host\\share\\x.png", "tar:/etc/x.tar#a@512+1", "parquet:/x#a#0#0",
        "hf:/data#a#b#0", "broken:a#b", "object:a#0", "simplecache::file:///etc/passwd", "local:///etc/passwd",
    ],
)  # fmt: skip
def test_a_manifest_of_others_names_no_file_of_this_machine(web: WebServer, column: str, text: str) -> None:
    """Such a sample fails with a message that names the cell; the others are explained."""
    web.files["/good.png"] = png(1)
    web.files["/list.jsonl"] = "\n".join(json.dumps({column: cell}) for cell in (text, "good.png")).encode()
    samples = find_samples([web.url("/list.jsonl")])
    kinds = [split_uri(sample.uri)[0] for sample in samples]
    if text.startswith("simplecache"):  # no file of this machine: a name at the server
        assert samples[0].uri == web.url("/simplecache%3A%3Afile%3A/etc/passwd")
    else:
        assert kinds[0] == "broken"
        assert column in split_uri(samples[0].uri)[1][1]
    assert open_image(samples[1].uri).size == (60, 45)


@pytest.mark.parametrize("server", ["s3", "http"])
def test_shards_are_listed_once_and_their_images_read_by_themselves(
    s3: LocalS3, web: WebServer, tmp_path: Path, server: str
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        content = tar(a_png=png(number), a_cls=b"bee", b_png=b"no image", c_png=png(number + 5))
        (tmp_path / "in" / f"shard-{number}.tar").write_bytes(content)
        web.files[f"/shard-{number}.tar"] = content
        s3.put(f"shards/shard-{number}.tar", content)
    url = f"s3://{BUCKET}/shards/shard-{{0..1}}.tar" if server == "s3" else web.url("/shard-{0..1}.tar")
    run(url, tmp_path / "remote", workers=2, max_errors=9)
    run(str(tmp_path / "in" / "shard-{0..1}.tar"), tmp_path / "local", max_errors=9)
    remote, local = rows(tmp_path / "remote"), rows(tmp_path / "local")
    assert [row["label"] for row in remote[:3]] == ["bee", None, None]
    for there, here in zip(remote, local, strict=True):
        np.testing.assert_array_equal(there["grid"], here["grid"])
        assert {**there, "uri": "", "grid": 0} == {**here, "uri": "", "grid": 0}
    if server == "http":
        parts = [headers["Range"] for _, headers in web.requests if "Range" in headers]
        assert len(parts) >= 4


def test_a_shard_that_is_damaged_or_gone_fails_alone(s3: LocalS3) -> None:
    whole = tar(a_png=png(1), b_png=png(2))
    urls = [
        s3.put("bad/1.tar", whole[:3000]),
        s3.put("bad/2.tar", b"\x1f\x8b rubbish"),
        s3.put("bad/3.tar", whole),
    ]
    samples = find_samples(urls)
    assert [split_uri(sample.uri)[0] for sample in samples] == ["tar", "broken", "broken", "tar", "tar"] or [
        split_uri(sample.uri)[0] for sample in samples
    ] == ["tar", "tar", "broken", "broken", "tar", "tar"]


def test_parquet_files_with_images(s3: LocalS3) -> None:
    file = io.BytesIO()
    images = [{"bytes": png(i), "path": f"{i}.png"} for i in range(5)]
    pq.write_table(pa.table({"image": images, "label": list("abcde")}), file, row_group_size=2)
    samples = find_samples([s3.put("hub/train.parquet", file.getvalue())])
    assert [sample.label for sample in samples] == list("abcde")
    for seed, sample in enumerate(samples):
        np.testing.assert_array_equal(np.asarray(open_image(sample.uri)), np.asarray(photo(seed)))


def test_what_fails_costs_its_sample_alone(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cfcam_gpu._utils.places import place

    monkeypatch.setattr(place, "SILENCE", 0.3)
    web.files |= {"/1.png": png(1), "/denied.png": png(2), "/empty.png": b"", "/text.png": b"no image"}
    web.statuses["/denied.png"] = [403] * 9
    names = ("1.png", "gone.png", "denied.png", "hangs", "empty.png", "text.png")
    web.files["/list.csv"] = "\n".join(("path", *names)).encode()
    summary = run(web.url("/list.csv"), tmp_path / "out", max_errors=9)
    stored = {row["sample_id"]: row for row in rows(tmp_path / "out")}
    assert (summary.tally.ok, summary.tally.skipped) == (1, 5)
    assert {
        name: (row["stage"], row["message"].split(" (")[0]) for name, row in stored.items() if row["message"]
    } == {
        "gone.png": ("read", "there is no such file"),
        "denied.png": ("read", "access denied"),
        "hangs": ("read", "the server did not answer for 0.3 s"),
        "empty.png": ("decode", "empty file"),
        "text.png": ("decode", stored["text.png"]["message"]),
    }


@pytest.mark.parametrize("workers", [0, 1])
def test_credentials_reach_the_server_and_no_file(web: WebServer, tmp_path: Path, workers: int) -> None:
    """Signed URLs work in worker processes; nothing that the run writes or says holds them."""
    web.files |= {"/1.png": png(1), "/2.png": png(2), "/s.tar": tar(a_png=png(3))}
    web.passwords["/2.png"] = "me:sesame2"
    cells = [
        web.url("/1.png?X-Amz-Signature=sesame1&size=5"), web.url("/2.png", user="me:sesame2@"),
        web.url("/gone.png?sig=sesame3"),
    ]  # fmt: skip
    (tmp_path / "list.csv").write_text("path\n" + "\n".join(cells))
    inputs = [str(tmp_path / "list.csv"), web.url("/s.tar?token=sesame4")]
    summary = run(inputs, tmp_path / "out", workers=workers, max_errors=9)
    assert (summary.tally.ok, summary.tally.skipped) == (3, 1)
    asked = [path for path, _ in web.requests]
    assert "/1.png?X-Amz-Signature=sesame1&size=5" in asked
    assert "/gone.png?sig=sesame3" in asked
    for path in (tmp_path / "out").rglob("*"):
        if path.suffix == ".parquet":
            assert "sesame" not in str(
                pq.read_table(path).drop_columns(["grid"] if "part" in path.name else []).to_pylist()
            )
        elif path.is_file():
            assert b"sesame" not in path.read_bytes(), path
    for row in rows(tmp_path / "out"):
        assert "sesame" not in f"{row['sample_id']}{row['uri']}{row['message']}{row['overlay']}"
    # A manifest that was signed anew goes on with the same run.
    (tmp_path / "list.csv").write_text("path\n" + "\n".join(cells).replace("sesame1", "sesame9"))
    assert run(inputs, tmp_path / "out", workers=workers, max_errors=9).before == 4


@pytest.mark.parametrize("source", [list, set, SpooledSamples])
def test_samples_of_ones_own_are_stored_without_credentials(
    web: WebServer, tmp_path: Path, source: Callable[[list[Sample]], Collection[Sample]]
) -> None:
    """In a list, and from an object that makes them as they are asked for."""
    web.files["/1.png"] = png(1)
    run(source([Sample("one", web.url("/1.png?sig=sesame"), name="one")]), tmp_path / "out")
    assert (
        b"sesame" not in pq.read_table(tmp_path / "out" / "plan.parquet")["uri"][0].as_buffer().to_pybytes()
    )
    (row,) = rows(tmp_path / "out")
    assert (row["status"], row["uri"]) == ("ok", web.url("/1.png?sig=***"))


def test_a_uri_stays_a_uri() -> None:
    for url in ("s3://b/c#d.png", "hf://datasets/a/b@main/c.png", "s3://b/line\n.png", "hf://a#b#c#d"):
        assert split_uri(url_uri(url)) == ("url", [url])
    assert split_uri("hf://data/set#data.arrow#image#3")[0] == "hf"


def test_a_missing_package_is_told_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    (tmp_path / "list.csv").write_text("path\ns3://bucket/1.png\n")
    for given in ("s3://bucket/photos", str(tmp_path / "list.csv")):
        with pytest.raises(MissingPackageError, match=r"s3fs .*pip install 'cfcam-gpu\[s3\]'"):
            find_samples([given])


def test_files_in_memory_are_read_by_this_process(tmp_path: Path) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe_file("/folder/sub/1.png", png(1))
    run("memory://folder", tmp_path / "out")
    (row,) = rows(tmp_path / "out")
    assert (row["sample_id"], row["status"]) == ("sub/1.png", "ok")


def test_an_image_may_have_so_many_bytes(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from cfcam_gpu.errors import ImageError
    from cfcam_gpu.images import decode

    monkeypatch.setattr(decode, "MAX_URL_BYTES", 100)
    web.files["/1.png"] = png(1)
    with pytest.raises(ImageError, match="more than 100 bytes"):
        open_image(web.url("/1.png"))


def test_a_picture_of_the_report_is_read_from_its_url(s3: LocalS3, tmp_path: Path) -> None:
    from cfcam_gpu.report import write_report

    s3.put("report/1.png", png(1))
    run(f"s3://{BUCKET}/report", tmp_path / "out")
    page = write_report(tmp_path / "out").read_text()
    assert "could not be" not in page
    assert Image.open(tmp_path / "out" / "1_cfcam.png").size == (60, 45)
