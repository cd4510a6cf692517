"""How a run begins: with a new plan, or with the stored plan plus the samples that are new among the inputs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from cfcam_gpu.dataset.execution.observer import Observer, counted
from cfcam_gpu.dataset.execution.parts import overlay_name
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.dataset.sources.names import unique_names
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.fingerprint import differences, with_later_fields
from cfcam_gpu.dataset.store.locks import Claim
from cfcam_gpu.dataset.store.plan import Plan
from cfcam_gpu.dataset.store.schema import has_several_targets
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.errors import StoreError
from cfcam_gpu.images.encode import IMAGE_FORMATS

#: A run of more samples than this puts its pictures into one folder for each part.
_MOST_IN_ONE_FOLDER = 10_000

_REMEDY = "choose another output folder, or --overwrite to begin anew"


def open_plan(
    store: Store,
    claim: Claim,
    samples: list[Sample],
    options: RunOptions,
    about: dict[str, Any],
    observer: Observer,
) -> Plan:
    """The plan of the run in a folder: the stored one with the new samples added, or a new one.

    To be called inside `setup_lock`.

    Args:
        claim: this process's claim on the folder.
        about: the content of run.json (see `fingerprint.about`).
        observer: told how many samples are new or missing.

    Raises:
        StoreError: the folder holds a run with other settings or with other places of the same samples,
            or cannot be read or written.
    """
    if options.overwrite:
        store.wipe(_stored_pictures(store))
    stored = store.read_run()
    if stored is None:
        if store.finished_parts():
            raise StoreError(f"{store.parts_folder} holds parts but {store.run_file} is missing; {_REMEDY}")
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
            counted(len(new), "new sample", f" left to the next run, since others are writing to {store.out}")
        )
        return plan
    observer.note(counted(len(new), "new sample", f" added to the run in {store.out}"))
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
        raise StoreError(f"{store.out} holds another run: {'; '.join(differ)}; {_REMEDY}")


def _new_samples(store: Store, plan: Plan, samples: list[Sample], observer: Observer) -> list[Sample]:
    """The samples that the plan lacks, with names that no sample of the plan has."""
    planned = {row["sample_id"]: row["uri"] for row in plan.columns("sample_id", "uri")}
    if store.uses_masks:
        _check_same_masks(store, plan, samples)
    new = [sample for sample in samples if sample.sample_id not in planned]
    for sample in samples:
        uri = planned.get(sample.sample_id, sample.uri)
        if uri != sample.uri:
            raise StoreError(
                f"{store.out} holds a run in which sample {sample.sample_id!r} is {uri}, "
                f"now it is {sample.uri}; {_REMEDY}"
            )
    missing = len(planned) - (len(samples) - len(new))
    if missing > 0:
        observer.note(counted(missing, "planned sample", " no longer among the inputs; the run keeps it"))
    return _renamed(plan, new) if new else []


def _check_same_masks(store: Store, plan: Plan, samples: list[Sample]) -> None:
    planned = {row["sample_id"]: row.get("mask") for row in plan.columns("sample_id", "mask")}
    for sample in samples:
        mask = planned.get(sample.sample_id, sample.mask)
        if mask != sample.mask:
            raise StoreError(
                f"{store.out} holds a run in which the mask of sample {sample.sample_id!r} is {mask}, "
                f"now it is {sample.mask}; {_REMEDY}"
            )


def _renamed(plan: Plan, new: list[Sample]) -> list[Sample]:
    """The samples, each with a name of its own beside those of the plan, also where case is ignored."""
    wanted = [row["name"] for row in plan.columns("name")] + [sample.name for sample in new]
    names = unique_names(wanted, wanted)[len(plan) :]
    return [replace(sample, name=name) for sample, name in zip(new, names, strict=True)]


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
