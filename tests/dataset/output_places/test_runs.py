"""Runs whose output folder is at a URL: what is there, and what this and another machine go on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from cfcam_gpu._utils.places.place import Place
from cfcam_gpu.dataset import open_results
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.errors import PlaceError, StoreError
from tests.dataset.output_places.conftest import COUNT, PART, SETTINGS, Server, contents, without_states
from tests.helpers.command import FAILED, OK, SKIPPED, USAGE, cfcam
from tests.helpers.places import BUCKET, LocalS3
from tests.helpers.smallnet import Recorder, photo, rows, run, save


def test_the_url_has_the_bytes_of_a_run_on_a_disk(
    server: Server, images: Path, on_disk: dict[str, bytes], puts: list[str]
) -> None:
    """Each file is uploaded once, nothing is uploaded by a run that finds all done."""
    summary = run(images, server.url, workers=2, **SETTINGS)
    assert (summary.place, summary.tally.ok, summary.tally.skipped) == (server.url, COUNT - 1, 1)
    assert without_states(server.files()) == on_disk
    assert sorted(puts) == sorted(Path(name).name for name in server.files())
    del puts[:]
    again = run(images, server.url + "/", **SETTINGS)
    assert (again.before, again.now, puts) == (COUNT, 0, [])
    assert not list(summary.out.glob("*.png"))


def test_the_part_comes_after_its_pictures(server: Server, images: Path, puts: list[str]) -> None:
    run(images, server.url, **SETTINGS)
    parts = [i for i, name in enumerate(puts) if name.startswith("part-")]
    assert puts[:2] == ["plan.parquet", "run.json"]
    for number, position in enumerate(parts):
        before = [name for name in puts[:position] if name.endswith(".png")]
        assert len(before) >= min(PART * (number + 1), COUNT - 1)


def test_another_machine_goes_on_and_reads(
    server: Server, images: Path, on_disk: dict[str, bytes], another_machine: Callable[[], None]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(images, server.url, observer=Recorder(after=2 * PART + 1), **SETTINGS)
    assert "shards/part-00001.parquet" in server.files()
    assert "shards/part-00003.parquet" not in server.files()
    another_machine()
    assert len(rows(server.url)) == 2 * PART
    summary = run(images, server.url, **SETTINGS)
    assert (summary.before, summary.now) == (2 * PART, COUNT - 2 * PART)
    assert without_states(server.files()) == on_disk


def test_this_machine_goes_on_with_the_rows_of_an_unfinished_part(
    server: Server, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cfcam_gpu.dataset.store import journal

    monkeypatch.setattr(journal, "WRITE_EVERY", 0.0)
    settings = {**SETTINGS, "part_size": 6, "batch_size": 1}
    with pytest.raises(KeyboardInterrupt):
        run(images, server.url, observer=Recorder(after=8), **settings)
    assert run(images, server.url, **settings).before >= 7
    run(images, tmp_path / "disk", **settings)
    assert without_states(server.files()) == contents(tmp_path / "disk")


def test_labels_report_and_exports(
    server: Server, tmp_path: Path, another_machine: Callable[[], None]
) -> None:
    from cfcam_gpu.report import write_report

    for label in ("ant", "bee"):
        save(tmp_path / "in" / label, a=photo(1), b=photo(2))
    run(tmp_path / "in", server.url, **SETTINGS)
    assert json.loads(server.files()["summary.json"])["labelled"] == 4
    another_machine()
    page = write_report(server.url)
    assert server.files()["report.html"] == page.read_bytes()
    assert open_results(server.url).counts()["ok"] == 4
    other = write_report(server.url, tmp_path / "page.html")
    assert other.is_file()


def test_a_report_with_files_beside_it_replaces_them(server: Server, images: Path) -> None:
    from cfcam_gpu.report import write_report

    run(images, server.url, **SETTINGS)
    Place(f"{server.url}/report_files/mine.txt").write(b"mine")
    for limit in (8, 9):
        write_report(server.url, limit=limit, self_contained=1)
        beside = {name.split("/")[1] for name in server.files() if name.startswith("report_files/")}
        assert len(beside) == 2
        assert "mine.txt" in beside


def test_overwrite_removes_the_run_and_nothing_else(server: Server, images: Path) -> None:
    Place(f"{server.url}/mine.txt").write(b"mine")
    Place(f"{server.url}/notes/mine_cfcam.png").write(b"mine")
    run(images, server.url, **SETTINGS)
    with pytest.raises(StoreError, match="holds another run"):
        run(images, server.url, **{**SETTINGS, "part_size": 6})
    run(images, server.url, **{**SETTINGS, "part_size": 6, "overlays": "jpeg"}, overwrite=True)
    files = server.files()
    assert files.pop("mine.txt") == files.pop("notes/mine_cfcam.png") == b"mine"
    assert sorted(files) == sorted(
        [
            *(f"{i:02}_cfcam.jpg" for i in range(COUNT - 1)), "plan.parquet", "run.json",
            "shards/part-00000.parquet", "shards/part-00001.parquet",
        ]
    )  # fmt: skip


@pytest.mark.parametrize("removals", [0, 2, 9, 10])
def test_an_overwrite_that_is_cut_leaves_a_run_that_goes_on(
    server: Server, tmp_path: Path, another_machine: Callable[[], None], removals: int
) -> None:
    """It has fewer parts then, and no file is damaged."""
    for label in ("ant", "bee"):
        save(tmp_path / "in" / label, a=photo(1), b=photo(2), c=photo(3))
    settings = {**SETTINGS, "part_size": 2, "batch_size": 2}
    Place(f"{server.url}/metrics.parquet").write(b"mine, though an evaluation has such a file")
    run(tmp_path / "in", server.url, **settings)
    before, remove, left = server.files(), Place.remove, [removals]

    def removed(place: Place) -> None:
        if ".cfcam" not in place.url:
            left[0] -= 1
            if left[0] < 0:
                raise PlaceError("access denied")
        remove(place)

    another_machine()
    with (
        mock.patch.object(Place, "remove", removed),
        pytest.raises(StoreError, match="access denied; the same command goes on"),
    ):
        run(tmp_path / "in", server.url, overwrite=True, **settings)
    after = server.files()
    assert after.items() <= before.items()
    assert len(after) == len(before) - removals
    summary = run(tmp_path / "in", server.url, **settings)
    assert summary.now == 2 * min(removals, 3)
    assert server.files() == before


def test_failed_samples_are_redone_on_another_machine(
    server: Server, tmp_path: Path, another_machine: Callable[[], None]
) -> None:
    """The pictures of the other samples of their part are not here."""
    folder = save(tmp_path / "in" / "sub", a=photo(1), b=b"", c=photo(3)).parent
    outs = (server.url, tmp_path / "disk")
    for out in outs:
        run(folder, out, **SETTINGS)
    save(folder / "sub", b=photo(2))
    another_machine()
    for out in outs:
        summary = run(folder, out, retry_failed=True, **SETTINGS)
        assert (summary.tally.ok, summary.now) == (3, 1)
    assert without_states(server.files()) == contents(tmp_path / "disk")


def test_new_samples_are_added_and_the_first_machine_sees_them(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path / "in", a=photo(1), b=photo(2))
    run(folder, server.url, **SETTINGS)
    save(folder, c=photo(3))
    for cache, expected in (("cache 2", (2, 1)), ("cache", (3, 0))):
        monkeypatch.setenv("CFCAM_CACHE", str(tmp_path / cache))
        summary = run(folder, server.url, **SETTINGS)
        assert (summary.before, summary.now) == expected
    assert [row["sample_id"] for row in rows(server.url)] == ["a.png", "b.png", "c.png"]


def test_a_run_of_another_machine_replaces_what_is_here(
    server: Server, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(images, server.url, **SETTINGS)
    monkeypatch.setenv("CFCAM_CACHE", str(tmp_path / "cache 2"))
    run(images, server.url, **{**SETTINGS, "method": "gradcam"}, overwrite=True)
    monkeypatch.setenv("CFCAM_CACHE", str(tmp_path / "cache"))
    assert open_results(server.url).run["fingerprint"]["method"] == "gradcam"
    assert len(rows(server.url)) == COUNT
    with pytest.raises(StoreError, match=r"holds another run: method"):
        run(images, server.url, **SETTINGS)


def test_an_emptied_url_begins_anew(server: Server, images: Path, on_disk: dict[str, bytes]) -> None:
    run(images, server.url, **SETTINGS)
    for name in Place(server.url).versions():
        Place(f"{server.url}/{name}").remove()
    assert run(images, server.url, **SETTINGS).before == 0
    assert without_states(server.files()) == on_disk


def test_rows_at_the_url_name_no_files_of_this_machine(
    server: Server, tmp_path: Path, another_machine: Callable[[], None]
) -> None:
    """The pictures of kept rows are uploaded and removed, if they are any."""
    folder = save(tmp_path / "in", a=photo(1), b=b"")
    summary = run(folder, server.url, **SETTINGS)
    another_machine()
    secret = tmp_path / "cache of another machine" / "secret_cfcam.png"
    store = Store(summary.out)
    for name in ("../../../secret_cfcam.png", str(secret), "run.json", "shards/part-00000.parquet"):
        lines = store.read_rows(0)
        lines[0]["overlay"] = name
        store.write_part(0, lines, (8, 8))
        Place(f"{server.url}/shards/part-00000.parquet").put(store.part_file(0))
        secret.parent.mkdir(exist_ok=True)
        secret.write_bytes(b"secret")
        again = run(folder, server.url, retry_failed=True, **SETTINGS)
        assert (again.out / "run.json").exists()
        assert secret.read_bytes() == b"secret"
        assert b"secret" not in server.files().values()


def test_parts_without_their_run_are_refused(server: Server, images: Path) -> None:
    run(images, server.url, **SETTINGS)
    Place(f"{server.url}/run.json").remove()
    with pytest.raises(StoreError, match=r"holds parts but run.json is missing; .* --overwrite"):
        run(images, server.url, **SETTINGS)
    assert run(images, server.url, overwrite=True, **SETTINGS).now == COUNT


def test_results_below_the_inputs_are_no_inputs(s3: LocalS3, images: Path) -> None:
    for path in sorted(images.iterdir())[:3]:
        s3.put(f"below/{path.name}", path.read_bytes())
    for inputs in (f"s3://{BUCKET}/below", f"s3://{BUCKET}/below/*"):
        for before in (0, 3):
            out = f"s3://{BUCKET}/below/maps{len(inputs)}"
            summary = run(inputs, out, **SETTINGS)
            assert (summary.before, summary.total) == (before, 3)
        for name in s3.objects(out.removeprefix(f"s3://{BUCKET}/")):
            s3.client.delete_object(Bucket=BUCKET, Key=f"below/maps{len(inputs)}/{name}")


MODEL = ("--size", "64", "--device", "cpu", "--engine", "torch")


def test_the_commands_take_urls(s3: LocalS3, images: Path, tmp_path: Path) -> None:
    url = f"s3://{BUCKET}/commands"
    paths = [str(path) for path in sorted(images.iterdir())[:2]]
    ended = cfcam("explain", *paths, "--out", url, "--report", "--json", *MODEL)
    assert ended.status == OK, ended.err
    told = json.loads(ended.out)
    assert told["out"] == url
    assert told["images"][0]["outputs"] == {"overlay": f"{url}/00_cfcam.png"}
    assert f"report: {url}/report.html" in ended.err
    assert {"00_cfcam.png", "report.html", "shards/part-00000.parquet"} <= s3.objects("commands").keys()
    assert cfcam("report", url).out == f"report: {url}/report.html\n"
    assert cfcam("export", url, str(tmp_path / "maps.npz"), "--to", "npz").status == OK
    assert (tmp_path / "maps.npz").is_file()
    refused = cfcam("export", url, f"{url}/maps.npz", "--to", "npz")
    assert (refused.status, "is written to a disk" in refused.err.replace("│", " ")) == (USAGE, True)
    assert cfcam("explain", *paths, "--out", "memory://x", *MODEL).status == USAGE
    assert cfcam("explain", *paths, "--out", "s3://no-bucket-here/x", *MODEL).status == FAILED


def test_an_evaluation_at_a_url(s3: LocalS3, images: Path, another_machine: Callable[[], None]) -> None:
    url = f"s3://{BUCKET}/measured"
    paths = [str(path) for path in sorted(images.iterdir())[-3:]]
    arguments = (*paths, "--out", url, *MODEL, "--methods", "gradcam,layercam", "--metrics", "drop")
    ended = cfcam("evaluate", *arguments, "--max-errors", "9")
    assert ended.status == SKIPPED, ended.err
    assert f"report: {url}/report.html" in ended.out
    files = s3.objects("measured")
    assert {"evaluation.json", "summary.json", "metrics.parquet", "report.html"} <= files.keys()
    assert "shards/part-00000.parquet" in files
    assert "plots/bars.png" in files
    for name in ("plots/earlier.png", "plots/mine.txt"):
        s3.put(f"measured/{name}", b"")
    another_machine()
    again = cfcam("evaluate", *arguments, "--max-errors", "9", "--json")
    assert json.loads(again.out)["done_before"] == 3
    files = s3.objects("measured")
    assert json.loads(files["summary.json"])["cost"]
    assert "plots/earlier.png" not in files
    assert "plots/mine.txt" in files
    refused = cfcam("explain", str(images), "--out", url, *MODEL)
    assert "holds an evaluation" in refused.err
