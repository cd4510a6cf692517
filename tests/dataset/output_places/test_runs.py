"""Runs whose output folder is at a URL: what is there, what another machine goes on with, and what keeps others out."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cfcam_gpu._utils.places.place import Place
from cfcam_gpu.dataset import open_results
from cfcam_gpu.dataset.execution.observer import Observer
from cfcam_gpu.dataset.run import explain_dataset
from cfcam_gpu.dataset.store import remote_lock, uploads
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.errors import ConfigError, InputError, MissingPackageError, PlaceError, StoreError
from tests.helpers.command import FAILED, OK, SKIPPED, USAGE, cfcam
from tests.helpers.launcher import ROOT
from tests.helpers.places import BUCKET, LocalS3, local_s3
from tests.helpers.smallnet import Recorder, make_loaded, photo, rows, run, save

COUNT, PART = 12, 3
SETTINGS: dict[str, Any] = {"part_size": PART, "batch_size": PART, "max_errors": 9}


@pytest.fixture(autouse=True)
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    monkeypatch.setenv("CFCAM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, this process is one with an empty cache folder."""
    return lambda: monkeypatch.setenv("CFCAM_CACHE", str(tmp_path / "cache of another machine"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures, of which the last cannot be decoded."""
    pictures: dict[str, Any] = {f"{i:02}": photo(i) for i in range(COUNT - 1)}
    return save(tmp_path_factory.mktemp("images") / "in", **pictures, bad=b"")


@pytest.fixture(scope="module")
def on_disk(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run on a disk leaves: parts and pictures."""
    out = tmp_path_factory.mktemp("disk") / "out"
    run(images, out, **SETTINGS)
    return contents(out)


def contents(out: Path) -> dict[str, bytes]:
    files = [path for path in out.rglob("*") if path.is_file() and ".cfcam" not in path.parts]
    return without_states({path.relative_to(out).as_posix(): path.read_bytes() for path in files})


def without_states(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files that do not tell the time of the run."""
    return {name: content for name, content in files.items() if name != "run.json"}


class Server:
    """The output folder of a test, at an S3 or in memory."""

    def __init__(self, kind: str, name: str) -> None:
        self.url = f"s3://{BUCKET}/runs/{name}" if kind == "s3" else f"memory://{name}"

    def files(self) -> dict[str, bytes]:
        place = Place(self.url)
        names = [name for name in place.versions() if not name.startswith(".cfcam/")]
        return {name: place.below(name).read(0, 1 << 26) for name in names}


@pytest.fixture(params=["s3", "memory"])
def server(request: pytest.FixtureRequest, s3: LocalS3) -> Server:
    assert s3
    return Server(request.param, f"{request.node.originalname}-{id(request)}")


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are uploaded."""
    names: list[str] = []
    put = Place.put

    def counted(place: Place, source: Path) -> None:
        put(place, source)
        names.append(source.name)

    monkeypatch.setattr(Place, "put", counted)
    return names


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


KILLED = """
import os, signal, sys
from cfcam_gpu._utils.places.place import Place
from tests.helpers.launcher import wait_until
from tests.helpers.smallnet import Recorder, run

images, url, settings = sys.argv[1], sys.argv[2], eval(sys.argv[3])

def die():
    wait_until(lambda: "part-00001.parquet" in Place(url + "/shards").versions())
    os.kill(os.getpid(), signal.SIGKILL)

run(images, url, observer=Recorder(after=10, action=die), **settings)
"""


def test_a_killed_run_is_gone_on_with_after_its_lock(
    s3: LocalS3,
    images: Path,
    on_disk: dict[str, bytes],
    puts: list[str],
    monkeypatch: pytest.MonkeyPatch,
    another_machine: Callable[[], None],
) -> None:
    """At once on the same machine; on another one when the lock is silent. No part is uploaded twice."""
    for same_machine in (True, False):
        name = f"killed-{same_machine}"
        url = f"s3://{BUCKET}/{name}"
        ended = subprocess.run(
            [sys.executable, "-c", KILLED, str(images), url, repr(SETTINGS)], cwd=ROOT, capture_output=True
        )
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        there = s3.objects(name)
        assert "shards/part-00003.parquet" not in there
        notes = Recorder()
        if not same_machine:
            another_machine()
            with pytest.raises(
                StoreError, match=r"another run \(process \d+ on .*last sign of life \d+ s ago"
            ):
                run(images, url, **SETTINGS)
            monkeypatch.setattr(remote_lock, "SILENT", -1.0)
        del puts[:]
        summary = run(images, url, observer=notes, **SETTINGS)
        assert summary.before >= 2 * PART
        assert any("gives no sign of life" in note for note in notes.notes) != same_machine
        assert without_states(s3.objects(name)) == on_disk
        assert not {Path(file).name for file in there if "part-" in file} & set(puts)


class Steps(Observer):
    """Calls a function once, when so many rows are done."""

    def __init__(self, after: int, action: Callable[[], None]) -> None:
        self.left, self.action = after, action

    def row(self, _row: Row) -> None:
        self.left -= 1
        if self.left == 0:
            self.action()


def test_a_second_run_is_refused_on_this_and_on_another_machine(
    server: Server, images: Path, another_machine: Callable[[], None]
) -> None:
    told: list[str] = []

    def second() -> None:
        for before in (lambda: None, another_machine):
            before()
            for call in (lambda: run(images, server.url, **SETTINGS),):
                with pytest.raises(StoreError) as caught:
                    call()
                told.append(str(caught.value))

    run(images, server.url, observer=Steps(4, second), **SETTINGS)
    assert len(told) == 2
    assert all(f"{server.url} is being written by another run (process " in text for text in told)
    assert len(rows(server.url)) == COUNT


def test_a_run_that_lost_its_lock_ends(server: Server, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_lock, "RENEW_EVERY", 0.0)

    def take() -> None:
        place = Place(server.url)
        number = max(remote_lock._numbers(place))
        assert remote_lock.RemoteLock(place, number + 1, "another machine").create()

    with pytest.raises(StoreError, match="has taken over, since this one gave no sign of life"):
        run(images, server.url, observer=Steps(4, take), **SETTINGS)


def test_a_server_that_dies_ends_the_run_and_the_next_one_does_the_rest(
    images: Path, on_disk: dict[str, bytes], puts: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(uploads, "PATIENCE", 0.3)
    with local_s3() as s3:
        url = f"s3://{BUCKET}/dying"
        with pytest.raises(StoreError) as caught:
            run(images, url, observer=Steps(5, s3.stop), **SETTINGS)
        text = str(caught.value)
        assert text.startswith(f"{url}: the server cannot be reached (")
        assert f"what is finished is kept in {tmp_path}/cache/runs/" in text
        with pytest.raises(
            StoreError, match=f"output folder '{url}' cannot hold results: the server cannot be"
        ):
            run(images, url, **SETTINGS)
        s3.start()
        there = set(s3.objects("dying"))
        del puts[:]
        summary = run(images, url, **SETTINGS)
        assert summary.before >= PART
        assert without_states(s3.objects("dying")) == on_disk
        assert not {Path(name).name for name in there} & set(puts)


def test_a_server_that_is_away_for_a_moment_is_waited_for(images: Path, on_disk: dict[str, bytes]) -> None:
    with local_s3() as s3:

        def away() -> None:
            s3.stop()
            threading.Timer(1.0, s3.start).start()

        run(images, f"s3://{BUCKET}/away", observer=Steps(5, away), **SETTINGS)
        assert without_states(s3.objects("away")) == on_disk


@contextmanager
def with_access_keys(s3: LocalS3, *actions: str) -> Iterator[None]:
    """The S3 looks at the credentials; those of this process allow so much."""
    import boto3
    from moto import settings
    from s3fs import S3FileSystem

    iam = boto3.client("iam", endpoint_url=s3.endpoint, region_name="us-east-1")
    user = uuid.uuid4().hex
    iam.create_user(UserName=user)
    if actions:
        statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_user_policy(UserName=user, PolicyName="some", PolicyDocument=policy)
    key = iam.create_access_key(UserName=user)["AccessKey"]
    S3FileSystem.clear_instance_cache()
    keys = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
    with mock.patch.dict(os.environ, keys), mock.patch.object(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0.0):
        yield
    S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("actions", [(), ("s3:ListBucket", "s3:GetObject")], ids=["nothing", "read only"])
def test_credentials_that_do_not_allow_it_are_told(
    s3: LocalS3, images: Path, actions: tuple[str, ...]
) -> None:
    """Before anything is explained, in one sentence."""
    rows_done = Recorder()
    with (
        with_access_keys(s3, *actions),
        pytest.raises(StoreError, match=r"cannot hold results: access denied .*; check the credentials"),
    ):
        run(images, f"s3://{BUCKET}/denied", observer=rows_done, **SETTINGS)
    assert rows_done.ids == []


def test_a_permission_that_is_taken_away_ends_the_run(s3: LocalS3, images: Path) -> None:
    url = f"s3://{BUCKET}/taken"
    with ExitStack() as stack:
        take = Steps(4, lambda: stack.enter_context(with_access_keys(s3)))
        with pytest.raises(StoreError, match=r"access denied .* is kept in .*/cache/runs/"):
            run(images, url, observer=take, **SETTINGS)
    assert run(images, url, **SETTINGS).before >= PART


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize("bucket", ["no-bucket-of-this-name"])
def test_a_missing_bucket_is_told(images: Path, bucket: str) -> None:
    with pytest.raises(StoreError, match=f"'s3://{bucket}/run' cannot hold results: there is no such bucket"):
        run(images, f"s3://{bucket}/run", **SETTINGS)
    with pytest.raises(StoreError, match="cannot be read: there is no such bucket"):
        open_results(f"s3://{bucket}/run")


def test_a_url_without_results_is_told(server: Server) -> None:
    with pytest.raises(StoreError, match=f"{server.url} holds no results: there is no run.json"):
        open_results(server.url)


FULL = """
import resource, sys
from cfcam_gpu.errors import StoreError
from tests.helpers.smallnet import Recorder, run

images, url, settings = sys.argv[1], sys.argv[2], eval(sys.argv[3])

def fill():
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))

try:
    run(images, url, observer=Recorder(after=4, action=fill), **settings)
except StoreError as error:
    print(error)
"""


def test_a_full_disk_of_this_machine_is_told(
    s3: LocalS3, images: Path, on_disk: dict[str, bytes], tmp_path: Path
) -> None:
    """The run ends; what was finished before is at the URL, and with room again the same command does the rest."""
    url = f"s3://{BUCKET}/full"
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(images), url, repr(SETTINGS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.stdout.startswith(f"cannot write {tmp_path}/cache/runs/"), ended
    assert "File too large; what is done so far is kept, the same command resumes" in ended.stdout
    assert "shards/part-00000.parquet" in s3.objects("full")
    assert run(images, url, **SETTINGS).before >= PART
    assert without_states(s3.objects("full")) == on_disk


def test_a_cache_folder_that_cannot_be_made_is_told(server: Server, images: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    with pytest.raises(StoreError, match=f"{tmp_path}/cache/runs/"):
        run(images, server.url, **SETTINGS)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("https://host/run", "results are not written to https://; give a folder, or a URL of s3://"),
        ("hf://datasets/a/b", "results are not written to hf://"),
        ("s3://", "name a bucket and a folder in it"),
        ("s3://bucket/../up", "without '..'"),
        ("s3://me:word@bucket/run", "without credentials"),
        (Path("s3://bucket/run"), "has lost a slash; give the URL as a text"),
    ],
)
def test_places_that_hold_no_results(
    out: str | Path, message: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        explain_dataset([str(images)], out, make_loaded())
    assert "word" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_several_processes_are_refused(images: Path) -> None:
    for settings in ({"rank": 0, "world_size": 2}, {"distributed": "ray"}):
        with pytest.raises(ConfigError, match="a run writes to a URL from one process"):
            explain_dataset([str(images)], "memory://shared", "efficientnet-lite0", **settings)


def test_a_missing_package_is_named(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingPackageError, match=r"s3fs .*pip install 'cfcam-gpu\[s3\]'"):
        run(images, "s3://bucket/run", **SETTINGS)


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
