"""Observers that keep a record of a run: lines of JSON, a Prometheus text file, TensorBoard, MLflow."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, TextIO

from cfcam_gpu._utils.json_lines import event_line
from cfcam_gpu._utils.messages import first_line, printable, unknown
from cfcam_gpu._utils.optional import require
from cfcam_gpu._utils.places.masking import masked
from cfcam_gpu.dataset.execution.observer import Observer, Tally, log
from cfcam_gpu.dataset.store.atomic_files import os_reason, write_atomically
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.errors import CFCAMError, ConfigError, InputError

#: Seconds between two entries of a record.
EVERY = 10.0


class Together(Observer):
    """Tells several observers.

    Example:
        >>> import sys
        >>> Together([JsonLines(sys.stdout)]).note("hello")  # doctest: +ELLIPSIS
        {"event": "note", "time": "...", "message": "hello"}
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.observers = observers

    def begin(self, total: int, done: Tally) -> None:
        for observer in self.observers:
            observer.begin(total, Tally(done.ok, done.skipped, done.blank))

    def row(self, row: Row) -> None:
        for observer in self.observers:
            observer.row(row)

    def step(self, steps: int) -> None:
        for observer in self.observers:
            observer.step(steps)

    def tick(self) -> None:
        for observer in self.observers:
            observer.tick()

    def note(self, line: str) -> None:
        for observer in self.observers:
            observer.note(line)

    def end(self) -> None:
        for observer in self.observers:
            observer.end()


class Record(Observer, ABC):
    """Counts the samples, and calls `write` with the figures at the beginning, every `EVERY` seconds and at the end.

    Override `write`, and `close`, which is called when the run is over, also by an error. What fails at the beginning
    ends the run; what fails later, as where a server is away, is told once and tried again.
    """

    #: Whether what fails later ends the run too.
    ends_with_its_place: ClassVar[bool] = False

    def __init__(self) -> None:
        self.is_away = False
        self.tally, self.total, self.now, self.finished = Tally(), 0, 0, False
        self.start = self.last = time.monotonic()

    def begin(self, total: int, done: Tally) -> None:
        self.total, self.tally = total, done
        self.start = self.last = time.monotonic()
        self.write(self.figures())

    def row(self, row: Row) -> None:
        self.now += 1
        self.tally.add(row)

    def tick(self) -> None:
        if time.monotonic() - self.last >= EVERY:
            self.last = time.monotonic()
            self._keep()

    def note(self, line: str) -> None:
        """Notes are for people: whoever shows the run has them."""

    def end(self) -> None:
        self.finished = True
        self._keep()

    def _keep(self) -> None:
        try:
            self.write(self.figures())
            self.is_away = False
        except Exception as error:  # whatever another package raises
            if self.ends_with_its_place:
                raise
            if not self.is_away:
                name = type(self).__name__
                log.warning(
                    "%s",
                    printable(masked(f"the record {name} is not kept at the moment: {first_line(error)}")),
                )
            self.is_away = True

    def figures(self) -> dict[str, float]:
        """Names of figures and their values: samples in all, done, explained, failed, blank, and per second."""
        seconds = max(time.monotonic() - self.start, 1e-9)
        return {
            "samples": self.total,
            "done": self.tally.ok + self.tally.skipped,
            "explained": self.tally.ok,
            "failed": self.tally.skipped,
            "blank": self.tally.blank,
            "samples_per_second": round(self.now / seconds, 3),
        }

    @abstractmethod
    def write(self, figures: dict[str, float]) -> None:
        """Records the figures."""

    def close(self) -> None:
        """Ends the record; `finished` says whether the run came to its end."""


class JsonLines(Record):
    """Writes a JSON object a line for each event: begin, progress, failed (sample), note, end."""

    ends_with_its_place = True  # a command whose reader has gone

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream
        self.begun = False

    def event(self, name: str, **content: Any) -> None:
        """Writes one event with the time in UTC."""
        self.stream.write(event_line(name, **content) + "\n")
        self.stream.flush()

    def row(self, row: Row) -> None:
        super().row(row)
        if row["status"] != "ok":
            names = ("sample_id", "uri", "stage", "error_type", "message")
            self.event("failed", **{name: row.get(name) for name in names})

    def note(self, line: str) -> None:
        self.event("note", message=line)

    def write(self, figures: dict[str, float]) -> None:
        name = "end" if self.finished else "progress" if self.begun else "begin"
        self.begun = True
        self.event(name, **figures)


class PrometheusFile(Record):
    """Keeps a text file of gauges that Prometheus's node exporter collects (`--collector.textfile`).

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)

    def write(self, figures: dict[str, float]) -> None:
        values = {**figures, "finished": int(self.finished), "updated_seconds": round(time.time(), 3)}
        lines = [f"# TYPE cfcam_{name} gauge\ncfcam_{name} {value}\n" for name, value in values.items()]
        try:
            write_atomically(self.path, "".join(lines).encode())
        except OSError as error:
            raise InputError(f"cannot write the metrics {self.path}: {os_reason(error)}") from error


class TensorBoard(Record):
    """Writes the figures as scalars of TensorBoard; a step is a sample that is done.

    Raises:
        MissingPackageError: tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        require("tensorboard", "tensorboard")
        self.writer = require("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder))

    def write(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(f"cfcam/{name}", value, int(figures["done"]))
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class MLflow(Record):
    """Logs the figures as metrics of a run of MLflow's experiment "cfcam"; a step is a sample that is done.

    Args:
        uri: of the tracking server or its store, as MLflow takes it.

    Raises:
        MissingPackageError: mlflow is not installed.
    """

    def __init__(self, uri: str) -> None:
        super().__init__()
        mlflow = require("mlflow", "mlflow")
        # The run waits meanwhile; MLflow's own settings are minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        self.client = mlflow.MlflowClient(uri)
        experiment = self.client.get_experiment_by_name("cfcam")
        number = experiment.experiment_id if experiment else self.client.create_experiment("cfcam")
        self.run_id = self.client.create_run(number).info.run_id

    def write(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self.client.log_metric(self.run_id, name, value, step=int(figures["done"]))

    def close(self) -> None:
        with suppress(Exception):  # the server is away, which was told
            self.client.set_terminated(self.run_id, "FINISHED" if self.finished else "FAILED")


#: Kind of record -> what makes it from its place.
RECORDS: dict[str, Callable[[str], Record]] = {
    "prometheus": PrometheusFile,
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
}


def make_record(text: str) -> Record:
    """The record that a text `KIND:PLACE` asks for.

    Raises:
        ConfigError: an unknown kind, or no place.
        InputError: the place takes no record.
        MissingPackageError: a package that the record needs is not installed.

    Example:
        >>> make_record("prometheus:cfcam.prom").path.name
        'cfcam.prom'
    """
    kind, _, place = text.partition(":")
    if kind not in RECORDS:
        raise ConfigError(unknown("record", kind, RECORDS))
    if not place:
        raise ConfigError(f"a record needs its place: {kind}:PLACE, a file, folder or address")
    try:
        return RECORDS[kind](place)
    except CFCAMError:
        raise
    except Exception as error:  # whatever the record's package raises
        raise InputError(masked(f"no record can be kept at {text!r}: {first_line(error)}")) from error
