"""Records of a run: JSON lines, Prometheus, TensorBoard and MLflow, each read back by its own package."""

from __future__ import annotations

import io
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from prometheus_client.parser import text_string_to_metric_families
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cfcam_gpu.dataset.execution import records
from cfcam_gpu.dataset.execution.observer import Observer
from cfcam_gpu.dataset.execution.records import RECORDS, JsonLines, Together, make_record
from cfcam_gpu.dataset.options import RECORD_KINDS
from cfcam_gpu.errors import ConfigError, InputError, MissingPackageError
from tests.helpers.command import OK, SKIPPED, USAGE, cfcam
from tests.helpers.smallnet import Recorder, run
from tests.helpers.tinynet import TINY

#: Of the fixture `mixed`.
FIGURES = {"samples": 6, "done": 6, "explained": 3, "failed": 3}


def recorded(mixed: Path, out: Path, observer: Observer, **settings: Any) -> None:
    run(mixed, out, observer=observer, **settings)


def test_every_kind_has_its_name():
    assert tuple(RECORDS) == RECORD_KINDS


def test_all_that_an_observer_is_told_is_passed_on():
    told = {name for name, value in vars(Observer).items() if callable(value) and not name.startswith("_")}
    assert told <= set(vars(Together))


def test_json_lines_are_an_event_each(mixed, tmp_path):
    stream = io.StringIO()
    recorded(mixed, tmp_path / "out", JsonLines(stream))
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["begin", "failed", "failed", "failed", "end"]
    assert (events[0]["samples"], events[0]["done"]) == (6, 0)
    failed = {event["sample_id"]: event for event in events[1:4]}
    assert set(failed) == {"b.png", "d.png", "f.png"}
    assert (failed["d.png"]["stage"], failed["b.png"]["stage"]) == ("explain", "decode")
    assert {name: events[-1][name] for name in FIGURES} == FIGURES
    assert all(datetime.fromisoformat(event["time"]).tzinfo for event in events)


def test_progress_comes_between(mixed, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "EVERY", 0.0)
    stream = io.StringIO()
    recorded(mixed, tmp_path / "out", JsonLines(stream), batch_size=1)
    done = [
        event["done"]
        for event in map(json.loads, stream.getvalue().splitlines())
        if event["event"] == "progress"
    ]
    assert done == sorted(done)
    assert len(set(done)) > 1


def test_prometheus_reads_the_gauges(mixed, tmp_path):
    record = make_record(f"prometheus:{tmp_path / 'cfcam.prom'}")
    recorded(mixed, tmp_path / "out", record)
    families = text_string_to_metric_families((tmp_path / "cfcam.prom").read_text())
    values = {family.name: family.samples[0].value for family in families}
    for name, value in FIGURES.items():
        assert values[f"cfcam_{name}"] == value
    assert values["cfcam_finished"] == 1
    with pytest.raises(InputError, match=r"cannot write the metrics .*: "):
        run(mixed, tmp_path / "other", observer=make_record(f"prometheus:{mixed}"))


def test_tensorboard_reads_the_scalars(mixed, tmp_path):
    record = make_record(f"tensorboard:{tmp_path / 'board'}")
    recorded(mixed, tmp_path / "out", record)
    record.close()
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    for name, value in FIGURES.items():
        steps = board.Scalars(f"cfcam/{name}")
        assert (steps[-1].step, steps[-1].value) == (6, value)


@pytest.mark.parametrize("ends", ["FINISHED", "FAILED"])
def test_mlflow_has_a_run_with_the_metrics(mixed, tmp_path, monkeypatch, ends):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "runs").as_uri()
    record = make_record(f"mlflow:{uri}")
    if ends == "FINISHED":
        recorded(mixed, tmp_path / "out", record)
    else:
        with pytest.raises(KeyboardInterrupt):
            recorded(mixed, tmp_path / "out", Together([record, Recorder(after=2)]))
    record.close()
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("cfcam")
    assert experiment is not None
    (made,) = client.search_runs([experiment.experiment_id])
    assert made.info.status == ends
    if ends == "FINISHED":
        assert {name: made.data.metrics[name] for name in FIGURES} == FIGURES


@pytest.mark.parametrize("place", ["http://me:word@127.0.0.1:9", "ftp://me:word@host/runs"])
def test_a_place_that_takes_no_record_is_told_without_its_password(place):
    with pytest.raises(InputError, match=r"no record can be kept at 'mlflow:(http|ftp)://\*\*\*@") as caught:
        make_record(f"mlflow:{place}")
    assert "word" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_record_whose_place_is_away_later_ends_no_run(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("cfcam_gpu.dataset.execution.records.EVERY", 0.0)
    folder = tmp_path / "metrics"
    folder.mkdir()
    record = make_record(f"prometheus:{folder / 'cfcam.prom'}")
    record.begin(3, record.tally)
    folder.rename(tmp_path / "away")
    folder.write_text("a file in its place")
    for _ in range(3):
        record.tick()
    assert [entry.message.partition(": ")[0] for entry in caplog.records] == [
        "the record PrometheusFile is not kept at the moment"
    ]
    folder.unlink()
    (tmp_path / "away").rename(folder)
    record.end()
    assert "cfcam_finished 1" in (folder / "cfcam.prom").read_text()


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, tmp_path, kind):
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(MissingPackageError, match=rf"{kind} .*run: pip install 'cfcam-gpu\[{kind}\]'"):
        make_record(f"{kind}:{tmp_path}")


def test_mistakes_are_said():
    with pytest.raises(
        ConfigError, match="unknown record 'graphite'; choose one of: prometheus, tensorboard"
    ):
        make_record("graphite:x")
    with pytest.raises(ConfigError, match="a record needs its place: prometheus:PLACE"):
        make_record("prometheus")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from tests.helpers.tinynet import FACTORY

    monkeypatch.chdir(tmp_path)
    Path("tinynet.py").write_text(FACTORY)
    Path("names.txt").write_text("ant\nbumble bee\ncat\n")
    return tmp_path


@pytest.mark.usefixtures("work")
def test_the_command_logs_json_and_keeps_records(mixed):
    given = ("explain", str(mixed), "--out", "out", *TINY, "--workers", "0")
    outcome = cfcam(*given, "--log-format", "json", "--records", "prometheus:a.prom,prometheus:b.prom")
    assert outcome.status == SKIPPED
    events = [json.loads(line) for line in outcome.err.splitlines()]
    assert [event["event"] for event in events] == ["begin", "failed", "failed", "end"]
    assert Path("a.prom").read_text().count("cfcam_failed 2\n") == Path("b.prom").read_text().count(
        "cfcam_failed 2\n"
    )
    assert "cfcam_failed 2\n" in Path("a.prom").read_text()
    again = cfcam(*given, "--records", "prometheus:a.prom", "--json")
    assert again.status in (OK, SKIPPED)
    empty = cfcam(*given, "--records", "")
    assert (empty.status, empty.err) == (
        USAGE,
        "error: --records takes names separated by commas, got ''\n",
    )
    wrong = cfcam(*given, "--log-format", "xml")
    assert (wrong.status, wrong.err) == (
        USAGE,
        "error: unknown log format 'xml'; choose one of: text, json\n",
    )
