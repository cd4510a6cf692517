"""How many operations an explanation asks of the device beyond the forward pass, and whether it waits for the device.

No GPU is needed: everything runs on PyTorch's `meta` device, whose tensors have shapes and no values. It stands for
a GPU here. Kernels are not launched; their launches are counted. `waits` counts the copies to and from the device
for which the host waits, over all cases of the table `cases`, and must be 0.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import get_model

import cfcam_gpu.kernels
from bench.common import command, print_table
from cfcam_gpu import CFCAM, PRESETS, CFCAMConfig, explain_activations
from cfcam_gpu import engines as engine_table
from cfcam_gpu._utils.checks import never_ends
from cfcam_gpu.config import FILTERS
from cfcam_gpu.dataset.execution.batch_explainer import BatchExplainer
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.engines import triton_engine
from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS
from cfcam_gpu.images.views import View
from cfcam_gpu.methods import METHODS
from cfcam_gpu.models import LoadedModel

#: The stand-in for a GPU.
DEVICE = "meta"

#: Operations for which the device does nothing: another view of a tensor, or memory that is not filled.
_FREE = {
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "empty", "empty_like",
    "empty_strided", "expand", "lift_fresh", "new_empty", "permute", "select", "slice", "split", "split_with_sizes",
    "squeeze", "t", "transpose", "unbind", "unfold", "unsafe_split", "unsqueeze", "view",
}  # fmt: skip

#: Functions that make a tensor of Python numbers; on a device the numbers are copied there, and the host waits.
_FROM_NUMBERS = {"tensor", "as_tensor", "new_tensor", "scalar_tensor", "asarray"}

#: Operations whose result's shape, or the result itself, is a value that the host reads.
_READS = {
    "_local_scalar_dense", "_unique2", "equal", "is_nonzero", "item", "masked_select", "nonzero", "unique",
    "unique_consecutive",
}  # fmt: skip

#: Methods that are not in the table, and why the host waits in them.
LEFT_OUT = {
    "scorecam": "runs the model once for each channel that is not constant",
    "ablationcam": "runs the head once for each channel that is not zero",
    "groupcam": "runs the model once for each group of channels whose map is not zero",
    "reciprocam": "runs the layers behind the target layer once for each cell, for one image after the other",
    "smoothgradcam++": "runs the model on four noisy images; the seed of their noise is read from the image",
    "random": "the seed of the noise is read from the image",
}


@dataclass(frozen=True)
class Options:
    """Sizes of the case.

    Attributes:
        model: name in torchvision.
        layer: the target layer.
        side: height and width of the images.
        batch: number of images.
    """

    model: str = "resnet50"
    layer: str = "layer4"
    side: int = 224
    batch: int = 16


@dataclass
class Counts:
    """What one piece of work asked of the device.

    Attributes:
        operations: operations of PyTorch that do something; views and allocations do not count.
        launches: kernels of this package.
        to_device: copies of tensors or numbers from the host.
        to_host: values read back, and operations whose result's shape depends on values.
        waits: the copies among these for which the host waits.
        places: how often each operation occurred.
    """

    operations: int = 0
    launches: int = 0
    to_device: int = 0
    to_host: int = 0
    waits: int = 0
    places: Counter[str] = field(default_factory=Counter)

    @property
    def row(self) -> dict[str, int]:
        """The numbers, without `places`."""
        return {name: value for name, value in asdict(self).items() if name != "places"}


class _Numbers(TorchFunctionMode):
    """Counts tensors that are made on the device of numbers on the host."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made_of_numbers = getattr(func, "__name__", "") in _FROM_NUMBERS and not isinstance(args[0], Tensor)
        if made_of_numbers and isinstance(result, Tensor) and result.device.type == DEVICE:
            self.counts.to_device += 1
            self.counts.waits += 1
        return result


