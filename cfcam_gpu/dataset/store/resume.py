"""How a run begins: with a new plan, or with the stored plan plus the samples that are new among the inputs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import compress, islice, starmap, zip_longest
from operator import eq
from typing import Any

import numpy as np
import numpy.typing as npt

from cfcam_gpu.dataset.execution.observer import Observer, counted
from cfcam_gpu.dataset.execution.parts import overlay_name
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.dataset.sources.columns import (
    AT_ONCE,
    FIELDS,
    Columns,
    cut,
    pieces_of,
    rows_in,
    samples_in,
)
from cfcam_gpu.dataset.sources.names import name_key, unique_names
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.fingerprint import differences, with_later_fields
from cfcam_gpu.dataset.store.locks import Claim
from cfcam_gpu.dataset.store.plan import Plan
from cfcam_gpu.dataset.store.schema import has_several_targets
from cfcam_gpu.dataset.store.store import REMEDY, Store
from cfcam_gpu.errors import StoreError
from cfcam_gpu.images.encode import IMAGE_FORMATS

#: A run of more samples than this puts its pictures into one folder for each part.
_MOST_IN_ONE_FOLDER = 10_000


def open_plan(
    store: Store,
    claim: Claim,
    samples: Collection[Sample],
    options: RunOptions,
    about: dict[str, Any],
    observer: Observer,
) -> Plan:
    """The plan of the run in a folder: the stored one with the new samples added, or a new one.

    To be called inside `setup_lock`.

    Args:
        claim: this process's claim on the folder.
        samples: may be iterated several times; is never held in memory as a whole.
        about: the content of run.json (see `fingerprint.about`).
        observer: told how many samples are new or missing.

    Raises:
        StoreError: the folder holds a run with other settings or with other places of the same samples,
            or cannot be read or written.
    """
    if options.overwrite:
        with store.mirror.wiping():
            store.wipe(_stored_pictures(store))
    stored = store.read_run()
    if stored is None:
        if store.finished_parts():
            raise StoreError(f"{store.parts_folder} holds parts but {store.run_file} is missing; {REMEDY}")
        _remove_ahead(store)
        plan = store.write_plan(samples, about["shard_size"])
        store.write_run({**about, "overlay_folders": len(samples) > _MOST_IN_ONE_FOLDER})
        return plan
    _check_same_settings(store, stored, about, options)
    plan = store.read_plan()
    new = _new_samples(store, plan, samples, observer)
    if not new:
        return plan
    if not claim.is_alone():
        observer.note(
            counted(
                len(new), "new sample", f" left to the next run, since others are writing to {store.name}"
            )
        )
        return plan
    observer.note(counted(len(new), "new sample", f" added to the run in {store.name}"))
    return store.extend_plan(plan, new)


def _remove_ahead(store: Store) -> None:
    try:
        store.remove_ahead()
    except OSError as error:
        raise store.unwritable(store.ahead_folder, error) from error


def _check_same_settings(
    store: Store, stored: dict[str, Any], about: dict[str, Any], options: RunOptions
) -> None:
    now = about["fingerprint"]
    differ = differences(with_later_fields(stored["fingerprint"], now), now)
    if options.part_size is not None:
        differ += differences({"part_size": stored["shard_size"]}, {"part_size": options.part_size})
    if differ:
        raise StoreError(f"{store.name} holds another run: {'; '.join(differ)}; {REMEDY}")


def _new_samples(store: Store, plan: Plan, samples: Collection[Sample], observer: Observer) -> list[Sample]:
    """The samples that the plan lacks, with names that no sample of the plan has."""
    places = ("uri", "mask") if store.uses_masks else ("uri",)
    if _are_planned_in_order(plan, samples, ("sample_id", *places)):
        return []
    planned = _Planned(plan, places)
    new: list[Sample] = []
    for piece in pieces_of(samples, *FIELDS):
        positions = planned.positions(piece)
        unplanned = positions < 0
        if unplanned.any():
            new += compress(samples_in(piece), unplanned)
        for i in np.flatnonzero(~unplanned & ~planned.are_in_place(piece, positions))[:1]:
            sample = next(islice(samples_in(piece), i, None))
            _refuse_other_place(store, plan, sample, int(positions[i]))
    missing = len(plan) - (len(samples) - len(new))
    if missing > 0:
        observer.note(counted(missing, "planned sample", " no longer among the inputs; the run keeps it"))
    return _renamed(plan, new) if new else []


def _are_planned_in_order(plan: Plan, samples: Collection[Sample], fields: Sequence[str]) -> bool:
    """Whether the samples are the plan's, in its order, as they are where nothing was added or removed."""
    if len(samples) != len(plan):
        return False
    planned, listed = cut(plan.pieces(*fields), AT_ONCE), pieces_of(samples, *fields)
    return all(starmap(eq, zip_longest(planned, listed)))


