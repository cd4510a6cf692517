"""Which layer is explained of every kind of image classifier, and whether it is right: `python -m bench.models`.

Each model is built untrained and explained at its automatic layer. Recorded are the layer, its layout and
map, the noise-patch test of its captured activations (`cfcam_gpu.capture.noise_patch`), Grad-CAM against an
independent one at the layer written by hand (`HANDWRITTEN`), a batch against single images, and the finer
layer. Results go to `bench/results/models.json` model by model, so that a survey that was stopped goes on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import zoo
from bench.common import RESULTS, parse, print_table
from cfcam_gpu import CFCAM, CFCAMError
from cfcam_gpu.capture import TargetLayer, capture, choose_layer, finer_layer
from cfcam_gpu.capture.layouts import Tokens
from cfcam_gpu.capture.noise_patch import locality, noise_patches

RESULT = RESULTS / "models.json"

#: Seconds that one model may take, and models that share a process.
SECONDS_PER_MODEL = 300
CHUNK = 20

#: The class that is explained.
TARGET = 1


@dataclass(frozen=True)
class Survey:
    """Options of the survey.

    Attributes:
        names: the models; all of `bench.zoo` unless given.
        per_family: most models of each module of timm.
        again: whether to repeat those that are stored.
        only: text that names must contain.
        failed: repeat those that were not right.
    """

    names: tuple[str, ...] = ("",)
    per_family: int = 5
    again: bool = False
    failed: bool = False
    only: str = ""


def examine(name: str) -> dict[str, Any]:
    """What the survey records of one model."""
    started = time.perf_counter()
    try:
        built = zoo.build(name)
    except Exception as error:
        return {"verdict": "not built", "message": _line(error)}
    images = torch.randn(2, *built.size, generator=torch.Generator().manual_seed(0))
    record: dict[str, Any] = {
        "type": type(built.model).__name__,
        "parameters_m": round(sum(p.numel() for p in built.model.parameters()) / 1e6, 2),
        "size": list(built.size),
    }
    try:
        with torch.no_grad():
            built.model(images[:1])
    except Exception as error:
        return {**record, "verdict": "not run", "message": _line(error)}
    try:
        record |= _explained(built.model, images, name)
    except CFCAMError as error:
        record |= {"verdict": "refused", "message": _line(error)}
    return {**record, "seconds": round(time.perf_counter() - started, 1)}


def _explained(model: nn.Module, images: Tensor, name: str) -> dict[str, Any]:
    layer = choose_layer(model, images)
    assert layer.layout is not None
    # The whole batch at once, as the test of the choice; read by the capture, not by the choice.
    captured = capture(model, layer, noise_patches(images[0]), 0, differentiate=False)
    local = locality(captured.activations)
    record = {
        "layer": layer.label,
        "layout": layer.layout.name,
        "prefix": layer.layout.prefix if isinstance(layer.layout, Tokens) else 0,
        "map": list(captured.activations.shape[2:]),
        "channels": captured.activations.shape[1],
        "agreement": round(local.agreement, 3),
        "strength": round(local.strength, 4),
    }
    cam = CFCAM(model, method="gradcam", on_invalid="flag")
    together = cam(images, targets=TARGET).grid
    single = torch.cat([cam(image[None], targets=TARGET).grid for image in images])
    record["single"] = _difference(single, together)
    record["blank"] = int((together.flatten(1).amax(1) <= 0).sum())
    record |= _finer(model, layer, images)
    by_hand = (
        HANDWRITTEN.get(name.partition(":")[2])
        if not name.startswith("transformers")
        else HANDWRITTEN.get(name)
    )
    if by_hand:
        record |= _against(model, by_hand, images, together)
    right = local.is_map or local.is_spread
    record["verdict"] = "right" if right and record.get("by_hand", "same") == "same" else "wrong"
    return record


def _finer(model: nn.Module, layer: TargetLayer, images: Tensor) -> dict[str, Any]:
    try:
        finer = finer_layer(model, layer, images)
    except CFCAMError as error:
        return {"finer": None, "finer_message": _line(error)}
    shape = capture(model, finer, images[:1], 0, differentiate=False).activations.shape
    return {"finer": finer.label, "finer_map": list(shape[2:])}


def _against(model: nn.Module, by_hand: ByHand, images: Tensor, grid: Tensor) -> dict[str, Any]:
    """Whether layer and map are those written by hand."""
    expected = grad_cam(model, model.get_submodule(by_hand.layer), images, by_hand)
    same = expected.shape == grid.shape and _difference(grid, expected) < 1e-3
    found = "same" if same else f"expected {by_hand.layer}, difference {_difference(grid, expected)}"
    return {"by_hand": found, "expected": by_hand.layer}


@dataclass(frozen=True)
class ByHand:
    """A layer and how its output holds the map: `nchw`, `nhwc`, or tokens with so many before the map."""

    layer: str
    layout: str = "nchw"
    prefix: int = 0
    then: str = ""

    def read(self, output: Tensor, size: Sequence[int]) -> Tensor:
        """(B,C,h,w)."""
        if self.layout == "nhwc":
            return output.movedim(3, 1)
        if self.layout == "tokens":
            tokens = output[:, self.prefix :]
            stride = (size[0] * size[1] / tokens.shape[1]) ** 0.5
            h, w = round(size[0] / stride), round(size[1] / stride)
            return torch.stack([tokens[:, row * w : (row + 1) * w] for row in range(h)], 1).movedim(3, 1)
        return output


def grad_cam(model: nn.Module, module: nn.Module, images: Tensor, by_hand: ByHand) -> Tensor:
    """Grad-CAM the plain way, (B,h,w): the whole graph, `retain_grad`, and a reshape of its own."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _arguments: object, output: Tensor) -> Tensor:
        if by_hand.then:
            output = getattr(torch.nn.functional, by_hand.then)(output)
        output.retain_grad()
        kept.append(output)
        return output.clone()

    handle = module.register_forward_hook(keep)
    with torch.enable_grad():
        output = model(images.clone().requires_grad_())
        logits = output if isinstance(output, Tensor) else output.logits
        logits[:, TARGET].sum().backward()
    handle.remove()
    model.zero_grad()
    gradient = kept[-1].grad
    assert gradient is not None
    size = images.shape[2:]
    weights = by_hand.read(gradient, size).mean((2, 3), keepdim=True)
    return (weights * by_hand.read(kept[-1].detach(), size)).sum(1).relu()