class _Operations(TorchDispatchMode):
    """Counts operations and copies; a value that is read back is 0."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(func).split(".")[1]
        sources = {tensor.device.type for tensor in _tensors((*args, *kwargs.values()))}
        if DEVICE in sources and name in _READS:
            self._read()
        if name == "_to_copy" and torch.device(kwargs.get("device") or DEVICE).type != DEVICE in sources:
            self._read()
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        result = func(*args, **kwargs)
        targets = {tensor.device.type for tensor in _tensors((result,))}
        if name in ("_to_copy", "copy_") and sources - {DEVICE} and DEVICE in targets:
            self.counts.to_device += 1
            asynchronous = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
            self.counts.waits += not asynchronous
        if DEVICE in sources | targets and name not in _FREE:
            self.counts.operations += 1
            self.counts.places[name] += 1
        return result

    def _read(self) -> None:
        self.counts.to_host += 1
        self.counts.waits += 1


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


class _Launcher:
    """Takes the place of a kernel.

    Args:
        on_launch: called with the kernel's name and the launch grid.
    """

    def __init__(self, name: str, on_launch: Callable[[str, tuple[int, ...]], None]) -> None:
        self.name = name
        self.on_launch = on_launch

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *_arguments, **_options: self.on_launch(self.name, grid)


@contextlib.contextmanager
def stubbed_kernels(on_launch: Callable[[str, tuple[int, ...]], None]) -> Iterator[None]:
    """Within it no kernel is launched, and engine `triton` runs on any device.

    Args:
        on_launch: called with the name of the kernel and the launch grid at each launch.
    """
    from triton.runtime.jit import KernelInterface

    replaced: list[tuple[Any, str, Any]] = []

    def replace(owner: Any, name: str, value: Any) -> None:
        replaced.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    try:
        # All are imported before the first is changed: a module imported later would keep what replaces a kernel.
        names = [info.name for info in pkgutil.iter_modules(cfcam_gpu.kernels.__path__)]
        for module in [importlib.import_module(f"cfcam_gpu.kernels.{name}") for name in names]:
            for name, value in list(vars(module).items()):
                if isinstance(value, KernelInterface):
                    replace(module, name, _Launcher(name, on_launch))
        replace(triton_engine, "available", lambda _device_type: (True, "stubbed"))
        replace(engine_table, "_AUTO", {DEVICE: ("triton",)})
        # PyTorch knows no autocast for this device.
        enabled = torch.is_autocast_enabled
        replace(torch, "is_autocast_enabled", lambda kind="cuda": kind != DEVICE and enabled(kind))
        yield
    finally:
        for owner, name, value in reversed(replaced):
            setattr(owner, name, value)


def counted(work: Callable[[], Any]) -> Counts:
    """What the work asks of the device; kernels are not launched."""
    counts = Counts()

    def launched(_name: str, _grid: tuple[int, ...]) -> None:
        counts.launches += 1

    with stubbed_kernels(launched), _Operations(counts), _Numbers(counts):
        work()
    return counts


def cases(options: Options, model: nn.Module, images: Tensor) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name and work of each case; all flag images that cannot be explained, so that nothing is read back."""
    b = options.batch
    activations = torch.empty(b, 2048, 7, 7, device=DEVICE)
    gradients = torch.empty(b, 1, 2048, 7, 7, device=DEVICE)
    size = (options.side, options.side)

    def features(config: CFCAMConfig, engine: str) -> Callable[[], Any]:
        return lambda: explain_activations(activations, gradients, size, config, engine, "flag")

    def call(targets: Any = None, **settings: Any) -> Callable[[], Any]:
        settings = {"target_layer": options.layer, "engine": "auto", **settings}
        cam = CFCAM(model, on_invalid="flag", **settings)
        return lambda: cam(images, targets)

    for engine in ("triton", "torch"):
        for preset in PRESETS:
            yield f"preset {preset}, {engine}", call(config=CFCAMConfig.preset(preset), engine=engine)
        for name in FILTERS:
            yield f"filter {name}, {engine}, features only", features(CFCAMConfig(filter=name), engine)
    classes = {
        "a number": 1,
        "a list": [1] * b,
        "a tensor on the CPU": torch.ones(b, dtype=torch.int64),
        "a tensor on the device": torch.ones(b, dtype=torch.int64, device=DEVICE),
        "three classes for each image": [[1, 2, 3]] * b,
        "a function": lambda logits: logits[3],
    }
    for name, targets in classes.items():
        yield f"targets: {name}", call(targets)
    for name, method in METHODS.items():
        if name not in LEFT_OUT and name != "cfcam":
            yield f"method {name}", call(method=name, engine=next(iter(method.engines), "auto"))


def run(options: Options) -> dict[str, Any]:
    """The table of the cases, and the two figures that have a goal."""
    with torch.device(DEVICE):
        model = get_model(options.model).eval()
        images = torch.empty(options.batch, 3, options.side, options.side)
    with torch.inference_mode():
        forward = counted(lambda: model(images))
    with stubbed_kernels(lambda _name, _grid: None):
        works = list(cases(options, model, images))
        for _name, work in works:
            work()  # the first call of a method may look for a layer
    counts = {name: counted(work) for name, work in works}
    default = counts["preset default, triton"]
    raising = CFCAM(model, options.layer, engine="torch")
    return {
        "options": asdict(options),
        "forward": forward.row,
        "cases": {name: count.row for name, count in counts.items()},
        "default_operations": dict(default.places.most_common()),
        "left_out": LEFT_OUT,
        "reads_with_on_invalid_raise": counted(lambda: raising(images)).to_host,
        "dataset_batch": _dataset_batch(options, model).row,
        "extra_ops": default.operations + default.launches - forward.operations,
        "waits": sum(count.waits for count in counts.values()),
    }


def _dataset_batch(options: Options, model: nn.Module) -> Counts:
    """A batch of a dataset run: the pixels go to the device, and all that the rows hold comes back at once."""
    loaded = LoadedModel(model, PUBLISHED_PREPROCESS, None, options.model, "none")
    with stubbed_kernels(lambda _name, _grid: None):
        cam = CFCAM(model, options.layer, on_invalid="flag")
    explainer = BatchExplainer(loaded, cam, torch.device(DEVICE), options.batch)
    view = View(np.zeros((*PUBLISHED_PREPROCESS.size, 3), np.uint8), width=224, height=224)
    items = [(view, Sample(str(i), f"{i}.png")) for i in range(options.batch)]
    return counted(lambda: explainer.explain_batch(items, None, never_ends))


def show(result: dict[str, Any]) -> None:
    """Prints the table."""
    columns = ("operations", "launches", "to_device", "to_host", "waits")
    rows = [
        (name, *(row[column] for column in columns))
        for name, row in {"forward pass only": result["forward"], **result["cases"]}.items()
    ]
    title = f"{result['options']['model']}, batch {result['options']['batch']}, on the meta device"
    print_table(title, ("case", *(column.replace("_", " ") for column in columns)), rows)
    print(f"beyond the forward pass: {result['extra_ops']} operations and launches; waits: {result['waits']}")


if __name__ == "__main__":
    command("device_ops", Options, run, show, __doc__)
