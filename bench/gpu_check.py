"""Everything that only a GPU can show, in under eight minutes, into one JSON file.

    python -m bench.gpu_check

Tests on the GPU, every engine against the reference, no waiting for the device, memory, then speed
beside a compiled bfloat16 forward pass, other libraries and a loop over cuML. A part that fails does
not stop the others; the exit status says whether one did (1), or that there is no GPU (2). Needs
neither the demo's packages nor timm.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import stages, throughput
from bench.common import (
    Setup,
    command,
    interleaved,
    make_features,
    make_images,
    make_model,
    print_table,
    ratio,
    summary,
)
from bench.equivalence import compare, required
from bench.memory import growth
from cfcam_gpu import CFCAM, PRESETS, CFCAMConfig, Explanation, explain_activations
from cfcam_gpu.capture import capture
from cfcam_gpu.capture.layers import find_layer
from cfcam_gpu.engines import ENGINES

TESTS = (
    "kernels/test_kernels.py",
    "cfcam/test_golden.py",
    "engines/test_hard_inputs.py",
    "engines/test_equivalence.py",
)
ROOT = Path(__file__).parent.parent

#: Engines that must not wait for the device, and can be captured in a CUDA graph.
NEVER_WAIT = ("triton", "torch")

GB = 2**30
#: What a batch of 256 may take beyond what the model's forward pass takes, in GB.
ADDED_LIMIT_GB = 8.0

#: Share of the compiled forward pass's throughput, and times a loop over cuML, that are the goals.
FORWARD_GOAL = 0.90
CUML_GOAL = 50.0


@dataclass(frozen=True)
class Options:
    """All parts together end within so many seconds; what does not fit is named."""

    limit_s: float = 470.0


@dataclass(frozen=True)
class Part:
    """A part of the check: it is given the seconds it may take, and not begun with fewer than it needs.

    `work` returns what it found, with `failed`, a list of sentences, where something is wrong.
    """

    needs_s: float
    most_s: float
    work: Callable[[float], dict[str, Any]]


def run_parts(parts: dict[str, Part], limit_s: float) -> dict[str, Any]:
    """Every part in turn: what each found, the sentences of all that failed, and what there was no time for."""
    result: dict[str, Any] = {"parts": {}, "failed": [], "skipped": []}
    end = time.perf_counter() + limit_s
    for name, part in parts.items():
        begun = time.perf_counter()
        left = end - begun
        if left < part.needs_s:
            result["skipped"].append(f"{name}: {left:.0f} s left, {part.needs_s:.0f} s needed")
            continue
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            found = part.work(min(left, part.most_s))
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            found = {"failed": [f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"]}
        result["parts"][name] = {"seconds": round(time.perf_counter() - begun, 1), **found}
        result["failed"] += [f"{name}: {sentence}" for sentence in found.get("failed", [])]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return result


def engines(device: str) -> dict[str, tuple[bool, str]]:
    """Every engine but the reference: whether it can run on the device, and why or why not."""
    return {name: engine.available(device) for name, engine in ENGINES.items() if name != "reference"}


def device_tests(most_s: float) -> dict[str, Any]:
    """The tests of the engines and the kernels, on the GPU."""
    files = [str(path) for name in TESTS if (path := ROOT / "tests" / name).is_file()]
    # Compiling kernels keeps one core busy, and several processes share the GPU well.
    spread = ["-n", str(min(8, os.cpu_count() or 1))] if importlib.util.find_spec("xdist") else []
    pytest = ["-m", "pytest", "-q", "-rf", "-p", "bench.device_tests", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [sys.executable, *pytest, *spread, *files],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=most_s,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        shown = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        return {"failed": [f"the tests did not end in {most_s:.0f} s; last: {shown.strip()[-200:]!r}"]}
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["no output"]
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    found: dict[str, Any] = {"tests": list(TESTS), "closing_line": lines[-1]}
    return found | ({"failed": failures or [lines[-1]]} if done.returncode else {})


def model_features(setup: Setup, batch: int) -> tuple[Tensor, Tensor]:
    """Activations and gradients of the predicted classes at the setup's layer, of random images."""
    model = make_model(setup)
    captured = capture(model, find_layer(model, setup.layer), make_images(setup, batch))
    return captured.activations, captured.gradients


