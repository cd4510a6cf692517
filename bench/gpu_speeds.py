"""The parts of `bench.gpu_check` that measure speed; `bench.gpu_parts` has the others, and says what a part is."""

from __future__ import annotations

import cProfile
import functools
import os
import pstats
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from bench import stages, throughput
from bench.common import Setup, arithmetic, interleaved, make_images, make_model, ratio, summary
from bench.gpu_check import Save
from bench.gpu_parts import model_features
from cfcam_gpu import CFCAM, Explanation, explain_activations
from cfcam_gpu._utils.messages import first_line
from cfcam_gpu.engines import ENGINES

#: Goals: share of the compiled forward pass's throughput; of a dataset run's, of forward only; times cuML's.
FORWARD_GOAL = 0.90
DATASET_GOAL = 0.80
CUML_GOAL = 50.0
PEERS_GOAL = 10.0


def batch_64(limit_s: float, save: Save) -> Mapping[str, Any]:
    """The speed, then the stages of engine `triton` beside their floors."""
    findings = _speed(64, limit_s * 0.6, save)
    findings["stages, triton"] = _in_stages("triton")
    return findings


def batch_256(limit_s: float, save: Save) -> Mapping[str, Any]:
    return _speed(256, limit_s, save)


def batch_16(limit_s: float, save: Save) -> Mapping[str, Any]:
    return _speed(16, limit_s, save)


def _speed(batch: int, limit_s: float, save: Save) -> dict[str, Any]:
    """Explained in bfloat16, channels last, beside the compiled forward pass in the same precision."""
    findings: dict[str, Any] = throughput.run(
        throughput.Options(
            device="cuda",
            precision="bfloat16",
            channels_last=True,
            batches=(batch,),
            repeats=30,
            limit_s=limit_s / 5,
            others=False,
            brief=True,
        )
    )
    save(findings)
    over = findings["batches"][str(batch)]["over_explained"]
    floors = [value for name, value in over.items() if name.startswith("forward only, compiled")]
    if not floors:
        return {**findings, "failed": ["no forward pass could be compiled, so there is no floor"]}
    explained = {name: value for name, value in over.items() if name.startswith("explained")}
    fastest = min(explained, key=lambda name: explained[name])
    share = min(floors) / explained[fastest]
    return {
        **findings,
        "share_of_compiled_forward": share,
        "fastest": fastest,
        **_goal("of compiled forward", share, FORWARD_GOAL),
    }


def _goal(name: str, value: float, goal: float) -> dict[str, Any]:
    """A figure beside its goal; a goal that is missed is no failure of the check."""
    met = value >= goal
    return {
        "goal": goal,
        "goal_met": met,
        "shown": {name: f"{value:.3g} (goal {goal:g} {'met' if met else 'missed'})"},
    }


def other_libraries(limit_s: float, save: Save) -> Mapping[str, Any]:
    """Explained in float32 beside the published steps and other libraries' Grad-CAM."""
    findings = throughput.run(
        throughput.Options(device="cuda", batches=(16,), repeats=10, limit_s=limit_s / 2, compiled=False)
    )
    save(findings)
    over = findings["batches"]["16"]["over_explained"]
    peers = [value for name, value in over.items() if name.startswith("pytorch-grad-cam")]
    return {**findings, **(_goal("times pytorch-grad-cam", peers[0], PEERS_GOAL) if peers else {})}


def dataset(limit_s: float, save: Save) -> Mapping[str, Any]:
    """JPEG files through `explain_dataset`, decoded by cores or by the GPU, beside the forward passes alone of the
    same model and batch.
    """
    from bench.dataset import generate
    from cfcam_gpu.models import load_model

    images, different, batch = 16000, 500, 256
    forward = _forward_rate(batch, limit_s / 6)
    findings: dict[str, Any] = {
        "images": images,
        "forward_only_images_per_s": round(forward, 1),
        "failed": [],
    }
    save(findings)
    loaded = load_model("torchvision:resnet50@none")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "images"
        source.mkdir()
        generate(source, different)
        for i in range(different, images):
            os.link(source / f"{i % different:05}.jpg", source / f"{i:05}.jpg")
        for decode in ("full", "gpu"):
            try:
                findings[decode] = _dataset_run(source, Path(folder) / decode, loaded, batch, decode)
                findings[decode]["of_forward"] = round(findings[decode]["images_per_s"] / forward, 3)
            except Exception as error:  # a decoder that fails must not cost the other's figures
                findings["failed"].append(f"--decode {decode}: {type(error).__name__}: {first_line(error)}")
            save(findings)
        findings["longest_s"] = _profiled_run(source, Path(folder) / "profiled", loaded, batch)
        save(findings)
    shares = [findings[decode]["of_forward"] for decode in ("full", "gpu") if decode in findings]
    return {**findings, **(_goal("of forward only", max(shares), DATASET_GOAL) if shares else {})}


