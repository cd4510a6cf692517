"""Runs spread over a real Ray on this machine: the rows are those of a plain run, also when actors die."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from cfcam_gpu.dataset import open_results
from cfcam_gpu.dataset.execution.observer import Interrupted
from cfcam_gpu.dataset.execution.parts import PendingPart
from cfcam_gpu.dataset.execution.ray_actor import ActorSetup, ExplainerActor
from cfcam_gpu.dataset.execution.ray_cluster import _OwnOutput, joined_cluster, placement
from cfcam_gpu.dataset.execution.ray_driver import RayPartExplainer
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.dataset.run_summary import RunSummary
from cfcam_gpu.dataset.store.journal import Journals, run_token
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.errors import BackendError, ConfigError, MissingPackageError, ModelError, TooManyErrors
from cfcam_gpu.models import LoadedModel
from tests.helpers.launcher import Ended, Launcher, is_alive, wait_until
from tests.helpers.smallnet import POISON, SLOW_FACTORY, Recorder, make_loaded, photo, rows, run, save

COUNT = 40
SETTINGS = {"part_size": 4, "batch_size": 3, "workers": 1, "max_errors": 5, "engine": "torch"}
DEADLY = (255, 255, 0)

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures, of which two cannot be decoded and one cannot be explained."""
    poison = Image.new("RGB", (9, 9), POISON)
    pictures: dict[str, Image.Image | bytes] = {f"{i:03}": photo(i) for i in range(COUNT)}
    pictures |= {"004": b"", "013": b"no image", "030": poison}
    return save(tmp_path_factory.mktemp("ray") / "in", **pictures)


@pytest.fixture(scope="module")
def whole(folder: Path) -> tuple[pa.Table, dict[str, bytes]]:
    """Rows and pictures of a plain run."""
    out = folder.parent / "whole"
    run(folder, out, **SETTINGS)
    return open_results(out).table(), pictures(out)


