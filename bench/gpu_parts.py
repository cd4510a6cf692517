"""The parts of `bench.gpu_check` that ask whether maps are right; `bench.gpu_speeds` has the others.

Each is run in a process of its own on a machine with an NVIDIA GPU.

A part takes the seconds it may use and a function that stores what it has found so far; it returns what it
found: `failed` holds a sentence for each thing that is wrong, `shown` the figures of the printed summary.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.common import (
    Setup,
    environment,
    make_features,
    make_images,
    make_model,
)
from bench.equivalence import compare, required
from bench.gpu_check import Save
from bench.memory import growth
from cfcam_gpu import CFCAM, PRESETS, CFCAMConfig, CFCAMError, Explanation, Recording, explain_activations
from cfcam_gpu._utils.messages import first_line
from cfcam_gpu.capture import capture
from cfcam_gpu.capture.layers import find_layer
from cfcam_gpu.cfcam import reference
from cfcam_gpu.engines import ENGINES
from cfcam_gpu.recording import CudaGraphs

#: Lines of assertion messages that are kept of failed tests.
MESSAGES = 100

TESTS = (
    "kernels/test_channels.py",
    "kernels/test_neighbours.py",
    "kernels/test_components.py",
    "kernels/test_cluster_filter.py",
    "kernels/test_weighted_sum.py",
    "kernels/test_heatmaps.py",
    "kernels/test_spatial.py",
    "kernels/test_evidence.py",
    "kernels/test_likeness.py",
    "engines/test_triton_engine.py",
    "cfcam/test_golden.py",
    "engines/test_hard_inputs.py",
    "engines/test_equivalence.py",
)
ROOT = Path(__file__).parents[1]

#: Engines that must not wait for the device, and can be captured in a CUDA graph.
NEVER_WAIT = ("triton", "torch")

GB = 2**30
#: What a batch of 256 may take beyond what the model's forward pass takes, in GB.
ADDED_LIMIT_GB = 8.0

#: From this version on OpenCV's bilateral filter is exact on float32 maps; earlier ones look exponentials up.
OPENCV = 5


def machine(limit_s: float, save: Save) -> Mapping[str, Any]:
    """The GPU, the versions, and what is missing; without a GPU or OpenCV the rest would mean nothing."""
    findings: dict[str, Any] = {"environment": environment(), "failed": [], "limit_s": limit_s}
    save(findings)
    for module in ("kornia", "sklearn", "cv2", "triton", "cupy", "cuml", "torchcodec", "pytest"):
        findings[module] = importlib.util.find_spec(module) is not None
    opencv = findings["opencv"] = _opencv_version()
    if not torch.cuda.is_available():
        return {
            **findings,
            "no_gpu": True,
            "failed": ["PyTorch finds no NVIDIA GPU here; nothing was checked"],
        }
    findings["gpu"] = torch.cuda.get_device_name()
    return {**findings, "shown": {"GPU": findings["gpu"], "PyTorch": torch.__version__, "OpenCV": opencv}}


def _opencv_version() -> str | None:
    """OpenCV's version, of whichever of its distributions is installed."""
    for name in (
        "opencv-python-headless",
        "opencv-python",
        "opencv-contrib-python-headless",
        "opencv-contrib-python",
    ):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def exact_bilateral(grid: NDArray[np.float64], config: CFCAMConfig) -> NDArray[np.float64]:
    """What `cv2.bilateralFilter` computes on a map (h,w), cell by cell: circular window, reflect-101 borders."""
    radius = config.radius(*grid.shape)
    padded = np.pad(grid, radius, mode="reflect")
    distance = np.add.outer(np.arange(-radius, radius + 1) ** 2, np.arange(-radius, radius + 1) ** 2)
    space = np.where(distance <= radius**2, np.exp(-distance / (2 * config.sigma_space**2)), 0)
    filtered = np.empty_like(grid)
    for y, x in np.ndindex(grid.shape):
        window = padded[y : y + 2 * radius + 1, x : x + 2 * radius + 1]
        weights = space * np.exp(-((window - grid[y, x]) ** 2) / (2 * config.sigma_range**2))
        filtered[y, x] = (weights * window).sum() / weights.sum()
    return filtered