def _dataset_run(source: Path, out: Path, loaded: Any, batch: int, decode: str) -> dict[str, Any]:
    from cfcam_gpu.dataset import explain_dataset

    begun = time.monotonic()
    summary_of_run = explain_dataset(
        [str(source)], out, loaded, overlays="none", device="cuda", batch_size=batch, max_errors="5%",
        precision="bfloat16", channels_last=True, decode=decode,
    )  # fmt: skip
    return {
        "images_per_s": round(summary_of_run.now / summary_of_run.seconds, 1),
        "with_setup": round(summary_of_run.now / (time.monotonic() - begun), 1),
        "ok": summary_of_run.tally.ok,
        "failed_images": summary_of_run.tally.skipped,
    }


def _profiled_run(source: Path, out: Path, loaded: Any, batch: int, most: int = 20) -> dict[str, float]:
    """Seconds that the functions of the main thread take longest in, waiting included: what holds a run up."""
    profile = cProfile.Profile()
    profile.runcall(_dataset_run, source, out, loaded, batch, "full")
    times = {
        f"{Path(file).name}:{line} {function}": round(row[2], 3)
        for (file, line, function), row in pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
    }
    return dict(sorted(times.items(), key=lambda pair: -pair[1])[:most])


def _forward_rate(batch: int, limit_s: float) -> float:
    """Images/s of the forward passes alone in bfloat16, channels last."""
    setup = Setup(device="cuda", precision="bfloat16", channels_last=True)
    model, views = make_model(setup), make_images(setup, batch)
    seconds = interleaved({"forward": lambda: throughput.forward(model, views)}, 50, limit_s=max(1, limit_s))
    return 1000 / summary(seconds["forward"], batch)["ms_per_image"]


def cuml_loop(limit_s: float, _save: Save) -> Mapping[str, Any]:
    """`explain_activations` beside the engine that calls cuML image by image, on a model's features."""
    setup, batch = Setup(device="cuda"), 16
    ok, reason = ENGINES["cuml"].available("cuda")
    if not ok:
        return {"not_run": reason, "shown": {"not run": reason}}
    activations, gradients = model_features(setup, batch)

    def explain(engine: str) -> Explanation:
        size = (setup.side, setup.side)
        return explain_activations(activations, gradients, size, engine=engine, on_invalid="flag")

    seconds = interleaved(
        {name: functools.partial(explain, name) for name in ("auto", "cuml")}, 20, limit_s=limit_s / 2
    )
    times = ratio(seconds["cuml"], seconds["auto"])
    return {
        "batch": batch,
        "cuml": reason,
        "cases": {name: summary(values, batch) for name, values in seconds.items()},
        "cuml_over_auto": times,
        **_goal("times a loop over cuML", times, CUML_GOAL),
    }


def kernels(_limit_s: float, save: Save) -> Mapping[str, Any]:
    """Which kernels a call of each engine launches, and how long the GPU works on each, by PyTorch's profiler."""
    findings: dict[str, Any] = {}
    for engine, batch in (("triton", 256), ("triton", 64), ("torch", 16)):
        setup = Setup(device="cuda", precision="bfloat16", channels_last=True)
        cam = CFCAM(make_model(setup), setup.layer, engine=engine, on_invalid="flag")
        images = make_images(setup, batch)
        with arithmetic(setup):
            findings[f"{engine}, batch {batch}"] = _profiled(functools.partial(cam, images), batch)
        save(findings)
    return findings


def _profiled(call: Callable[[], Any], batch: int, most: int = 25) -> dict[str, Any]:
    """Microseconds an image of the kernels that take longest, of all kernels, and by the clock, of a third call."""
    for _ in range(2):
        call()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        begun = time.perf_counter()
        call()
        torch.cuda.synchronize()
        clock = time.perf_counter() - begun
    events = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
    return {
        "us_per_image": round(sum(event.self_device_time_total for event in events) / batch, 2),
        "clock_us_per_image": round(1e6 * clock / batch, 2),
        "launches": sum(event.count for event in events),
        "longest": {
            event.key[:80]: {
                "count": event.count,
                "us_per_image": round(event.self_device_time_total / batch, 2),
            }
            for event in events[:most]
        },
    }


def _in_stages(engine: str) -> dict[str, Any]:
    """The stages beside their floors on this GPU."""
    ok, reason = ENGINES[engine].available("cuda")
    if not ok:
        return {"not_run": reason}
    return stages.run(
        stages.Options(
            device="cuda", precision="bfloat16", channels_last=True, batch=64, engine=engine, repeats=10
        )
    )