@pytest.fixture(scope="module")
def ray() -> Iterator[ModuleType]:
    """A Ray of this process with 2 CPUs."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    yield ray
    ray.shutdown()


def pictures(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.png")}


def on_ray(folder: Path, out: Path, **settings: Any) -> RunSummary:
    return run(
        folder, out, **{"distributed": "ray", "actors": 2, "model": make_loaded, **SETTINGS, **settings}
    )


def assert_same(out: Path, whole: tuple[pa.Table, dict[str, bytes]]) -> None:
    assert open_results(out).table().equals(whole[0])
    assert pictures(out) == whole[1]
    assert not list(out.glob(".cfcam/temporary-*"))
    assert not list(out.rglob("*.part"))


@needs_ray
@pytest.mark.usefixtures("ray")
def test_several_classes_of_an_image_on_ray(folder, tmp_path):
    plain = tmp_path / "plain"
    run(folder, plain, **SETTINGS, top_k=2)
    on_ray(folder, tmp_path / "out", top_k=2)
    assert_same(tmp_path / "out", (open_results(plain).table(), pictures(plain)))
    assert len(pictures(plain)) == 2 * (COUNT - 3)


def slow(loaded: LoadedModel, seconds: float) -> LoadedModel:
    loaded.model.register_forward_pre_hook(lambda *_: time.sleep(seconds))
    return loaded


def telling(pids: Path, seconds: float) -> LoadedModel:
    """Leaves a file called as its process; each of its forward passes takes so long."""
    (pids / str(os.getpid())).touch()
    return slow(make_loaded(), seconds)


def deadly() -> LoadedModel:
    """Ends its process at the sight of a picture that is all `DEADLY`."""
    loaded = make_loaded()

    def look(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        colour = torch.tensor(DEADLY)[None, :, None, None] / 255
        if ((inputs[0] - colour).abs() < 1e-3).flatten(1).all(1).any():
            os.kill(os.getpid(), signal.SIGKILL)

    loaded.model.register_forward_pre_hook(look)
    return loaded


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_rows_and_pictures_are_those_of_a_plain_run(folder, whole, tmp_path):
    recorder = Recorder()
    summary = on_ray(folder, tmp_path / "out", observer=recorder)
    assert_same(tmp_path / "out", whole)
    assert sorted(recorder.ids) == [f"{i:03}.png" for i in range(COUNT)]
    assert (summary.now, summary.tally.ok, summary.tally.skipped) == (COUNT, COUNT - 3, 3)
    assert (summary.layer, summary.device) == ("conv:relu", "cpu")
    assert open_results(tmp_path / "out").run["info"]["actors"] == 2
    again = run(folder, tmp_path / "out", **SETTINGS)
    assert (again.before, again.now, again.engine) == (COUNT, 0, summary.engine)


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_killed_actors_are_replaced_and_nothing_is_lost_or_twice(folder, whole, tmp_path):
    (tmp_path / "pids").mkdir()
    killed: list[int] = []

    def kill() -> None:
        killed.extend(int(path.name) for path in (tmp_path / "pids").iterdir())
        for pid in killed:
            os.kill(pid, signal.SIGKILL)

    recorder = Recorder(9, kill)
    model = functools.partial(telling, tmp_path / "pids", 0.02)
    on_ray(folder, tmp_path / "out", model=model, observer=recorder)
    assert_same(tmp_path / "out", whole)
    assert sorted(recorder.ids) == [f"{i:03}.png" for i in range(COUNT)]
    assert killed
    assert len(list((tmp_path / "pids").iterdir())) > len(killed)
    assert [line for line in recorder.notes if line.startswith("an actor is gone (")]


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_a_part_that_ends_its_actor_every_time_is_named_and_the_others_are_done(tmp_path):
    inputs = save(
        tmp_path / "in", **{f"{i:02}": photo(i) for i in range(12)}, deadly=Image.new("RGB", (9, 9), DEADLY)
    )
    message = (
        r"part 3 \(samples 'deadly.png' to 'deadly.png'\) ended its actor 3 times .*; all other parts are "
    )
    with pytest.raises(BackendError, match=message):
        on_ray(inputs, tmp_path / "out", model=deadly, actors=1)
    assert Store(tmp_path / "out").finished_parts() == {0, 1, 2}
    summary = run(inputs, tmp_path / "out", **SETTINGS)
    assert (summary.before, summary.now, summary.tally.ok) == (12, 1, 13)


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_too_many_errors_end_the_run_and_it_resumes(folder, whole, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(TooManyErrors, match=r"stopped: 2 of \d+ samples failed, more than the 1 allowed"):
        on_ray(folder, out, max_errors=1, actors=1)
    done = len(Store(out).finished_parts())
    assert 0 < done < COUNT // 4
    summary = on_ray(folder, out, actors=1)
    assert summary.before == 4 * done
    assert_same(out, whole)


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_failed_samples_of_a_plain_run_are_redone(tmp_path):
    out, settings = tmp_path / "out", {**SETTINGS, "overlays": "none"}
    inputs = save(tmp_path / "in", **{f"{i:03}": photo(i) if i != 1 else b"" for i in range(6)})
    run(inputs, out, **settings)
    before = open_results(out).table()
    save(tmp_path / "in", **{"001": photo(1)})
    summary = on_ray(inputs, out, actors=1, retry_failed=True, overlays="none")
    assert (summary.before, summary.now, summary.tally.skipped) == (5, 1, 0)
    after, redone = open_results(out).table(), [0, 2, 3, 4, 5]
    assert after.take(redone).equals(before.take(redone))
    run(inputs, tmp_path / "plain", **settings)
    (row, expected) = (rows(folder)[1] for folder in (out, tmp_path / "plain"))
    # Alone in its batch, and beside others: the same but for rounding.
    rounded = ("grid", "prob", "target_prob", "heatmap_max")
    for name in rounded:
        np.testing.assert_allclose(row.pop(name), expected.pop(name), rtol=1e-5)
    assert row == expected


@pytest.mark.parametrize(("retry_failed", "status"), [(False, "error"), (True, "ok")])
def test_an_actor_redoes_failed_rows_of_an_earlier_run_where_asked(tmp_path, retry_failed, status):
    inputs = save(tmp_path / "in", **{f"{i:03}": photo(i) if i != 1 else b"" for i in range(4)})
    settings: dict[str, Any] = {"part_size": 4, "batch_size": 2, "overlays": "none", "engine": "torch"}
    with pytest.raises(KeyboardInterrupt):
        run(inputs, tmp_path / "out", observer=Recorder(2), **settings)
    save(inputs, **{"001": photo(1)})
    options = RunOptions(**settings, retry_failed=retry_failed, layer="conv:relu", device="cpu", workers=0)
    actor, store = ExplainerActor([]), Store(tmp_path / "out")
    actor.start(ActorSetup(make_loaded, options, os.getcwd(), None))
    journals = Journals(store, (8, 8), run_token(store))
    try:
        done, _ = actor.explain(PendingPart(0, store.read_plan().samples(0)), None, journals)
    finally:
        actor.stack.close()
        logging.getLogger("cfcam_gpu").removeHandler(actor.warnings)
    assert [row["status"] for row in done] == ["ok", status, "ok", "ok"]


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_what_an_actor_cannot_load_is_told_in_one_line(folder, tmp_path):
    with pytest.raises(ModelError, match="torchvision has no model 'nothing'"):
        on_ray(folder, tmp_path / "out", model="torchvision:nothing")
    assert not (tmp_path / "out" / "run.json").exists()
    with pytest.raises(BackendError, match="3 actors need a CPU each and the cluster has 2"):
        on_ray(folder, tmp_path / "out", actors=3)


def interrupted(folder: Path, work: Path, number: signal.Signals) -> tuple[Ended, list[int]]:
    """How the command with one slow actor ended after a signal, and the processes it had started."""
    (work / "slownet.py").write_text(SLOW_FACTORY)
    launcher, out = Launcher(work), work / "out"
    model = ("--model", "py:slownet:make", "--size", "32", "--engine", "torch", "--max-errors", "5")
    command = ("explain", str(folder), *model, "--out", "out", "--part-size", "4", "--workers", "1")
    process = launcher.start(*command, "--distributed", "ray", "--actors", "1")
    wait_until(lambda: len(Store(out).finished_parts()) >= 2 or not is_alive(process.pid), 100)
    children = process.children()
    process.kill(number)
    ended = process.wait()
    launcher.close()
    assert ended.out == ""
    assert ended.err.splitlines()[-1].startswith("interrupted; what is finished is kept")
    assert 2 <= len(Store(out).finished_parts()) < COUNT // 4
    assert not list(out.glob(".cfcam/temporary-*"))
    return ended, children


@needs_ray
@pytest.mark.slow
def test_a_signal_ends_the_command_and_its_actors_on_a_cluster_that_it_joined_cluster(
    ray, folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    ended, _ = interrupted(folder, tmp_path, signal.SIGINT)
    assert ended.status == 130, ended.err
    wait_until(lambda: ray.available_resources().get("CPU") == 2)


@needs_ray
@pytest.mark.slow
def test_a_signal_ends_the_command_and_the_ray_it_started(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ended, children = interrupted(folder, tmp_path, signal.SIGTERM)
    assert ended.status == 143, ended.err
    assert children
    wait_until(lambda: not any(map(is_alive, children)))


@needs_ray
def test_a_cluster_that_is_not_there_is_told_at_once(folder, tmp_path, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(
        BackendError, match=r"Ray cannot be .* at '127.0.0.1:1' \(.*refused\); check RAY_ADDRESS"
    ):
        on_ray(folder, tmp_path / "out")


class FakeError(Exception):
    """Ray's errors, for tests without it."""

    cause: Exception | None = None