def _exact_reference() -> str:
    """Takes the reference's bilateral filter from `exact_bilateral` where OpenCV is too old; says which it is."""
    opencv = _opencv_version()
    if opencv is not None and int(opencv.partition(".")[0]) >= OPENCV:
        return f"OpenCV {opencv}"
    reference.FILTERS["bilateral"] = exact_bilateral
    return f"a plain loop, since OpenCV is {opencv or 'not installed'}"


def engines(device: str) -> dict[str, tuple[bool, str]]:
    """Every engine but the reference: whether it can run on the device, and why or why not."""
    return {name: engine.available(device) for name, engine in ENGINES.items() if name != "reference"}


def device_tests(limit_s: float, _save: Save) -> Mapping[str, Any]:
    """The tests of the engines and the kernels, on the GPU."""
    files = [str(path) for name in TESTS if (path := ROOT / "tests" / name).is_file()]
    # Compiling kernels keeps one core busy, and several processes share the GPU well.
    spread = ["-n", str(min(8, os.cpu_count() or 1))] if importlib.util.find_spec("xdist") else []
    pytest = ["-m", "pytest", "-q", "-rf", "--tb=short", "-p", "bench.device_tests", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [sys.executable, *pytest, *spread, *files],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=limit_s - 5,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        shown = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        return {"failed": [f"the tests did not end in {limit_s - 5:.0f} s; last: {shown.strip()[-200:]!r}"]}
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["no output"]
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    findings: dict[str, Any] = {
        "tests": list(TESTS),
        "closing_line": lines[-1],
        "shown": {"pytest": lines[-1]},
    }
    if not done.returncode:
        return findings
    messages = [line for line in lines if line.startswith("E ")]
    return findings | {"failed": failures or [lines[-1]], "messages": messages[:MESSAGES]}


def model_features(setup: Setup, batch: int) -> tuple[Tensor, Tensor]:
    """Activations and gradients of the predicted classes at the setup's layer, of random images."""
    model = make_model(setup)
    captured = capture(model, find_layer(model, setup.layer), make_images(setup, batch))
    return captured.activations, captured.gradients


def equivalence(_limit_s: float, save: Save) -> Mapping[str, Any]:
    """Every engine that can run, against the reference, on a model's features and on generated ones."""
    bilateral = _exact_reference()
    return {"reference_bilateral": bilateral, **compare_engines(Setup(device="cuda"), save)}


def compare_engines(setup: Setup, save: Save) -> dict[str, Any]:
    """As `equivalence`, on the setup's model and device; `triton`, the GPU's default, comes first."""
    several = CFCAMConfig(eps_percentile=10, min_samples_fraction=0.03, sigma_range=0.01)
    features = model_features(setup, 2)
    cases = {f"{setup.model} {setup.layer}, {name}": (features, CFCAMConfig.preset(name)) for name in PRESETS}
    for channels, side in ((256, 7), (63, 9), (130, 14)):
        generated = make_features(3, channels, side, targets=2, device=setup.device)
        cases[f"generated, {channels} channels, {side}x{side}"] = (generated, several)
    findings: dict[str, Any] = {"engines": {}, "failed": [], "shown": {}}
    able = engines(torch.device(setup.device).type)
    for engine in sorted(able, key=lambda name: name != "triton"):
        ok, reason = able[engine]
        findings["engines"][engine] = {"available": ok, "reason": reason}
        largest = 0.0
        for case, ((activations, gradients), config) in cases.items() if ok else ():
            difference = compare(activations, gradients, (64, 48), config, engine)
            findings["engines"][engine][case] = difference
            try:
                required(difference)
                largest = max(largest, difference["heatmap"])
            except SystemExit as red:
                findings["failed"].append(f"{engine}, {case}: {red}")
            save(findings)
        if ok:
            findings["shown"][engine] = f"differs by {largest:.1e}"
    return findings


def no_waits(_limit_s: float, _save: Save) -> Mapping[str, Any]:
    """Neither `explain_activations` nor `CFCAM` reads anything back: PyTorch makes an error of each wait."""
    setup = Setup(device="cuda")
    activations, gradients = make_features(4, 256, 7, targets=2, device=setup.device)
    model, images = make_model(setup), make_images(setup, 4)
    findings: dict[str, Any] = {"failed": []}
    for engine in NEVER_WAIT:
        ok, findings[engine] = ENGINES[engine].available("cuda")
        for preset in PRESETS if ok else ():
            config = CFCAMConfig.preset(preset)
            works: dict[str, Callable[[], Explanation]] = {
                "explain_activations": functools.partial(
                    explain_activations, activations, gradients, (64, 48), config, engine, on_invalid="flag"
                ),
                "CFCAM": functools.partial(
                    CFCAM(model, setup.layer, config, engine, on_invalid="flag"), images
                ),
            }
            for what, work in works.items():
                work()  # compiles, and fills the caches
                torch.cuda.synchronize()
                torch.cuda.set_sync_debug_mode("error")
                try:
                    work()
                except RuntimeError as error:
                    reason = first_line(error)
                    findings["failed"].append(f"{what}, engine {engine}, preset {preset}: {reason}")
                finally:
                    torch.cuda.set_sync_debug_mode("default")
    return findings


def memory(_limit_s: float, _save: Save) -> Mapping[str, Any]:
    """What explaining a large batch takes beyond the forward pass, and growth over many small batches."""
    setup, batch, calls = Setup(device="cuda"), 256, 200
    model, images = make_model(setup), make_images(setup, batch)
    cam, peaks = CFCAM(model, setup.layer), {}

    def forward() -> None:
        with torch.inference_mode():
            model(images)

    for name, work in {"forward only": forward, "explained": lambda: cam(images)}.items():
        work()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        peaks[name] = round(torch.cuda.max_memory_allocated() / GB, 3)
    added = peaks["explained"] - peaks["forward only"]
    grown = growth(lambda: cam(images[:2]), calls)
    failed = [f"batch {batch} takes {added:.2f} GB beyond the model's own"] if added > ADDED_LIMIT_GB else []
    failed += [] if grown["none"] else [f"memory grows over {calls} batches"]
    findings = {"batch": batch, "peak_gb": peaks, "added_gb": round(added, 3), "limit_gb": ADDED_LIMIT_GB}
    return {**findings, "growth": grown, "failed": failed, "shown": {"added": f"{added:.2f} GB"}}


def cuda_graph(_limit_s: float, _save: Save) -> Mapping[str, Any]:
    """`explain_activations` captured in a CUDA graph gives on new features what it gives without."""
    setup = Setup(device="cuda")
    findings: dict[str, Any] = {"failed": []}
    first, second = make_features(8, 256, 7, device=setup.device)[0].split(4)
    gradients = make_features(4, 256, 7, device=setup.device)[1]
    for engine in NEVER_WAIT:
        ok, findings[engine] = ENGINES[engine].available("cuda")
        if not ok:
            continue
        static_activations = first.clone()
        explain = functools.partial(
            explain_activations, static_activations, gradients, (64, 48), engine=engine, on_invalid="flag"
        )
        try:
            captured, replay = CudaGraphs().record(explain)
            static_activations.copy_(second)
            replay()
            torch.cuda.synchronize()
            expected = explain()
            torch.testing.assert_close(captured.labels, expected.labels)
            torch.testing.assert_close(captured.heatmap, expected.heatmap)
        except (RuntimeError, CFCAMError, AssertionError) as error:
            findings["failed"].append(f"engine {engine}: {first_line(error)}")
    findings["failed"] += _whole_calls_recorded()
    return findings


def _whole_calls_recorded() -> list[str]:
    """What is wrong with recordings of whole calls, which compare themselves with the explainer."""
    failed = []
    setup = Setup(device="cuda")
    model, images = make_model(setup), make_images(setup, 4)
    classes = torch.arange(8, device="cuda").view(4, 2)
    cams: dict[str, dict[str, Any]] = {
        "cfcam": {}, "cfcam, engine torch": {"engine": "torch"}, "cfcam, compiled": {"compile": True},
        "gradcam": {"method": "gradcam"}, "cfcam-sharp": {"method": "cfcam-sharp"},
        "cfcam-sharp, engine triton": {"method": "cfcam-sharp", "engine": "triton"},
        "two sizes": {"scales": (1.0, 1.43)},
    }  # fmt: skip
    for name, arguments in cams.items():
        for targets in (None, classes):
            try:
                cam = CFCAM(model, setup.layer, on_invalid="flag", **arguments)
                Recording(cam, images, targets)(images.flip(3), targets)
            except (RuntimeError, CFCAMError) as error:
                failed.append(f"{name}, {'no' if targets is None else 'two'} targets: {first_line(error)}")
    return failed
