"""Runs at a URL that are killed, kept out, cut off or not allowed: what is told, and that the next one goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import pytest

from cfcam_gpu._utils.places.place import Place
from cfcam_gpu.dataset import open_results
from cfcam_gpu.dataset.execution.observer import Observer
from cfcam_gpu.dataset.run import explain_dataset
from cfcam_gpu.dataset.store import remote_lock, uploads
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.errors import ConfigError, InputError, MissingPackageError, StoreError
from tests.dataset.output_places.conftest import COUNT, PART, SETTINGS, Server, without_states
from tests.helpers.launcher import ROOT
from tests.helpers.places import BUCKET, LocalS3, local_s3
from tests.helpers.smallnet import Recorder, make_loaded, rows, run

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
        ("az://box/run", "results are not written to az://; give a folder"),
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
