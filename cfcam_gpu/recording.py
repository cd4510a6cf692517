"""A whole call of an explainer, for batches of one kind, recorded in a CUDA graph and replayed.

A call launches some hundred kernels, and for small batches the GPU waits for the host to launch them. A graph
launches all at once. It repeats what was recorded, on the memory that was used then; so what it has read must still
be what the model has now, and a recording proves on two batches that it gives the explainer's maps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from cfcam_gpu._utils.device import dtype_of, on_device, out_of_memory
from cfcam_gpu._utils.messages import first_line
from cfcam_gpu.capture.hooks import has_hooks
from cfcam_gpu.capture.model_state import modules_of
from cfcam_gpu.capture.scoring import describe
from cfcam_gpu.errors import CaptureError, CFCAMError, ConfigError
from cfcam_gpu.explanation import Explanation

if TYPE_CHECKING:
    from cfcam_gpu.explainer import CFCAM

#: Largest difference of a heatmap, by the model's dtype: sums in another order, and what a low precision makes of them.
_TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-3, torch.bfloat16: 2e-2, torch.float16: 2e-2}

#: Calls before the recording: libraries choose their algorithms and kernels are compiled.
_WARM_UP = 3


class Graphs(Protocol):
    """How calls are recorded; `CudaGraphs` is the real one."""

    def record(self, call: Callable[[], Explanation]) -> tuple[Explanation, Callable[[], None]]:
        """What a call makes, and a function that makes it again in place, from what its inputs hold then."""


class CudaGraphs:
    """Records in a CUDA graph of the current device."""

    def record(self, call: Callable[[], Explanation]) -> tuple[Explanation, Callable[[], None]]:
        current = torch.cuda.current_stream()
        aside = torch.cuda.Stream()
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                call()
        current.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                result = call()
        except (RuntimeError, CFCAMError) as error:
            if out_of_memory(error):
                raise
            raise CaptureError(
                f"the call cannot be recorded ({first_line(error)}): the model waits for the GPU, or its code "
                "depends on values; call the explainer itself"
            ) from error
        return result, graph.replay


class Recording:
    """An explainer's call for batches of one shape and dtype.

    It takes other images of that kind, and other classes if it was recorded with classes. Weights may change in
    place, as an optimiser and `load_state_dict` change them. Several threads take turns.

    Args:
        cam: flags invalid images; its model is on a CUDA device and has no hooks.
        images, targets: of the kind that will follow; targets are None or a tensor of classes.
        graphs: how the call is recorded.

    Raises:
        ConfigError: what cannot be recorded.
        CaptureError: the recorded call gives other maps than the explainer.

    Example:
        >>> from cfcam_gpu import CFCAM
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> cam, images = CFCAM(model, "1", on_invalid="flag"), torch.rand(64, 3, 8, 8)
        >>> if torch.cuda.is_available():
        ...     model.cuda()
        ...     recorded = Recording(cam, images.cuda())
        ...     recorded(images.flip(3).cuda()).heatmap
    """

    def __init__(
        self, cam: CFCAM, images: Tensor, targets: Tensor | None = None, *, graphs: Graphs | None = None
    ) -> None:
        _check(cam, images, targets, needs_cuda=graphs is None)
        self.cam = cam
        self._lock = threading.Lock()
        self._images = images.detach().clone()
        self._targets = None if targets is None else targets.to(images.device, copy=True)
        with on_device(images.device):
            # The layer is chosen and its output read before, which takes passes of the model that would be recorded.
            cam(images, self._targets)
            self._result, self._replay = (graphs or CudaGraphs()).record(
                lambda: cam(self._images, self._targets)
            )
        self._state = _state(cam)
        self._done: torch.cuda.Event | None = None
        for batch in (images, images.flip(0, -1)):
            self._prove(batch, self._targets)

    def __call__(self, images: Tensor, targets: Tensor | None = None) -> Explanation:
        """The explanation of a batch like the recorded one.

        Raises:
            ConfigError: another shape, dtype or device, targets of another kind, or a changed model.
        """
        _same_kind("images", images, self._images)
        if (targets is None) != (self._targets is None):
            kind = "None" if self._targets is None else f"classes {describe(self._targets)}"
            raise ConfigError(f"this call was recorded with targets {kind}; record another for others")
        if _state(self.cam) != self._state:
            raise ConfigError(
                "the model or the explainer is not what was recorded: other modules, hooks, tensors or precision; "
                "record it again"
            )
        with self._lock, on_device(self._images.device):
            self._wait()
            self._images.copy_(images)
            if targets is not None and self._targets is not None:
                _same_kind("targets", targets, self._targets, any_device=True)
                self._targets.copy_(targets)
            self._replay()
            result = _copied(self._result)
            self._finish()
        return result

    def _wait(self) -> None:
        """Another thread's stream may still read the results of the last call."""
        if self._done is not None:
            torch.cuda.current_stream().wait_event(self._done)

    def _finish(self) -> None:
        if self._images.is_cuda:
            self._done = torch.cuda.current_stream().record_event()

    def _prove(self, images: Tensor, targets: Tensor | None) -> None:
        expected, got = self.cam(images, targets), self(images, targets)
        tolerance = _TOLERANCES.get(dtype_of(self.cam.model, images.dtype), 1e-3)
        same = torch.equal(got.status, expected.status)
        difference = float((got.heatmap - expected.heatmap).abs().max())
        if not same or not difference <= tolerance:
            raise CaptureError(
                f"the recorded call gives other maps than the explainer (heatmaps differ by {difference:.1e}): the "
                "model does not do the same for every batch; call the explainer itself"
            )


def _check(cam: CFCAM, images: Tensor, targets: Tensor | None, *, needs_cuda: bool) -> None:
    reasons = {
        f"images on {images.device}: CUDA graphs need a CUDA device": needs_cuda and not images.is_cuda,
        "an explainer with on_invalid='raise', which waits for the GPU: give it on_invalid='flag'": cam.on_invalid
        != "flag",
        f"targets {describe(targets)}: give a tensor of classes, or none": targets is not None
        and not isinstance(targets, Tensor),
        "a model whose modules have hooks, which a graph would not run": any(
            map(has_hooks, modules_of(cam.model))
        ),
        "autocast, which keeps copies of the weights: convert the model instead": torch.is_autocast_enabled(
            images.device.type
        ),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ConfigError(f"a call cannot be recorded with {reason}")


def _same_kind(name: str, given: Tensor, recorded: Tensor, *, any_device: bool = False) -> None:
    device = any_device or given.device == recorded.device
    if given.shape != recorded.shape or given.dtype != recorded.dtype or not device:
        raise ConfigError(
            f"this call was recorded for {name} {describe(recorded)} on {recorded.device}, got {describe(given)} on "
            f"{given.device}; record another for those"
        )


def _state(cam: CFCAM) -> tuple[object, ...]:
    """What a recording has read besides the images, and would not read again."""
    modules = modules_of(cam.model)
    tensors = [
        tensor.data_ptr()
        for module in modules
        for named in (module._parameters, module._buffers)
        for tensor in named.values()
        if tensor is not None
    ]
    precision = (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
    )
    hooked = any(map(has_hooks, modules))
    return (cam.config, cam.method, tuple(map(id, modules)), hooked, tuple(tensors), precision)


def _copied(result: Explanation) -> Explanation:
    """With tensors of its own: the next call writes over the recorded ones."""
    values = {field.name: getattr(result, field.name) for field in fields(result)}
    copies: dict[str, Any] = {name: v.clone() for name, v in values.items() if isinstance(v, Tensor)}
    return replace(result, **copies)