def equivalence(setup: Setup) -> dict[str, Any]:
    """Every engine that can run, against the reference, on a model's features and on generated ones."""
    several = CFCAMConfig(eps_percentile=10, min_samples_fraction=0.03, sigma_range=0.01)
    features = model_features(setup, 2)
    cases = {f"{setup.model} {setup.layer}, {name}": (features, CFCAMConfig.preset(name)) for name in PRESETS}
    for channels, side in ((256, 7), (63, 9), (130, 14)):
        generated = make_features(3, channels, side, targets=2, device=setup.device)
        cases[f"generated, {channels} channels, {side}x{side}"] = (generated, several)
    found: dict[str, Any] = {"engines": {}, "failed": []}
    for engine, (ok, reason) in engines(torch.device(setup.device).type).items():
        found["engines"][engine] = {"available": ok, "reason": reason}
        for case, ((activations, gradients), config) in cases.items() if ok else ():
            seen = compare(activations, gradients, (64, 48), config, engine)
            found["engines"][engine][case] = seen
            try:
                required(seen)
            except SystemExit as red:
                found["failed"].append(f"{engine}, {case}: {red}")
    return found


def no_waiting(setup: Setup) -> dict[str, Any]:
    """Neither `explain_activations` nor `CFCAM` reads anything back: PyTorch makes an error of each wait."""
    activations, gradients = make_features(4, 256, 7, targets=2, device=setup.device)
    model, images = make_model(setup), make_images(setup, 4)
    found: dict[str, Any] = {"failed": []}
    for engine in NEVER_WAIT:
        ok, found[engine] = ENGINES[engine].available("cuda")
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
                    reason = str(error).partition("\n")[0]
                    found["failed"].append(f"{what}, engine {engine}, preset {preset}: {reason}")
                finally:
                    torch.cuda.set_sync_debug_mode("default")
    return found


def memory(setup: Setup, batch: int = 256, calls: int = 200) -> dict[str, Any]:
    """What explaining a large batch takes beyond the forward pass, and growth over many small batches."""
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
    found = {"batch": batch, "peak_gb": peaks, "added_gb": round(added, 3), "limit_gb": ADDED_LIMIT_GB}
    return {**found, "growth": grown, "failed": failed}


def speed(batch: int, most_s: float) -> dict[str, Any]:
    """Explained in bfloat16, channels last, beside the compiled forward pass in the same precision."""
    result = throughput.run(
        throughput.Options(
            device="cuda",
            precision="bfloat16",
            channels_last=True,
            batches=(batch,),
            repeats=30,
            limit_s=most_s / 4,
            others=False,
        )
    )
    over = result["batches"][str(batch)]["over_explained"]
    floors = [value for name, value in over.items() if name.startswith("forward only, compiled")]
    if not floors:
        return {**result, "failed": ["no forward pass could be compiled, so there is no floor"]}
    share = min(floors)
    return {
        **result,
        "share_of_compiled_forward": share,
        "goal": FORWARD_GOAL,
        "goal_met": share >= FORWARD_GOAL,
    }


def others(most_s: float) -> dict[str, Any]:
    """Explained in float32 beside the published steps and other libraries' Grad-CAM."""
    return throughput.run(
        throughput.Options(device="cuda", batches=(16,), repeats=10, limit_s=most_s / 2, compiled=False)
    )


def cuml_loop(setup: Setup, batch: int = 16, limit_s: float = 20) -> dict[str, Any]:
    """`explain_activations` beside the engine that calls cuML image by image, on a model's features."""
    ok, reason = ENGINES["cuml"].available("cuda")
    if not ok:
        return {"not_run": reason}
    activations, gradients = model_features(setup, batch)

    def explain(engine: str) -> Explanation:
        size = (setup.side, setup.side)
        return explain_activations(activations, gradients, size, engine=engine, on_invalid="flag")

    seconds = interleaved(
        {name: functools.partial(explain, name) for name in ("auto", "cuml")}, 20, limit_s=limit_s
    )
    times = ratio(seconds["cuml"], seconds["auto"])
    return {
        "batch": batch,
        "cuml": reason,
        "cases": {name: summary(values, batch) for name, values in seconds.items()},
        "cuml_over_auto": times,
        "goal": CUML_GOAL,
        "goal_met": times >= CUML_GOAL,
    }


