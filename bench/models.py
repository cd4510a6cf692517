"""Which layer is explained of every kind of image classifier, and whether it is right: `python -m bench.models`.

Each model is built untrained and explained at its automatic layer. Recorded are the layer, its layout and
map, the noise-patch test of its captured activations (`cfcam_gpu.capture.noise_patch`), Grad-CAM against an
independent one at the layer written by hand (`HANDWRITTEN`), a batch against single images, and the finer
layer. Results go to `bench/results/models.json` model by model, so that a survey that was stopped goes on.
"""

from __future__ import annotations

import copy
import json
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import zoo
from bench.by_hand import BY_HAND, ByHand, grad_cam
from bench.common import RESULTS, parse, print_table
from cfcam_gpu import CFCAM, CFCAMError
from cfcam_gpu.capture import TargetLayer, capture, finer_layer
from cfcam_gpu.capture.layouts import Tokens
from cfcam_gpu.capture.noise_patch import Locality, locality, noise_patches

RESULT = RESULTS / "models.json"

#: Seconds of the processor and of the clock that one model may take, models that share a process, and bytes
#: that a process may have.
CPU_SECONDS = 600
SECONDS = 1800
CHUNK = 40
MEMORY = 16 * 2**30

#: The classes that are explained: of an untrained model many a map is blank. Where all are, the four highest.
CLASSES = (1, 2, 3, 4)

#: Largest difference of two maps that are the same, over the largest value: other batches and another order of
#: sums change float32 that much.
SAME = 1e-3

#: Packages whose models are surveyed.
PACKAGES = ("torch", "torchvision", "timm", "transformers")


@dataclass(frozen=True)
class Options:
    """Options of the survey.

    Attributes:
        names: the models; all of `bench.zoo` unless given.
        per_family: models of each module of timm, the cheapest.
        again: whether to repeat those that are stored.
        only: text that names must contain.
        failed: repeat those that were not right.
    """

    names: tuple[str, ...] = ("",)
    per_family: int = 3
    again: bool = False
    failed: bool = False
    only: str = ""


def examine(name: str) -> dict[str, Any]:
    """What the survey records of one model.

    `verdict` is `right`, `wrong`, `undecided` (the model spreads each change over its whole map, and no layer
    is written by hand), `refused`, or `not built`.
    """
    started = time.process_time()
    try:
        built = zoo.build(name)
        images = zoo.images_of(built.size)
        with torch.no_grad():
            built.model(images[:1])
    except Exception as error:
        return {"verdict": "not built", "message": _line(error)}
    record: dict[str, Any] = {
        "type": type(built.model).__name__,
        "parameters_m": round(sum(p.numel() for p in built.model.parameters()) / 1e6, 2),
        "size": list(built.size),
    }
    try:
        record |= _explained(built.model, images, BY_HAND.get(name))
    except CFCAMError as error:
        record |= {"verdict": "refused", "message": _line(error)}
    return {**record, "seconds": round(time.process_time() - started, 1)}


def _explained(model: nn.Module, images: Tensor, by_hand: ByHand | None) -> dict[str, Any]:
    cam = CFCAM(model, method="gradcam", on_invalid="flag")
    features = cam.features(images, targets=[CLASSES] * 2)
    together, classes = cam.explain(features).grid, CLASSES
    if bool((together <= 0).all()):
        classes = tuple(features.logits[0].topk(4).indices.tolist())
        features = cam.features(images, targets=[classes] * 2)
        together = cam.explain(features).grid
    layer = features.runner.layer
    assert layer.layout is not None
    # The whole batch at once, as the test of the choice; read by the capture, not by the choice.
    activations = capture(model, layer, noise_patches(images[0]), 0, differentiate=False).activations
    local = locality(activations)
    scale = _scale(features.activations, features.gradients)
    single = _single(cam, images, together, scale, classes)
    if single > SAME:
        # Some models multiply rounding errors; in float64 there are none to speak of.
        double = CFCAM(copy.deepcopy(model).double(), layer.label, method="gradcam", on_invalid="flag")
        features = double.features(images.double(), targets=[classes] * 2)
        exact = double.explain(features).grid
        scale_of_exact = _scale(features.activations, features.gradients)
        single = _single(double, images.double(), exact, scale_of_exact, classes)
    record = {
        "layer": layer.label,
        "layout": layer.layout.name,
        "prefix": layer.layout.prefix if isinstance(layer.layout, Tokens) else 0,
        "map": list(activations.shape[2:]),
        "channels": activations.shape[1],
        "agreement": round(local.agreement, 3),
        "strength": round(local.strength, 4),
        # The same output with its channels for columns: no map.
        "misread": round(locality(activations.permute(0, 2, 3, 1)).agreement, 3),
        "single": single,
        "maps": together.shape[0] * together.shape[1],
        "blank": int((together.flatten(2).amax(2) <= 0).sum()),
    }
    if by_hand:
        expected = torch.stack([grad_cam(model, by_hand, images, target) for target in classes], dim=1)
        record |= {"expected": by_hand.layer, "by_hand": _difference(together, expected, scale)}
    return {**record, **_finer(model, layer, images), "verdict": _verdict(record, local)}