class FakeTaskError(FakeError):
    pass


class FakeFullError(FakeTaskError):
    """As Ray raises what a task raised: of both classes."""


ray_exceptions = SimpleNamespace(
    RayError=FakeError,
    RayTaskError=FakeTaskError,
    RaySystemError=FakeError,
    ObjectStoreFullError=FakeFullError,
    OutOfDiskError=FakeFullError,
)


class FakeRay:
    """Answers the calls in their order; an exception is raised."""

    exceptions = ray_exceptions

    def __init__(self, *answers: object) -> None:
        self.answers = iter(answers)

    def wait(self, calls: list[object], **_options: float) -> tuple[list[object], list[object]]:
        return calls[:1], calls[1:]

    def get(self, _call: object) -> object:
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, handle: object) -> None:
        pass


def fake_explainer(count: int, *answers: object) -> RayPartExplainer:
    ray: Any = FakeRay(*answers)
    handle = SimpleNamespace(start=SimpleNamespace(remote=lambda _setup: object()))
    setup = ActorSetup("none", RunOptions(), ".", None)
    return RayPartExplainer(ray, lambda: handle, setup, count, Recorder())


def test_actors_that_are_not_alike_are_an_error():
    explainer = fake_explainer(2, *({"fingerprint": {"weights_sha256": text}} for text in "ab"))
    explainer.wait_for_first_actor()
    with pytest.raises(
        BackendError, match="not alike: weights_sha256 was 'a', now 'b'; give all machines the same"
    ):
        list(explainer._answers())


def test_actors_that_do_not_start_are_an_error_and_no_endless_wait():
    boom = ray_exceptions.RayError("\x1b[36mno memory.\x1b[39m\nTraceback …")
    with pytest.raises(BackendError, match=r"^actors do not start \(no memory\)$"):
        fake_explainer(1, boom, boom, boom, {"fingerprint": {}}).wait_for_first_actor()


