"""A run distributed over a Ray cluster: actors hold a model each and explain parts; this process stores them.

All machines must have this package, and see the images, the output folder and this process's working folder
under the same paths. Rows travel by Ray's own protocol; nothing else is unpickled.
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

from cfcam_gpu._utils.checks import Check, never_ends
from cfcam_gpu.dataset.execution.batch_explainer import BatchExplainer
from cfcam_gpu.dataset.execution.local import Model
from cfcam_gpu.dataset.execution.observer import Interrupted, Observer, watched_signals
from cfcam_gpu.dataset.execution.parts import FinishedParts, OverlayFiles, PendingPart
from cfcam_gpu.dataset.execution.ray_actor import PARTS_AT_ONCE, ActorSetup, ExplainerActor
from cfcam_gpu.dataset.execution.ray_cluster import (
    ActorsDoNotStart,
    HeadWatch,
    about_needless_token,
    import_ray,
    joined_cluster,
    placement,
)
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.dataset.store.fingerprint import differences
from cfcam_gpu.dataset.store.journal import Journals
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.errors import BackendError, CFCAMError, ConfigError
from cfcam_gpu.models import LoadedModel

#: A part is given up after it has ended this many actors.
_MAX_DEATHS = 3

#: The run ends after this many parts were given up, or after this many failed starts in a row.
_MAX_GIVEN_UP, _MAX_FAILED_STARTS = 3, 3

#: What is said where Ray has no room for the rows of a part.
_FULL = (
    "an object store of the Ray cluster is full, and the disk that it spills to as well; what is finished is kept: "
    "make room in Ray's folder (/tmp/ray, or --temp-dir of ray start), or start Ray with a larger "
    "--object-store-memory, and give the same command again"
)

#: Seconds until the user is told that no actor has started yet.
_SLOW_START = 60.0

#: Seconds that actors have to end their worker processes.
_CLOSE_TIMEOUT = 5.0

#: Seconds to wait for an answer before `check` is called again.
_CHECK_INTERVAL = 0.2


def ray_part_explainer(
    model: Model,
    options: RunOptions,
    observer: Observer,
    make: Callable[..., BatchExplainer] = BatchExplainer,
) -> AbstractContextManager[tuple[RayPartExplainer, dict[str, Any]]]:
    """An explainer of parts on a Ray cluster, and the content of run.json, once a first actor is ready.

    Joins the cluster that this process has joined already, or the one at RAY_ADDRESS; else starts Ray on this
    machine.

    Args:
        make: makes an actor's explainer, from the arguments of `BatchExplainer`; it is pickled.

    Raises:
        ConfigError: at once, for a model or device that cannot be given to other processes.
        MissingPackageError: at once, if Ray is not installed.
        BackendError: on entering, if the cluster cannot be reached or has too little for the actors.
        CFCAMError: on entering, whatever the actors raise when they load the model.
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
    return _ray_part_explainer(import_ray(), model, options, observer, make)


@contextmanager
def _ray_part_explainer(
    ray: ModuleType,
    model: str | Callable[[], LoadedModel],
    options: RunOptions,
    observer: Observer,
    make: Callable[..., BatchExplainer],
) -> Iterator[tuple[RayPartExplainer, dict[str, Any]]]:
    with joined_cluster(ray):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        count, cpus, gpus = placement(nodes, options.device, options.actors)
        setup = ActorSetup(model, options, os.getcwd(), None if gpus else cpus, make)
        # One more thread than parts, so that `close` is answered while parts are being explained.
        actor_class = ray.remote(num_cpus=cpus, num_gpus=gpus, max_concurrency=PARTS_AT_ONCE + 1)(
            ExplainerActor
        )
        path = [os.path.abspath(entry) for entry in sys.path]
        head = HeadWatch(ray.get_runtime_context().gcs_address)
        explainer = RayPartExplainer(
            ray, lambda: actor_class.remote(path), setup, count, observer, head.check
        )
        try:
            run = explainer.wait_for_first_actor()
            info = {"command": [os.path.basename(sys.argv[0]), *sys.argv[1:]], "actors": count}
            yield explainer, {**run, "info": {**run["info"], **info}}
        except ActorsDoNotStart as error:
            raise ActorsDoNotStart(f"{error}{about_needless_token(head.address)}") from error
        finally:
            explainer.close()