class _Planned:
    """Where samples are in the plan, by 64-bit hashes of their ids: 20 bytes for each.

    Two ids with one hash (a chance of 1 in 300,000 among ten million) are in different places, so that a new sample
    which is taken for another one is refused, not left out.

    Args:
        places: the fields that say where a sample's files are.
    """

    def __init__(self, plan: Plan, places: Sequence[str]) -> None:
        self.places = places
        ids = np.empty(len(plan), np.int64)
        self.files: npt.NDArray[np.int32] = np.empty(len(plan), np.int32)
        start = 0
        for piece in plan.pieces("sample_id", *places):
            span = slice(start, start := start + rows_in(piece))
            ids[span] = list(map(hash, piece["sample_id"]))
            self.files[span] = self._short_hashes(piece)
        self.order = _order(ids)
        ids.sort()
        self.ids = ids

    def positions(self, piece: Columns) -> npt.NDArray[np.int64]:
        """Position of each sample in the plan; -1 if it is not there."""
        if not len(self.ids):
            return np.full(rows_in(piece), -1)
        ids = np.fromiter(map(hash, piece["sample_id"]), np.int64)
        places = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1)
        return np.where(self.ids[places] == ids, self.order[places].astype(np.int64), -1)

    def are_in_place(self, piece: Columns, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether each sample's files are where the plan has those at its position."""
        same: npt.NDArray[np.bool_] = self.files[positions] == self._short_hashes(piece)
        return same

    def _short_hashes(self, piece: Columns) -> npt.NDArray[np.int32]:
        """The last 32 bits of the hashes of the files."""
        files = zip(*(piece[name] for name in self.places), strict=True)
        return np.fromiter(map(hash, files), np.int64).astype(np.int32)


def _order(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.unsignedinteger[Any]]:
    """As `np.argsort`, with little memory beyond the result: a range of values after the other."""
    order = np.empty(len(ids), np.uint32 if len(ids) < 2**32 else np.uint64)
    start = 0
    for low in range(-(2**63), 2**63, 2**60):
        some = np.flatnonzero((ids >= low) & (ids <= low + (2**60 - 1)))
        order[start : start + len(some)] = some[np.argsort(ids[some])]
        start += len(some)
    return order


def _refuse_other_place(store: Store, plan: Plan, sample: Sample, position: int) -> None:
    planned = next(islice(plan.columns("sample_id", "uri"), position, None))
    if planned["uri"] != sample.uri:
        which, before, now = f"sample {planned['sample_id']!r}", planned["uri"], sample.uri
    else:
        mask = next(islice(plan.columns("mask"), position, None))["mask"]
        which, before, now = f"the mask of sample {sample.sample_id!r}", mask, str(sample.mask)
    raise StoreError(f"{store.name} holds a run in which {which} is {before}, now it is {now}; {REMEDY}")


def _renamed(plan: Plan, new: list[Sample]) -> list[Sample]:
    """The samples, each with a name of its own beside those of the plan, also where case is ignored."""
    stems = {_stem(sample.name) for sample in new}
    near = [name for piece in plan.pieces("name") for name in piece["name"] if _stem(name) in stems]
    wanted = near + [sample.name for sample in new]
    names = unique_names(wanted, wanted)[len(near) :]
    return [replace(sample, name=name) for sample, name in zip(new, names, strict=True)]


def _stem(name: str) -> str:
    """Equal for all names that clash with a name, and for those it gets then."""
    return re.sub(r"(-\d+)+$", "", name_key(name))


def _stored_pictures(store: Store) -> Iterator[str]:
    """Paths of all pictures that the stored run wrote or would have written; none if it cannot be read."""
    try:
        stored = store.read_run()
        kind = stored["fingerprint"].get("overlays", {}).get("kind") if stored else None
        if stored is None or kind not in IMAGE_FORMATS:
            return
        plan = store.read_plan()
    except StoreError:
        return
    names = (
        overlay_name(kind, part, sample, in_folders=stored["overlay_folders"])
        for part in range(plan.parts)
        for sample in plan.samples(part)
    )
    yield from _with_classes(store, names, kind) if has_several_targets(stored) else names


def _with_classes(store: Store, names: Iterable[str], kind: str) -> Iterator[str]:
    """The pictures of a run with several explained classes of a sample; `names`: of a run with one."""
    known = set(names)
    end = re.escape(f"_cfcam{IMAGE_FORMATS[kind].extension}")
    for folder in sorted({(store.out / name).parent for name in known}):
        for file in folder.iterdir() if folder.is_dir() else ():
            path = file.relative_to(store.out).as_posix()
            if re.sub(rf"_class\d+(?={end}$)", "", path) in known:
                yield path