def test_a_full_object_store_is_told_in_one_line():
    with pytest.raises(
        BackendError, match=r"an object store of the Ray cluster is full, .* what is finished is"
    ):
        fake_explainer(1, FakeFullError("Local disk is full\nTip: …")).wait_for_first_actor()


def test_a_model_that_an_actor_cannot_read_is_told_in_one_line():
    error = ray_exceptions.RayTaskError("no module")
    error.cause = ray_exceptions.RaySystemError("System error\ntraceback\nNo module named 'mine'")
    with pytest.raises(
        BackendError, match=r"cannot load the model \(No module named 'mine'\); a function that does"
    ):
        fake_explainer(1, error).wait_for_first_actor()


@pytest.mark.parametrize(
    ("nodes", "device", "actors", "expected"),
    [
        ([{"CPU": 2}], "auto", None, (1, 2, 0)),
        ([{"CPU": 1}], "auto", None, (1, 1, 0)),
        ([{"CPU": 16}, {"CPU": 7}], "cpu", None, (11, 2, 0)),
        ([{"CPU": 16}, {"CPU": 7}], "auto", 3, (3, 7, 0)),
        ([{"CPU": 2}], "auto", 2, (2, 1, 0)),
        ([{"CPU": 64, "GPU": 8}, {"CPU": 4}], "auto", None, (8, 1, 1)),
        ([{"CPU": 64, "GPU": 8}, {"CPU": 64, "GPU": 8}], "cuda", 5, (5, 1, 1)),
        ([{"CPU": 4, "GPU": 8}], "cpu", None, (2, 2, 0)),
    ],
)
def test_actors_fill_the_cluster_and_fit_its_machines(nodes, device, actors, expected):
    assert placement(nodes, device, actors) == expected


@pytest.mark.parametrize(
    ("nodes", "device", "actors", "message"),
    [
        ([{"CPU": 4}], "auto", 5, "5 actors need a CPU each and the cluster has 4"),
        ([{"CPU": 4, "GPU": 2}], "auto", 3, "3 actors need a GPU each and the cluster has 2"),
        ([{"CPU": 4}], "cuda", None, "the cluster has no GPU"),
    ],
)
def test_a_cluster_that_is_too_small_is_an_error(nodes, device, actors, message):
    with pytest.raises(BackendError, match=message):
        placement(nodes, device, actors)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"model": make_loaded()},
            "loads the model in every actor and got a loaded one; give its specification",
        ),
        (
            {"device": "cuda:1"},
            "its device must be auto, cpu or cuda, got 'cuda:1'",
        ),
        ({"distributed": "dask"}, "unknown way to distribute a run 'dask'; choose one of: ray"),
        ({"actors": 0}, "actors must be at least 1, got 0"),
        (
            {"distributed": None},
            "a number of actors is for a distributed run; give --distributed ray as well",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_read(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        on_ray(tmp_path / "missing", tmp_path / "out", **settings)


def test_what_rays_own_threads_print_stays_out_of_standard_output(capsys):
    with redirect_stdout(_OwnOutput(sys.stdout)):
        print("the result")
        thread = threading.Thread(target=print, args=("(raylet) a worker died",))
        thread.start()
        thread.join()
    assert tuple(capsys.readouterr()) == ("the result\n", "(raylet) a worker died\n")


def test_rays_own_end_at_sigterm_is_an_interruption(monkeypatch):
    def init(**_settings: object) -> None:
        signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    ray: Any = SimpleNamespace(is_initialized=lambda: False, init=init)
    with (
        pytest.raises(Interrupted) as caught,
        joined_cluster(ray),
    ):
        pass
    assert caught.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("mode", [None, "token", "disabled"])
def test_where_something_answers_and_ray_does_not_the_token_is_named(mode, monkeypatch):
    def init(**_settings: object) -> None:
        raise RuntimeError("Failed to connect to Ray cluster")

    ray: Any = SimpleNamespace(is_initialized=lambda: False, init=init)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(BackendError, match="cannot be reached") as caught, joined_cluster(ray):
            pass
    assert ("set RAY_AUTH_MODE=token here too" in str(caught.value)) == (mode is None)
    with (
        pytest.raises(BackendError, match=r"on this machine$"),
        joined_cluster(ray),
    ):  # nothing answers there now
        pass


def test_without_ray_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        MissingPackageError, match=r"Ray is not installed; run: pip install 'cfcam-gpu\[ray\]'"
    ):
        on_ray(tmp_path / "missing", tmp_path / "out")