def _difference(one: Tensor, other: Tensor) -> float:
    """Largest difference over the largest value."""
    if one.shape != other.shape:
        return float("inf")
    scale = float(other.abs().max())
    return round(float((one - other).abs().max()) / scale, 6) if scale else float((one - other).abs().max())


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


#: The right layer of a model, written by hand.
HANDWRITTEN: dict[str, ByHand] = {}


def main() -> None:
    """Survey what is not stored yet, and print a summary."""
    options = parse(Survey, __doc__)
    stored = json.loads(RESULT.read_text()) if RESULT.exists() else {"costs": {}, "models": {}}
    names = list(options.names) if options.names != ("",) else _all_names(stored, options)
    names = [name for name in names if options.only in name]
    done = stored["models"]
    todo = [
        name
        for name in names
        if options.again or name not in done or (options.failed and done[name]["verdict"] != "right")
    ]
    print(f"{len(todo)} of {len(names)} models to do", flush=True)
    for start in range(0, len(todo), CHUNK):
        for name, record in _in_process(todo[start : start + CHUNK]):
            done[name] = record
            print(name, record["verdict"], record.get("layer", record.get("message")), flush=True)
            _write(stored)
    show(done)


def _all_names(stored: dict[str, Any], options: Survey) -> list[str]:
    """All models of the zoo; costs of timm's are measured once."""
    import timm

    for name in timm.list_models():
        if name not in stored["costs"]:
            stored["costs"][name] = round(zoo.timm_cost(name), 2)
            if len(stored["costs"]) % 50 == 0:
                _write(stored)
    _write(stored)
    cheap = {name: cost for name, cost in stored["costs"].items() if cost <= zoo.MOST_COST}
    return [
        *zoo.torchvision_names(),
        *zoo.timm_names(cheap, options.per_family),
        *zoo.transformers_names(),
    ]


def _write(stored: dict[str, Any]) -> None:
    lines = [
        f"  {json.dumps(name)}: {json.dumps(record)}" for name, record in sorted(stored["models"].items())
    ]
    body = ",\n".join(lines)
    RESULT.write_text(f'{{"costs": {json.dumps(stored["costs"])},\n"models": {{\n{body}\n}}}}\n')


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
            timer = threading.Timer(SECONDS_PER_MODEL, process.kill)
            timer.start()
            line = process.stdout.readline()
            timer.cancel()
            left.remove(name)
            if not line:
                yield (
                    name,
                    {"verdict": "not run", "message": f"took more than {SECONDS_PER_MODEL} s, or died"},
                )
                break
            yield name, json.loads(line)
        process.kill()
        process.wait()


def _work(names: Sequence[str]) -> None:
    warnings.filterwarnings("ignore")
    out = sys.stdout
    sys.stdout = sys.stderr
    for name in names:
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
                record.get("message", record.get("by_hand", "")),
            )


if __name__ == "__main__":
    if "--worker" in sys.argv:
        _work(sys.argv[sys.argv.index("--worker") + 1 :])
    else:
        main()
