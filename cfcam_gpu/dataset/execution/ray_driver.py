"""A run spread over a Ray cluster: each actor holds one model and explains parts; this process alone stores them.

All machines must see the images, the output folder and this process's working folder under the same
paths, and have this package. Rows travel by Ray's own protocol; nothing else is unpickled.
"""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from cfcam_gpu.dataset.execution.local import Finished, Follow, Model
from cfcam_gpu.dataset.execution.observer import Interrupted, Observer, watched_signals
from cfcam_gpu.dataset.execution.pipeline import Pictures, Work
from cfcam_gpu.dataset.execution.ray_actor import AT_ONCE, PartActor, Task
from cfcam_gpu.dataset.execution.ray_cluster import joined_cluster, placement
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.dataset.store.fingerprint import differences
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.errors import BackendError, CFCAMError, ConfigError
from cfcam_gpu.models import LoadedModel

#: A part is given up when so many actors have died of it, a run after so many of these or of failed starts in a row.
DEATHS, GIVEN_UP, STARTS = 3, 3, 3

#: Seconds that actors have to end their worker processes; after which it is said that none is ready.
PATIENCE, LONG = 5.0, 60.0


def ray_parts(
    model: Model, options: RunOptions, observer: Observer
) -> AbstractContextManager[tuple[RayParts, dict[str, Any]]]:
    """What explains parts on a cluster, and the content of run.json, once a first actor is ready.

    Joins the cluster at RAY_ADDRESS, or one that this process has joined already, else starts Ray here.

    Raises:
        ConfigError: a model or device that cannot be sent to other processes, at once.
        BackendError: Ray is not installed, at once; it is not there, or has too little for the actors.
        CFCAMError: whatever the actors raise on loading the model.
    """
    if isinstance(model, LoadedModel):
        raise ConfigError(
            "a distributed run loads the model in every actor and got a loaded one; give its specification, "
            "such as 'torchvision:resnet50', or an importable function (functools.partial of load_model) "
            "that loads it"
        )
    if options.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            "Ray assigns the GPUs of a distributed run: its device must be auto, cpu or cuda, got "
            f"{options.device!r}"
        )
    try:
        import ray
    except ImportError as error:
        raise BackendError("Ray is not installed; run: pip install 'cfcam-gpu[ray]'") from error
    return _ray_parts(ray, model, options, observer)


@contextmanager
def _ray_parts(
    ray: ModuleType, model: str | Callable[[], LoadedModel], options: RunOptions, observer: Observer
) -> Iterator[tuple[RayParts, dict[str, Any]]]:
    with joined_cluster(ray):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        count, cpus, gpus = placement(nodes, options.device, options.actors)
        task = Task(model, options, os.getcwd(), None if gpus else cpus)
        # One more thread than parts, for `close`.
        kind = ray.remote(num_cpus=cpus, num_gpus=gpus, max_concurrency=AT_ONCE + 1)(PartActor)
        path = [os.path.abspath(entry) for entry in sys.path]
        parts = RayParts(ray, lambda: kind.remote(path), task, count, observer)
        try:
            run = parts.wait_for_first()
            info = {"command": [os.path.basename(sys.argv[0]), *sys.argv[1:]], "actors": count}
            yield parts, {**run, "info": {**run["info"], **info}}
        finally:
            parts.close()


@dataclass(eq=False)
class _Actor:
    handle: Any
    ready: bool = False
    works: dict[int, Work] = field(default_factory=dict)


