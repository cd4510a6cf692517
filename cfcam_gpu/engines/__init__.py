"""The engines that turn activations and gradients into maps, by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cfcam_gpu.cfcam.clustering import Clusters, Scan, cluster_channels, scan_in_chunks
from cfcam_gpu.cfcam.maps import Maps, maps_of, upsample_and_normalise
from cfcam_gpu.cfcam.weighting import class_map
from cfcam_gpu.config import CFCAMConfig
from cfcam_gpu.errors import BackendError


@dataclass(frozen=True)
class Engine:
    """An implementation of CF-CAM.

    Attributes:
        run: (activations (B,C,h,w) float32, gradients (B,K,C,h,w) float32, size (H,W), config) -> Maps.
        available: whether it can run on a device of the given type, and why or why not.
        about: one line for people.
    """

    run: Callable[[Tensor, Tensor, tuple[int, int], CFCAMConfig], Maps]
    available: Callable[[str], tuple[bool, str]]
    about: str


def run_torch(
    activations: Tensor,
    gradients: Tensor,
    size: tuple[int, int],
    config: CFCAMConfig,
    scan: Scan = scan_in_chunks,
) -> Maps:
    """The batched path in PyTorch, on any device."""
    clusters = cluster_channels(activations, config, scan)
    grid = class_map(activations, gradients, clusters, config)
    return maps_of(grid, size, clusters)


def run_numba(activations: Tensor, gradients: Tensor, size: tuple[int, int], config: CFCAMConfig) -> Maps:
    """The batched path with the scan of the channels compiled for the CPU."""
    from cfcam_gpu.engines.numba_engine import scan_compiled

    return run_torch(activations, gradients, size, config, scan_compiled)


def _numba_available(device: str) -> tuple[bool, str]:
    if device != "cpu":
        return False, "runs on the CPU only"
    return importable("numba", "pip install numba")


def run_triton(activations: Tensor, gradients: Tensor, size: tuple[int, int], config: CFCAMConfig) -> Maps:
    """Every stage in the Triton kernels of `cfcam_gpu.kernels`; no distance is stored."""
    from cfcam_gpu.engines import triton_engine

    return triton_engine.run_triton(activations, gradients, size, config)


def _triton_available(device: str) -> tuple[bool, str]:
    from cfcam_gpu.engines import triton_engine

    return triton_engine.available(device)


def run_cuml(activations: Tensor, gradients: Tensor, size: tuple[int, int], config: CFCAMConfig) -> Maps:
    """The batched path with cuML's DBSCAN, image by image."""
    from cfcam_gpu.engines.cuml_engine import scan_cuml

    return run_torch(activations, gradients, size, config, scan_cuml)


def _cuml_available(device: str) -> tuple[bool, str]:
    remedy = "pip install 'cfcam-gpu[cuda12]' or 'cfcam-gpu[cuda13]', by the CUDA version"
    if device != "cuda":
        return False, f"needs an NVIDIA GPU; there, {remedy}"
    for module in ("cupy", "cuml"):
        ok, reason = importable(module, remedy)
        if not ok:
            return ok, reason
    return True, reason


def importable(module: str, remedy: str) -> tuple[bool, str]:
    """Whether a module can be imported, and its version or what to do."""
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        return False, f"{error}; {remedy}"
    return True, f"{module} {getattr(found, '__version__', '')}".strip()


def run_reference(activations: Tensor, gradients: Tensor, size: tuple[int, int], config: CFCAMConfig) -> Maps:
    """The reference, one image and one target at a time, on the CPU."""
    from cfcam_gpu.cfcam.reference import ReferenceResult, cfcam_reference

    a, g = activations.cpu().numpy(), gradients.cpu().numpy()
    results = [
        [cfcam_reference(a[i], g[i, k], size, config) for k in range(g.shape[1])] for i in range(len(a))
    ]

    def gather(name: str, rows: list[list[ReferenceResult]]) -> Tensor:
        arrays = np.array([[getattr(result, name) for result in row] for row in rows])
        return torch.from_numpy(arrays).to(activations.device)

    first = [row[:1] for row in results]
    clusters = Clusters(*(gather(name, first)[:, 0] for name in ("labels", "n_clusters", "eps")))
    grid = gather("grid", results).float()
    _, peak = upsample_and_normalise(grid, size)  # of the float32 grid, as in every engine
    return Maps(grid, gather("heatmap", results).float(), peak, clusters)


ENGINES: dict[str, Engine] = {
    "numba": Engine(
        run_numba, _numba_available, "batched PyTorch, the scan of the channels compiled for the CPU"
    ),
    "torch": Engine(run_torch, lambda device: (True, "runs on any device"), "batched PyTorch"),
    "triton": Engine(run_triton, _triton_available, "Triton kernels on the GPU"),
    "cuml": Engine(run_cuml, _cuml_available, "cuML's DBSCAN on the GPU, one image at a time"),
    "reference": Engine(
        run_reference,
        lambda device: (True, "runs on the CPU"),
        "NumPy float64, scikit-learn, OpenCV; one image at a time",
    ),
}

#: What `auto` takes, by device type: the first that can run.
AUTO: dict[str, tuple[str, ...]] = {"cpu": ("numba", "torch"), "cuda": ("triton", "torch")}


def resolve_engine(name: str, device: torch.device) -> str:
    """The name of the engine to run on a device.

    Raises:
        BackendError: unknown, or asked for by name and not able to run; never replaced by another.
    """
    if name == "auto":
        return next(
            engine
            for engine in AUTO.get(device.type, ("torch",))
            if ENGINES[engine].available(device.type)[0]
        )
    if name not in ENGINES:
        raise BackendError(f"unknown engine {name!r}; choose one of: auto, {', '.join(ENGINES)}")
    ok, reason = ENGINES[name].available(device.type)
    if not ok:
        raise BackendError(f"engine {name!r} cannot run on {device.type}: {reason}")
    return name
