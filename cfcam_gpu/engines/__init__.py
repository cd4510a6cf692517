"""The engines that compute CF-CAM, by name, and which of them runs on a device.

Each engine is a module of its own with two functions: `run`, which returns the maps, and `available`,
which says whether it can run on a type of device. The module is imported when one of them is first
called, so that looking at the table imports neither PyTorch nor Numba.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from cfcam_gpu._utils.messages import unknown
from cfcam_gpu.errors import BackendError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cfcam_gpu.cfcam.maps import Maps
    from cfcam_gpu.config import CFCAMConfig
    from cfcam_gpu.explanation import Explanation

__all__ = ["ENGINES", "Engine", "resolve_engine"]


@dataclass(frozen=True)
class Engine:
    """An implementation of CF-CAM.

    Attributes:
        module: full name of the module that has the functions `run` and `available`.
        about: one line for people.
        explains: whether it makes the whole explanation, by `explain`.

    Example:
        >>> ENGINES["torch"].about
        'batched PyTorch, on any device'
        >>> ENGINES["torch"].available("cpu")
        (True, 'runs on any device')
    """

    module: str
    about: str
    explains: bool = False

    def run(self, activations: Tensor, gradients: Tensor, size: tuple[int, int], config: CFCAMConfig) -> Maps:
        """The maps of B images for K targets each.

        Args:
            activations: (B,C,h,w) float32, finite, contiguous.
            gradients: (B,K,C,h,w) float32, finite, contiguous.
            size: (H,W) of the heatmaps.
            config: parameters of CF-CAM.

        Returns:
            Maps with clusters, on the activations' device.
        """
        maps: Maps = self._imported().run(activations, gradients, size, config)
        return maps

    def explain(
        self,
        activations: Tensor,
        gradients: Tensor,
        size: tuple[int, int],
        config: CFCAMConfig,
        out_of_range: Tensor | None = None,
        *,
        zero_gradient: bool = False,
    ) -> Explanation:
        """The maps of B images for K targets each, and which images cannot be explained.

        Args:
            activations, gradients, size, config: as for `run`; they may hold NaN and Inf and have any strides.
            out_of_range: (B,) bool: images with a target that is not a class of the model; None: there is none.
            zero_gradient: whether a gradient that is zero everywhere is a problem.

        Returns:
            The explanation, with an axis K and without logits and targets.
        """
        explanation: Explanation = self._imported().explain(
            activations, gradients, size, config, out_of_range, zero_gradient=zero_gradient
        )
        return explanation

    def available(self, device_type: str) -> tuple[bool, str]:
        """Whether it can run on a device of this type (`cpu`, `cuda`, …), and why or why not."""
        answer: tuple[bool, str] = self._imported().available(device_type)
        return answer

    def _imported(self) -> ModuleType:
        return importlib.import_module(self.module)


#: In the order of a table for people.
ENGINES: dict[str, Engine] = {
    "numba": Engine(
        f"{__name__}.numba_engine", "batched PyTorch, channels clustered by code compiled for the CPU"
    ),
    "torch": Engine(f"{__name__}.torch_engine", "batched PyTorch, on any device"),
    "triton": Engine(f"{__name__}.triton_engine", "Triton kernels on the GPU", explains=True),
    "cuml": Engine(f"{__name__}.cuml_engine", "cuML's DBSCAN on the GPU, one image at a time"),
    "reference": Engine(
        f"{__name__}.reference_engine", "NumPy float64, scikit-learn and OpenCV, one image at a time"
    ),
}

#: By device type: `auto` takes the first of these that can run, or `torch` for any other type.
_AUTO: dict[str, tuple[str, ...]] = {"cpu": ("numba", "torch"), "cuda": ("triton", "torch")}


def resolve_engine(name: str, device: torch.device) -> str:
    """The name of the engine that runs on a device: a key of `ENGINES`, chosen for `auto`.

    Raises:
        BackendError: the engine is unknown, or was asked for by name and cannot run there. Another
            engine never takes its place.

    Example:
        >>> import torch
        >>> resolve_engine("torch", torch.device("cpu"))
        'torch'
        >>> resolve_engine("cuml", torch.device("cpu"))
        Traceback (most recent call last):
        cfcam_gpu.errors.BackendError: engine 'cuml' cannot run on cpu: needs an NVIDIA GPU; ...
    """
    if name == "auto":
        choices = _AUTO.get(device.type, ("torch",))
        return next(choice for choice in choices if ENGINES[choice].available(device.type)[0])
    if name not in ENGINES:
        raise BackendError(unknown("engine", name, ("auto", *ENGINES)))
    ok, reason = ENGINES[name].available(device.type)
    if not ok:
        raise BackendError(f"engine {name!r} cannot run on {device.type}: {reason}")
    return name