def in_stages(engine: str) -> dict[str, Any]:
    """The stages beside their floors on this GPU."""
    ok, reason = ENGINES[engine].available("cuda")
    if not ok:
        return {"not_run": reason}
    return stages.run(
        stages.Options(
            device="cuda", precision="bfloat16", channels_last=True, batch=64, engine=engine, repeats=10
        )
    )


def cuda_graph(setup: Setup) -> dict[str, Any]:
    """`explain_activations` captured in a CUDA graph gives on new features what it gives without."""
    found: dict[str, Any] = {"failed": []}
    first, second = make_features(8, 256, 7, device=setup.device)[0].split(4)
    gradients = make_features(4, 256, 7, device=setup.device)[1]
    for engine in NEVER_WAIT:
        ok, found[engine] = ENGINES[engine].available("cuda")
        if not ok:
            continue
        given = first.clone()
        explain = functools.partial(
            explain_activations, given, gradients, (64, 48), engine=engine, on_invalid="flag"
        )
        try:
            captured, graph = explain_in_graph(explain)
            given.copy_(second)
            graph.replay()
            torch.cuda.synchronize()
            expected = explain()
            torch.testing.assert_close(captured.labels, expected.labels)
            torch.testing.assert_close(captured.heatmap, expected.heatmap)
        except (RuntimeError, AssertionError) as error:
            found["failed"].append(f"engine {engine}: {str(error).partition(chr(10))[0]}")
    return found


def explain_in_graph(explain: Callable[[], Explanation]) -> tuple[Explanation, torch.cuda.CUDAGraph]:
    """What one call made, and the graph that makes it again in place; warmed up on a stream of its own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            explain()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = explain()
    return captured, graph


def gpu_parts() -> dict[str, Part]:
    """What is right first, then what is fast; a capture that fails can spoil the device, so it comes last."""
    setup = Setup(device="cuda")
    return {
        "tests": Part(30, 150, device_tests),
        "equivalence": Part(20, 60, lambda _: equivalence(setup)),
        "no waiting": Part(10, 20, lambda _: no_waiting(setup)),
        "memory": Part(15, 30, lambda _: memory(setup)),
        "batch 64": Part(60, 100, lambda most_s: speed(64, most_s)),
        "batch 256": Part(60, 100, lambda most_s: speed(256, most_s)),
        "batch 16": Part(50, 80, lambda most_s: speed(16, most_s)),
        "other libraries": Part(30, 40, others),
        "loop over cuML": Part(15, 30, lambda _: cuml_loop(setup)),
        "stages, triton": Part(15, 20, lambda _: in_stages("triton")),
        "stages, torch": Part(15, 20, lambda _: in_stages("torch")),
        "CUDA graph": Part(10, 20, lambda _: cuda_graph(setup)),
    }


def run(options: Options) -> dict[str, Any]:
    """The check's result."""
    return run_parts(gpu_parts(), options.limit_s)


def show(result: dict[str, Any]) -> None:
    """One line for each part, then the tables of the speeds."""
    print_table(
        "GPU check",
        ("part", "seconds", "outcome"),
        [(name, seen["seconds"], outcome(seen)) for name, seen in result["parts"].items()],
    )
    for name, seen in result["parts"].items():
        if "batches" in seen:
            throughput.show(seen)
        if "stages" in seen:
            stages.show(seen)
        for sentence in seen.get("failed", []):
            print(f"{name}: {sentence}")
    for sentence in result["skipped"]:
        print(f"skipped, no time: {sentence}")


def outcome(seen: dict[str, Any]) -> str:
    """A part's result in a few words."""
    if seen.get("failed"):
        return f"{len(seen['failed'])} failed"
    if "not_run" in seen:
        return f"not run: {seen['not_run']}"
    if "goal" in seen:
        return f"goal {seen['goal']:g} {'met' if seen['goal_met'] else 'missed'}"
    return str(seen.get("closing_line", "ok"))


def main() -> None:
    if not torch.cuda.is_available():
        print("gpu-check: PyTorch finds no NVIDIA GPU here; nothing was checked", file=sys.stderr)
        raise SystemExit(2)
    command("gpu_check", Options, run, show, __doc__)


if __name__ == "__main__":
    main()
