"""How a run begins: a new plan, or the stored one with what is new among the inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cfcam_gpu.dataset.execution.observer import Observer, counted
from cfcam_gpu.dataset.execution.parts import overlay_name
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.dataset.sources.folders import unique_names
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.fingerprint import EARLIER, differences
from cfcam_gpu.dataset.store.locks import Claim
from cfcam_gpu.dataset.store.plan import Plan
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.errors import StoreError
from cfcam_gpu.images.encode import IMAGE_FORMATS

#: Above this many samples the pictures lie in one folder per part.
MOST_IN_ONE_FOLDER = 10_000


def open_plan(
    store: Store,
    claim: Claim,
    samples: list[Sample],
    options: RunOptions,
    about: dict[str, Any],
    observer: Observer,
) -> Plan:
    """The stored plan, with what is new among the samples; made when there is none."""
    if options.overwrite:
        store.wipe(_stored_pictures(store))
    stored = store.read_run()
    if stored is None:
        if store.finished_parts():
            raise StoreError(
                f"{store.parts_folder} holds parts but {store.run_file} is missing; choose another output folder, "
                "or --overwrite to begin anew"
            )
        plan = store.write_plan(samples, about["shard_size"])
        store.write_run({**about, "overlay_folders": len(samples) > MOST_IN_ONE_FOLDER})
        return plan
    _check_same(store, stored, about, options)
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


def _check_same(store: Store, stored: dict[str, Any], about: dict[str, Any], options: RunOptions) -> None:
    new = about["fingerprint"]
    earlier = {name: value for name, value in EARLIER.items() if name in new}
    differ = differences({**earlier, **stored["fingerprint"]}, new)
    if options.part_size is not None:
        differ += differences({"part_size": stored["shard_size"]}, {"part_size": options.part_size})
    if differ:
        raise StoreError(
            f"{store.out} holds another run: {'; '.join(differ)}; choose another output folder, or "
            "--overwrite to begin anew"
        )


def _new_samples(store: Store, plan: Plan, samples: list[Sample], observer: Observer) -> list[Sample]:
    known = {row["sample_id"]: row["uri"] for row in plan.columns("sample_id", "uri")}
    if store.uses_masks:
        _check_masks(store, plan, samples)
    found = 0
    new: list[Sample] = []
    for sample in samples:
        if sample.sample_id not in known:
            new.append(sample)
            continue
        found += 1
        if known[sample.sample_id] != sample.uri:
            raise StoreError(
                f"{store.out} holds a run in which sample {sample.sample_id!r} is {known[sample.sample_id]}, "
                f"now it is {sample.uri}; choose another output folder, or --overwrite to begin anew"
            )
    if found < len(known):
        observer.note(
            counted(len(known) - found, "planned sample", " no longer among the inputs; the run keeps it")
        )
    return _renamed(plan, new) if new else []


def _check_masks(store: Store, plan: Plan, samples: list[Sample]) -> None:
    known = {row["sample_id"]: row.get("mask") for row in plan.columns("sample_id", "mask")}
    for sample in samples:
        before = known.get(sample.sample_id, sample.mask)
        if before != sample.mask:
            raise StoreError(
                f"{store.out} holds a run in which the mask of sample {sample.sample_id!r} is {before}, now it "
                f"is {sample.mask}; choose another output folder, or --overwrite to begin anew"
            )


def _renamed(plan: Plan, new: list[Sample]) -> list[Sample]:
    """The samples with names that none of the plan has, also where capital and small letters are the same."""
    wanted = [row["name"] for row in plan.columns("name")] + [sample.name for sample in new]
    names = unique_names(wanted, wanted)[len(plan) :]
    return [replace(sample, name=name) for sample, name in zip(new, names, strict=True)]


def _stored_pictures(store: Store) -> Iterator[str]:
    """Every picture that the stored run has written or was about to; none when that cannot be read."""
    try:
        stored = store.read_run()
        kind = stored["fingerprint"].get("overlays", {}).get("kind") if stored else None
        if stored is None or kind not in IMAGE_FORMATS:
            return
        plan = store.read_plan()
    except StoreError:
        return
    for part in range(plan.parts):
        for sample in plan.samples(part):
            yield overlay_name(kind, part, sample, in_folders=stored["overlay_folders"])