@dataclass(eq=False)
class _Actor:
    """An actor's handle, and the parts that it has by their number."""

    handle: Any
    ready: bool = False
    parts: dict[int, PendingPart] = field(default_factory=dict)


class RayPartExplainer:
    """Hands parts to actors (see `parts.PartExplainer`); replaces actors that die, and redoes their parts.

    Args:
        ray: the module.
        make_actor: makes an actor and returns its handle.
        setup: what each actor is started with.
        count: number of actors.
        check_cluster: called several times a second; raises BackendError if the cluster is gone.
    """

    def __init__(
        self,
        ray: ModuleType,
        make_actor: Callable[[], Any],
        setup: ActorSetup,
        count: int,
        observer: Observer,
        check_cluster: Check = never_ends,
    ) -> None:
        self.ray, self.make_actor, self.setup, self.observer = ray, make_actor, setup, observer
        self.check_cluster = check_cluster
        self.run: dict[str, Any] = {}  # the content of run.json, once an actor is ready
        self.actors: list[_Actor] = []
        self.calls: dict[Any, tuple[_Actor, PendingPart | None]] = {}  # part None: the call of `start`
        self.to_redo: deque[PendingPart] = deque()
        self.deaths: Counter[int] = Counter()  # by the part's number
        self.given_up: list[str] = []
        self.failed_starts = 0
        self.exhausted = False
        for _ in range(count):
            self._start_actor()

    @property
    def map_shape(self) -> tuple[int, int]:
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

    @property
    def steps(self) -> int:
        return 0  # the driver learns of whole parts

    def wait_for_first_actor(self) -> dict[str, Any]:
        """The content of run.json, from the first actor that is ready. Raises CFCAMError, Interrupted."""
        note_at = time.monotonic() + _SLOW_START
        with watched_signals() as arrived_signal:
            while not self.run:
                number = arrived_signal()
                if number is not None:
                    raise Interrupted(number)
                if time.monotonic() > note_at:
                    note_at = math.inf
                    self.observer.note(
                        "no actor is ready yet: the cluster is busy, or the model loads slowly"
                    )
                for _ in self._answers():
                    raise AssertionError("no part has been given to an actor yet")
        return self.run

    def explain(
        self,
        parts: Iterable[PendingPart],
        overlays: OverlayFiles | None,
        journals: Journals,
        on_row: Callable[[Row], None],
        check: Check,
    ) -> FinishedParts:
        """Yields parts in the order in which they get done; afterwards no actor writes any more.

        Raises:
            BackendError: actors do not start, differ, or die of certain parts.
            CFCAMError: whatever an actor raises.
        """
        rest = iter(parts)
        try:
            while self._assign(rest, overlays, journals):
                check()
                for part, rows in self._answers():
                    for position in part.new_positions():
                        on_row(rows[position])
                    yield part.number, rows
        finally:
            self.close()
        if self.given_up:
            raise BackendError("; ".join(self.given_up) + "; all other parts are done")

    def _assign(self, rest: Iterator[PendingPart], overlays: OverlayFiles | None, journals: Journals) -> bool:
        """Gives parts to the actors that have room; false when every part is done."""
        for actor in self.actors:
            while (part := self._next_part(actor, rest)) is not None:
                actor.parts[part.number] = part
                self.calls[actor.handle.explain.remote(part, overlays, journals)] = actor, part
        return not self.exhausted or bool(self.to_redo) or any(actor.parts for actor in self.actors)

    def _next_part(self, actor: _Actor, rest: Iterator[PendingPart]) -> PendingPart | None:
        """The next part for an actor, None if it has no room.

        A part whose actor died is redone alone, so that no other part is blamed if it dies again.
        """
        if not actor.ready or any(self.deaths[number] for number in actor.parts):
            return None
        if self.to_redo:
            return None if actor.parts else self.to_redo.popleft()
        if len(actor.parts) >= PARTS_AT_ONCE:
            return None
        part = next(rest, None)
        self.exhausted = part is None
        return part

    def _answers(self) -> Iterator[tuple[PendingPart, list[Row]]]:
        """The next part that is done, with all its rows; nothing if none gets done within a moment."""
        errors = self.ray.exceptions
        self.check_cluster()
        done, _ = self.ray.wait(list(self.calls), timeout=_CHECK_INTERVAL)
        for call in done:
            actor, part = self.calls.pop(call)
            try:
                answer = self.ray.get(call)
            except (errors.ObjectStoreFullError, errors.OutOfDiskError) as error:
                raise BackendError(_FULL) from error
            except errors.RayTaskError as error:
                raise self._cause(error) from error
            except errors.RayError as error:
                self._replace_actor(actor, error)
                continue
            if part is None:
                self._actor_started(actor, answer)
            else:
                del actor.parts[part.number]
                rows, warnings = answer
                for line in warnings:
                    self.observer.note(line)
                yield part, rows

    def _start_actor(self) -> None:
        actor = _Actor(self.make_actor())
        self.actors.append(actor)
        self.calls[actor.handle.start.remote(self.setup)] = actor, None

    def _actor_started(self, actor: _Actor, run: dict[str, Any]) -> None:
        self.run = self.run or run
        differ = differences(self.run["fingerprint"], run["fingerprint"])
        if differ:
            raise BackendError(
                f"the actors of this run are not alike: {'; '.join(differ)}; give all machines the same "
                "files and versions"
            )
        actor.ready, self.failed_starts = True, 0

    def _replace_actor(self, actor: _Actor, error: Exception) -> None:
        """Starts another actor; the parts of this one are redone."""
        self.actors.remove(actor)
        self.calls = {call: target for call, target in self.calls.items() if target[0] is not actor}
        with suppress(Exception):  # the actor is gone, or its machine
            self.ray.kill(actor.handle)
        reason = _short_reason(error)
        self.failed_starts += not actor.ready
        if self.failed_starts >= _MAX_FAILED_STARTS:
            raise ActorsDoNotStart(f"actors do not start ({reason})")
        for part in actor.parts.values():
            self._count_death(part, reason)
        self.observer.note(f"an actor is gone ({reason}); another one takes its place")
        self._start_actor()

    def _count_death(self, part: PendingPart, reason: str) -> None:
        self.deaths[part.number] += 1
        if self.deaths[part.number] < _MAX_DEATHS:
            self.to_redo.append(part)
            return
        first, last = part.samples[0].sample_id, part.samples[-1].sample_id
        self.given_up.append(
            f"part {part.number} (samples {first!r} to {last!r}) ended its actor {_MAX_DEATHS} times ({reason}; "
            "out of memory, or an image that crashes a library?)"
        )
        if len(self.given_up) >= _MAX_GIVEN_UP:
            raise BackendError("; ".join(self.given_up) + "; finished parts are kept")

    def _cause(self, error: Any) -> Exception:
        """The exception that an actor raised; a message with a remedy if it could not load the model."""
        if isinstance(error.cause, self.ray.exceptions.RaySystemError):
            line = str(error.cause).strip().splitlines()[-1]
            return BackendError(
                f"an actor cannot load the model ({line}); a function that does must be importable on all machines"
            )
        return error.cause if isinstance(error.cause, CFCAMError) else error

    def close(self) -> None:
        """Ends the actors and their worker processes."""
        with suppress(Exception):  # whatever fails here, the end of Ray does
            calls = [actor.handle.close.remote() for actor in self.actors if actor.ready]
            if calls:
                self.ray.wait(calls, num_returns=len(calls), timeout=_CLOSE_TIMEOUT)
            for actor in self.actors:
                self.ray.kill(actor.handle)
        self.actors, self.calls = [], {}


def _short_reason(error: Exception) -> str:
    """The first line of an error of Ray, without terminal colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip() or type(error).__name__
    return plain.splitlines()[0].rstrip(".")