class RayParts:
    """Hands parts to actors; replaces actors that die and redoes their parts.

    Args:
        make: makes an actor; its handle. It then starts with the task.
    """

    def __init__(
        self, ray: ModuleType, make: Callable[[], Any], task: Task, count: int, observer: Observer
    ) -> None:
        self.ray, self.make, self.task, self.observer = ray, make, task, observer
        self.run: dict[str, Any] = {}
        self.actors: list[_Actor] = []
        self.calls: dict[Any, tuple[_Actor, Work | None]] = {}
        self.again: deque[Work] = deque()
        self.deaths: Counter[int] = Counter()
        self.given_up: list[str] = []
        self.failed_starts = 0
        self.exhausted = False
        for _ in range(count):
            self._start()

    @property
    def grid(self) -> tuple[int, int]:
        h, w = self.run["grid"]
        return h, w

    @property
    def layer(self) -> str:
        return str(self.run["fingerprint"]["layer"])

    @property
    def engine(self) -> str:
        return str(self.run["info"]["engine"])

    @property
    def device(self) -> str:
        return str(self.run["info"]["device"])

    def wait_for_first(self) -> dict[str, Any]:
        """The content of run.json, from the first actor that is ready. Raises CFCAMError, Interrupted."""
        said = time.monotonic() + LONG
        with watched_signals() as stopped:
            while not self.run:
                number = stopped()
                if number is not None:
                    raise Interrupted(number)
                if time.monotonic() > said:
                    said = math.inf
                    self.observer.note(
                        "no actor is ready yet: the cluster is busy, or the model loads slowly"
                    )
                for _ in self._answers():
                    raise AssertionError("no part has been given to an actor yet")
        return self.run

    def __call__(
        self, works: Iterable[Work], new: int, pictures: Pictures | None, follow: Follow
    ) -> Finished:
        """Yields parts as they get done, in any order; in the end nobody writes any more.

        Raises:
            BackendError: actors do not start, differ, or die of certain parts.
            CFCAMError: whatever an actor raises.
        """
        if pictures is not None:
            pictures.temporary.mkdir(parents=True, exist_ok=True)
        coming = iter(works)
        try:
            while self._assign(coming, pictures):
                follow.check()
                for work, rows in self._answers():
                    for position in work.positions():
                        follow.row(rows[position])
                    yield work.part, rows
        finally:
            self.close()
        if self.given_up:
            raise BackendError("; ".join(self.given_up) + "; all other parts are done")

    def _assign(self, coming: Iterator[Work], pictures: Pictures | None) -> bool:
        """Gives actors what they have room for; false when everything is done."""
        for actor in self.actors:
            while (work := self._next(actor, coming)) is not None:
                actor.works[work.part] = work
                self.calls[actor.handle.explain.remote(work, pictures)] = actor, work
        return not self.exhausted or bool(self.again) or any(actor.works for actor in self.actors)

    def _next(self, actor: _Actor, coming: Iterator[Work]) -> Work | None:
        """A part that was with an actor that died is redone alone, so that no other is blamed for it."""
        if not actor.ready or any(self.deaths[part] for part in actor.works):
            return None
        if self.again:
            return None if actor.works else self.again.popleft()
        if len(actor.works) >= AT_ONCE:
            return None
        work = next(coming, None)
        self.exhausted = work is None
        return work

    def _answers(self) -> Iterator[tuple[Work, list[Row]]]:
        """The next part that is done, if one is within a moment."""
        errors = self.ray.exceptions
        done, _ = self.ray.wait(list(self.calls), timeout=0.2)
        for call in done:
            actor, work = self.calls.pop(call)
            try:
                answer = self.ray.get(call)
            except errors.RayTaskError as error:
                raise self._cause(error) from error
            except errors.RayError as error:
                self._replace(actor, error)
                continue
            if work is None:
                self._welcome(actor, answer)
            else:
                del actor.works[work.part]
                rows, notes = answer
                for line in notes:
                    self.observer.note(line)
                yield work, rows

    def _start(self) -> None:
        actor = _Actor(self.make())
        self.actors.append(actor)
        self.calls[actor.handle.start.remote(self.task)] = actor, None

    def _welcome(self, actor: _Actor, run: dict[str, Any]) -> None:
        self.run = self.run or run
        differ = differences(self.run["fingerprint"], run["fingerprint"])
        if differ:
            raise BackendError(
                f"the actors of this run are not alike: {'; '.join(differ)}; give all machines the same "
                "files and versions"
            )
        actor.ready, self.failed_starts = True, 0

    def _replace(self, actor: _Actor, error: Exception) -> None:
        """What the actor had is done again by others."""
        self.actors.remove(actor)
        self.calls = {call: given for call, given in self.calls.items() if given[0] is not actor}
        with suppress(Exception):  # it is gone, or the machine that it was on
            self.ray.kill(actor.handle)
        reason = _short(error)
        self.failed_starts += not actor.ready
        if self.failed_starts >= STARTS:
            raise BackendError(f"actors do not start ({reason})")
        for work in actor.works.values():
            self._blame(work, reason)
        self.observer.note(f"an actor is gone ({reason}); another one takes its place")
        self._start()

    def _blame(self, work: Work, reason: str) -> None:
        self.deaths[work.part] += 1
        if self.deaths[work.part] < DEATHS:
            self.again.append(work)
            return
        first, last = work.samples[0].sample_id, work.samples[-1].sample_id
        self.given_up.append(
            f"part {work.part} (samples {first!r} to {last!r}) ended its actor {DEATHS} times ({reason}; "
            "out of memory, or an image that crashes a library?)"
        )
        if len(self.given_up) >= GIVEN_UP:
            raise BackendError("; ".join(self.given_up) + "; finished parts are kept")

    def _cause(self, error: Any) -> Exception:
        """What an actor raised; where it could not read what it was sent, what to do."""
        if isinstance(error.cause, self.ray.exceptions.RaySystemError):
            line = str(error.cause).strip().splitlines()[-1]
            return BackendError(
                f"an actor cannot load the model ({line}); a function that does must be importable on all machines"
            )
        return error.cause if isinstance(error.cause, CFCAMError) else error

    def close(self) -> None:
        """Ends the actors and their worker processes."""
        with suppress(Exception):  # whatever Ray cannot do any more, its own end does
            calls = [actor.handle.close.remote() for actor in self.actors if actor.ready]
            if calls:
                self.ray.wait(calls, num_returns=len(calls), timeout=PATIENCE)
            for actor in self.actors:
                self.ray.kill(actor.handle)
        self.actors, self.calls = [], {}


def _short(error: Exception) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip() or type(error).__name__
    return plain.splitlines()[0].rstrip(".")
