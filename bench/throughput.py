"""What does an explanation cost, compared with a forward pass, the published code and other libraries' Grad-CAM?

    python -m bench.throughput [--batches 1 16 64] [--repeats 7] [--device cuda] [--precision bfloat16]

The model has random weights; all cases take turns in one process. First the engine is compared with the
reference, the published steps with the `upstream` preset, each other library with plain Grad-CAM, and the
compiled model with the eager one. A difference in our code stops the benchmark; one in theirs is reported.
bench/README.md says how to read the result.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.common import (
    Case,
    Setup,
    arithmetic,
    command,
    interleaved,
    make_images,
    make_model,
    print_table,
    ratio,
    summary,
)
from bench.equivalence import CORRELATION, MAP_TOLERANCE, MEAN_TOLERANCE, check_engine, closeness
from bench.peers import Explain, checked_peers
from bench.published import published_steps
from cfcam_gpu import CFCAM, CFCAMConfig, Explanation, Recording
from cfcam_gpu._utils.messages import one_line
from cfcam_gpu.capture.scoring import logits_of
from cfcam_gpu.engines import ENGINES, resolve_engine
from cfcam_gpu.models.prepare import prepared

#: Engines that are timed by name, besides `auto`; by device type.
TIMED = {"cpu": ("numba", "torch"), "cuda": ("triton", "torch")}

#: Faster copies of the model; the fastest whose heatmaps stay the same is timed as `prepared`.
PREPARED: dict[str, dict[str, Any]] = {
    f"{precision}, folded, channels last": {
        "precision": precision,
        "fold_batchnorm": True,
        "channels_last": True,
    }
    for precision in ("float32", "bfloat16")
}

#: Name of a ratio -> what each case's time is divided by.
OVER = {
    "over_explained": "explained",
    "over_prepared": "explained, prepared",
    "over_compiled": "explained, compiled",
    "over_prepared_compiled": "explained, prepared, compiled",
}

#: Larger batches are not warmed up, which would take a minute; the median of three turns ignores a slow first one.
WARMED_UP = 16

#: Number of images on which the prepared models are compared.
PREPARED_BATCH = 8

#: How the forward pass is compiled, by device type.
COMPILED: dict[str, dict[str, dict[str, Any]]] = {
    "cpu": {"compiled": {}},
    "cuda": {"compiled": {}, "compiled, CUDA graph": {"mode": "reduce-overhead"}},
}

#: Root mean square difference of the compiled model's logits, relative to their standard deviation: sums in
#: another order.
COMPILED_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.01, "autocast": 0.05}


@dataclass(frozen=True)
class Options(Setup):
    """What is timed. No turn begins after `limit_s` seconds at a batch size, once there are three.

    `brief`: only the forward pass and the explanation, as they are and compiled.
    """

    batches: tuple[int, ...] = (1, 16, 64)
    repeats: int = 7
    limit_s: float = 80.0
    compiled: bool = True
    others: bool = True
    brief: bool = False


@dataclass(frozen=True)
class Entry:
    """Something to time.

    Attributes:
        work: takes images.
        setup: what the images must be.
        single: whether it takes only one image at a time.
    """

    work: Callable[[Tensor], Any]
    setup: Setup
    single: bool = False

    def count(self, batch: int) -> int:
        """Number of images of one call."""
        return 1 if self.single else batch

    def case(self, batch: int) -> Case:
        """One call on images that are made now."""
        images = make_images(self.setup, self.count(batch))

        def call() -> Any:
            with arithmetic(self.setup):
                return self.work(images)

        return call


def run(options: Options) -> dict[str, Any]:
    """The benchmark's result.

    Raises:
        SystemExit: the engine differs from the reference, or the published steps from the `upstream` preset; nothing
            is timed.
    """
    float32 = dataclasses.replace(options, precision="float32")
    model, plain = make_model(options), make_model(float32)
    few = make_images(options, 2)
    with arithmetic(options):
        result: dict[str, Any] = {
            "model": options.about,
            "device": options.device,
            "equivalence": check_engine(model, options.layer, few, CFCAMConfig(), "auto"),
        }
    entries = {"forward only": Entry(functools.partial(forward, model), options)}
    others: dict[str, Entry] = {}
    if options.others:
        result["published_difference"] = check_published(plain, options.layer, make_images(float32, 1))
        others, result["peers"] = other_entries(plain, float32)
    explained, result["engines"] = explained_entries(model, options)
    faster: dict[str, Entry] = {}
    if options.brief:
        explained = {"explained": explained["explained"]}
    else:
        faster, result["prepared"] = prepared_entries(plain, float32)
    compiled = compiled_entries(entries | explained | faster) if options.compiled else {}
    entries |= compiled | explained | faster | others
    result |= {"compiled": {}, "batches": {}}
    for batch in options.batches:
        first_calls = {
            name: first_call(entry, entries[name.partition(", compiled")[0]], batch)
            for name, entry in compiled.items()
        }
        result["compiled"][str(batch)] = first_calls
        able = {
            name: entry for name, entry in entries.items() if "not_timed" not in first_calls.get(name, {})
        }
        result["batches"][str(batch)] = measure(able, batch, options)
    return result


def forward(model: Callable[[Tensor], Any], images: Tensor) -> Any:
    """A forward pass, as it is run for predictions."""
    with torch.inference_mode():
        return model(images)


def explained_entries(model: nn.Module, options: Setup) -> tuple[dict[str, Entry], dict[str, str]]:
    """The engine that `auto` chooses, then the other batched engines; and why each of them can run here or cannot."""
    device = torch.device(options.device)
    cams = {"explained": CFCAM(model, options.layer)}
    reasons = {}
    for name in TIMED[device.type]:
        ok, reasons[name] = ENGINES[name].available(device.type)
        if ok and name != resolve_engine("auto", device):
            cams[f"explained, engine {name}"] = CFCAM(model, options.layer, engine=name)
    return {name: Entry(cam, options) for name, cam in cams.items()}, reasons


def other_entries(plain: nn.Module, setup: Setup) -> tuple[dict[str, Entry], dict[str, Any]]:
    """The published steps and the other libraries, on the float32 model; and the report on the libraries."""
    steps = functools.partial(published_steps, plain, plain.get_submodule(setup.layer))
    entries = {"published steps": Entry(steps, setup, single=True)}
    usable, report = checked_peers(plain, setup.layer, make_images(setup, 2))
    for name, explain in usable.items():
        entries[name] = Entry(functools.partial(of_class_zero, explain), setup)
    return entries, report


def of_class_zero(explain: Explain, images: Tensor) -> object:
    """Explains class 0: Captum needs a class, and which one it is does not change the work."""
    return explain(images, torch.zeros(len(images), dtype=torch.int64, device=images.device))


def check_published(model: nn.Module, layer: str, image: Tensor) -> float:
    """Largest difference between the heatmaps of the published steps and of the `upstream` preset, for one image.

    Raises:
        SystemExit: it is above the tolerance.
    """
    ours = CFCAM(model, layer, CFCAMConfig.preset("upstream"))(image).heatmap[0].cpu()
    theirs = torch.from_numpy(published_steps(model, model.get_submodule(layer), image))
    difference = float((ours - theirs).abs().max())
    if not difference <= MAP_TOLERANCE:
        raise SystemExit(f"the published steps' heatmap is {difference:.1e} off, nothing is timed")
    return difference


def prepared_entries(plain: nn.Module, setup: Setup) -> tuple[dict[str, Entry], dict[str, Any]]:
    """Forward pass and explanation with the fastest of `PREPARED` within the tolerance; and a report on all of them."""
    images = make_images(setup, PREPARED_BATCH)
    expected = CFCAM(plain, setup.layer)(images)
    models, setups, candidates, cases = {}, {}, {}, {}
    for name, how in PREPARED.items():
        models[name] = prepared(plain, images[:1], **how)
        setups[name] = dataclasses.replace(
            setup, precision=how["precision"], channels_last=how["channels_last"]
        )
        entry = Entry(
            functools.partial(CFCAM(models[name], setup.layer), targets=expected.targets), setups[name]
        )
        cases[name] = entry.case(PREPARED_BATCH)
        candidates[name] = closeness(cases[name](), expected)
    seconds = interleaved(cases, repeats=3, warmup=0)
    for name in candidates:
        candidates[name] |= summary(seconds[name], PREPARED_BATCH)
    within = [name for name, figures in candidates.items() if figures["within"]]
    fastest = min(within, key=lambda name: candidates[name]["ms_min"])
    entries = {
        "forward only, prepared": Entry(functools.partial(forward, models[fastest]), setups[fastest]),
        "explained, prepared": Entry(CFCAM(models[fastest], setup.layer), setups[fastest]),
    }
    tolerance = {"mean": MEAN_TOLERANCE, "correlation": CORRELATION}
    return entries, {"chosen": fastest, "tolerance": tolerance, "candidates": candidates}


def compiled_entries(eager: Mapping[str, Entry]) -> dict[str, Entry]:
    """Forward passes, compiled for one shape at a time, and explanations with compiled models.

    Each has a copy of the model that nothing else uses.

    Args:
        eager: has the entries of the explanations, whose models are compiled.
    """
    entries = {}
    for kind in (kind for kind in ("", ", prepared") if f"explained{kind}" in eager):
        setup = eager[f"explained{kind}"].setup
        cam = eager[f"explained{kind}"].work
        assert isinstance(cam, CFCAM)
        for name, how in COMPILED[torch.device(setup.device).type].items():
            compiled = torch.compile(copy.deepcopy(cam.model), dynamic=False, **how)
            entries[f"forward only{kind}, {name}"] = Entry(functools.partial(forward, compiled), setup)
        explain = CFCAM(copy.deepcopy(cam.model), setup.layer, compile=True)
        entries[f"explained{kind}, compiled"] = Entry(twice_at_first(explain), setup)
        if torch.device(setup.device).type == "cuda":
            flagging = CFCAM(copy.deepcopy(cam.model), setup.layer, compile=True, on_invalid="flag")
            entries[f"explained{kind}, compiled, CUDA graph"] = Entry(recorded_at_first(flagging), setup)
    return entries


def twice_at_first(cam: CFCAM) -> Callable[[Tensor], Explanation]:
    """Explains images twice when their shape comes for the first time: the second time compiles."""
    shapes = set()

    def explain(images: Tensor) -> Explanation:
        if images.shape not in shapes:
            shapes.add(images.shape)
            cam(images)
        return cam(images)

    return explain


def recorded_at_first(cam: CFCAM) -> Callable[[Tensor], Explanation]:
    """Explains images by a recording, made when their shape comes for the first time."""
    recordings: dict[torch.Size, Recording] = {}

    def explain(images: Tensor) -> Explanation:
        if images.shape not in recordings:
            recordings[images.shape] = Recording(cam, images)
        return recordings[images.shape](images)

    return explain


def first_call(entry: Entry, eager: Entry, batch: int) -> dict[str, Any]:
    """Seconds of the first call, which compiles, and the difference from the eager logits; or why it is not timed."""
    case, expected = entry.case(batch), logits_of(eager.case(batch)())
    start = time.perf_counter()
    try:
        logits = logits_of(case())
    except Exception as error:  # such as a missing C++ compiler, which must not end the benchmark
        return {"not_timed": one_line(error)}
    seconds = round(time.perf_counter() - start, 1)
    difference = float((logits - expected).float().square().mean().sqrt() / expected.float().std())
    if not difference <= COMPILED_TOLERANCE[entry.setup.precision]:
        return {"not_timed": f"its logits are {difference:.1e} of their spread off the eager ones"}
    return {"compile_s": seconds, "difference": difference}


def measure(entries: Mapping[str, Entry], batch: int, options: Options) -> dict[str, Any]:
    """Milliseconds per image, and the ratios of each case's time to those of `OVER`."""
    cases = {name: entry.case(batch) for name, entry in entries.items()}
    warmup = 1 if batch <= WARMED_UP or options.device != "cpu" else 0
    seconds = interleaved(cases, options.repeats, warmup, options.limit_s)
    counts = {name: entry.count(batch) for name, entry in entries.items()}
    per_image = {name: [s / counts[name] for s in values] for name, values in seconds.items()}
    return {
        "repeats": len(seconds["explained"]),
        "cases": {name: summary(seconds[name], counts[name]) for name in cases},
        **{
            key: {name: ratio(per_image[name], per_image[base]) for name in cases}
            for key, base in OVER.items()
            if base in cases
        },
    }


def show(result: dict[str, Any]) -> None:
    """Prints a table for each batch size, and what was not timed."""
    for batch, figures in result["batches"].items():
        print_table(
            f"{result['model']}, batch {batch}, {result['device']}, medians of {figures['repeats']}",
            ("case", "ms/image", "min", "max", "÷ explained", "÷ prepared"),
            [
                (name, *row.values(), figures["over_explained"][name], figures["over_prepared"][name])
                for name, row in figures["cases"].items()
            ],
        )
    print(f"prepared: {result['prepared']['chosen']}")
    left_out = result.get("peers", {}) | {
        f"{name}, batch {batch}": report
        for batch, figures in result["compiled"].items()
        for name, report in figures.items()
    }
    for name, report in left_out.items():
        if "not_timed" in report:
            print(f"not timed: {name}: {report['not_timed']}")


if __name__ == "__main__":
    command("throughput", Options, run, show, __doc__)