def _verdict(record: dict[str, Any], local: Locality) -> str:
    same = record["single"] <= SAME and record.get("by_hand", 0) <= SAME
    if not same or record["blank"] == record["maps"]:
        return "wrong"
    if local.is_map or (local.is_spread and "by_hand" in record):
        return "right"
    return "undecided" if local.is_spread else "wrong"


def _finer(model: nn.Module, layer: TargetLayer, images: Tensor) -> dict[str, Any]:
    try:
        finer = finer_layer(model, layer, images)
    except CFCAMError as error:
        return {"finer": None, "finer_message": _line(error)}
    shape = capture(model, finer, images[:1], 0, differentiate=False).activations.shape
    return {"finer": finer.label, "finer_map": list(shape[2:])}


def _single(cam: CFCAM, images: Tensor, together: Tensor, scale: float, classes: tuple[int, ...]) -> float:
    """Difference of the maps of single images from those of the batch."""
    single = torch.cat([cam(image[None], targets=[classes]).grid for image in images])
    return _difference(single, together, scale)


def _scale(activations: Tensor, gradients: Tensor) -> float:
    """Largest sum over the channels of a map whose terms do not cancel: what rounding errors are measured by."""
    weights = gradients.mean((3, 4), keepdim=True)
    return float((weights * activations[:, None]).abs().sum(2).amax())


def _difference(one: Tensor, other: Tensor, scale: float) -> float:
    """Largest difference of maps over `scale`; infinite for maps of another shape."""
    if one.shape != other.shape:
        return float("inf")
    return round(float((one - other).abs().max()) / scale, 6) if scale else 0.0


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def main() -> None:
    """Survey what is not stored yet, and print a summary."""
    options = parse(Options, __doc__)
    stored: dict[str, Any] = {"costs": {}, "models": {}}
    if RESULT.exists():
        stored = json.loads(RESULT.read_text())
    stored["versions"] = {package: version(package) for package in PACKAGES}
    names = list(options.names) if options.names != ("",) else _all_names(stored, options)
    done = stored["models"]
    todo = [
        name
        for name in names
        if options.only in name
        and (options.again or name not in done or (options.failed and done[name]["verdict"] != "right"))
    ]
    print(f"{len(todo)} of {len(names)} models to do", flush=True)
    for start in range(0, len(todo), CHUNK):
        for name, record in _in_process(todo[start : start + CHUNK]):
            done[name] = record
            print(name, record["verdict"], record.get("layer", record.get("message")), flush=True)
            _write(stored)
    show(done)


def _all_names(stored: dict[str, Any], options: Options) -> list[str]:
    """All models of the zoo, roughly the cheapest first; costs of timm's are measured once."""
    import timm

    for name in timm.list_models():
        if name not in stored["costs"]:
            stored["costs"][name] = round(zoo.timm_cost(name), 2)
            if len(stored["costs"]) % 50 == 0:
                _write(stored)
    timms = zoo.timm_names(stored["costs"], options.per_family)
    visions = zoo.torchvision_names()
    return [*zoo.transformers_names(), *timms[:250], *visions[:50], *timms[250:], *visions[50:]]


def _write(stored: dict[str, Any]) -> None:
    lines = [
        f"  {json.dumps(name)}: {json.dumps(record)}" for name, record in sorted(stored["models"].items())
    ]
    body = ",\n".join(lines)
    head = ",\n".join(f'"{key}": {json.dumps(stored[key])}' for key in ("versions", "costs"))
    RESULT.write_text(f'{{{head},\n"models": {{\n{body}\n}}}}\n')


def _in_process(names: Sequence[str]) -> Any:
    """(name, record) of each model, in one process after the other; one that stalls or dies is replaced."""
    left = list(names)
    while left:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.models", "--worker", *left],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=Path(__file__).parent.parent,
        )  # fmt: skip
        assert process.stdout is not None
        for name in list(left):
            timer = threading.Timer(SECONDS, process.kill)
            timer.start()
            line = process.stdout.readline()
            timer.cancel()
            left.remove(name)
            if not line:
                yield (
                    name,
                    {
                        "verdict": "not built",
                        "message": f"took more than {CPU_SECONDS} s of the processor, or died",
                    },
                )
                break
            yield name, json.loads(line)
        process.kill()
        process.wait()


def _work(names: Sequence[str]) -> None:
    warnings.filterwarnings("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    out = sys.stdout
    sys.stdout = sys.stderr
    for name in names:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # its signal ends the process
        try:
            record = examine(name)
        except Exception as error:
            record = {"verdict": "failed", "message": _line(error)}
        print(json.dumps(record), file=out, flush=True)


def show(done: dict[str, dict[str, Any]]) -> None:
    """Prints how many models have which verdict, and those that are not right."""
    counts = Counter((name.partition(":")[0], record["verdict"]) for name, record in done.items())
    print_table(
        "models", ("library, verdict", "models"), [(" ".join(k), n) for k, n in sorted(counts.items())]
    )
    for name, record in done.items():
        if record["verdict"] != "right":
            print(
                name,
                record["verdict"],
                record.get("layer", ""),
                record.get(
                    "message",
                    {key: record.get(key) for key in ("agreement", "strength", "single", "by_hand")},
                ),
            )


if __name__ == "__main__":
    if "--worker" in sys.argv:
        _work(sys.argv[sys.argv.index("--worker") + 1 :])
    else:
        main()
