"""What a method gets to make a map of: a layer's features, and the model around the layer to ask again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from cfcam_gpu._utils.checks import Check, never_ends
from cfcam_gpu.capture import (
    Capture,
    Maps,
    ScoreFunction,
    Targets,
    capture,
    logits_of,
    replaced_outputs,
)
from cfcam_gpu.capture.layers import TargetLayer
from cfcam_gpu.capture.model_state import explainable
from cfcam_gpu.config import CFCAMConfig
from cfcam_gpu.errors import CaptureError

#: Changed inputs, or changed outputs of the layer, of this size go through the model at once. In bytes.
CHUNK_BYTES = {"cpu": 16 * 2**20, "cuda": 256 * 2**20}


@dataclass(frozen=True)
class ModelRunner:
    """A model around its target layer, run again on changed inputs; nothing stays in the model.

    Inputs of any number go through in chunks of `CHUNK_BYTES`, halved where the memory does not hold one.

    Attributes:
        calls: how often the layer runs in a forward pass; the last one counts.
        autocast: dtype of the caller's autocast, which every pass runs under as well; None: none.
        finer: an earlier layer with larger maps, for methods that look at two.
        check: called before every pass of the model; raises to end the computation.
    """

    model: nn.Module
    layer: TargetLayer
    calls: int
    autocast: torch.dtype | None = None
    finer: TargetLayer | None = None
    check: Check = never_ends

    def logits(self, images: Tensor) -> Tensor:
        """(N,classes) float32 of images (N,3,H,W) in the model's dtype, without gradients."""
        with self._ready(images.device):
            return _in_chunks(self._run, images, self.at_once(images[0]))

    def logits_of_activations(self, image: Tensor, activations: Tensor) -> Tensor:
        """(N,classes) float32 of one image (1,3,H,W) with each of N maps (N,C,h,w) as the layer's output.

        The layers before run once a chunk, on the one image, and those behind on the N maps, each of
        which is a batch of its own to them (`torch.vmap`). Where they do not allow that the image is
        repeated N times instead.
        """

        def run(part: Tensor) -> Tensor:
            try:
                return torch.vmap(lambda maps: self._run_replaced(image, maps[None])[0])(part)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                return self._run_replaced(image.expand(len(part), *image.shape[1:]), part)

        with self._ready(image.device):
            return _in_chunks(run, activations, self.at_once(activations[0]))

    def capture(self, images: Tensor, targets: Targets) -> Capture:
        """As `capture.capture`: activations and gradients of images (B,3,H,W)."""
        self.check()
        with self._autocast(images.device):
            return capture(self.model, self.layer, images, targets, self.calls)

    def capture_finer(self, images: Tensor, targets: Targets) -> Capture:
        """As `capture`, at the layer `finer`."""
        self.check()
        assert self.finer is not None
        with self._autocast(images.device):
            return capture(self.model, self.finer, images, targets)

    def at_once(self, item: Tensor) -> int:
        """How many tensors like this one go through the model together."""
        chunk = CHUNK_BYTES.get(item.device.type, CHUNK_BYTES["cuda"])
        return max(1, chunk // max(1, item.numel() * item.element_size()))

    def _run(self, images: Tensor) -> Tensor:
        self.check()
        return logits_of(self.model(images)).float()

    def _run_replaced(self, images: Tensor, activations: Tensor) -> Tensor:
        calls = 0

        def replace(output: Any) -> Any:
            nonlocal calls
            calls += 1
            # A copy: an in-place operation may follow.
            return activations.to(output.dtype, copy=True) if calls == self.calls else output

        with replaced_outputs(self.layer, replace):
            logits = self._run(images)
        if calls < self.calls:
            raise CaptureError(
                f"target layer {self.layer.label!r} ran {calls} times in a forward pass, {self.calls} before; "
                "choose a layer that always runs as often"
            )
        return logits

    @contextlib.contextmanager
    def _ready(self, device: torch.device) -> Iterator[None]:
        with explainable(self.model), torch.no_grad(), self._autocast(device):
            yield

    def _autocast(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(device.type, self.autocast)


@dataclass(frozen=True)
class Features:
    """B images at the target layer, for K targets each; `dataclasses.replace` makes perturbed ones.

    Attributes:
        activations: (B,C,h,w) float32.
        gradients: (B,K,C,h,w) float32 of the target scores; (B,0,C,h,w) where they were not captured.
        size: (H,W) of the heatmaps.
        config, engine: as for `CFCAM`; of CF-CAM itself.
        images: (B,3,H,W) as the model takes them, None without a model; so are all that follow.
        targets: (B,K) int64; None for callable targets, which `functions` holds then, one an image.
        scores: (B,K) float32, the targets' logits.
        logits: (B,classes) float32, or whatever the model puts out for callable targets.
        out_of_range: (B,) bool, targets that are no class of the model.
        runner: the model around the layer.
        fine: what was captured of the layer `ModelRunner.finer` in the same passes.
        single: whether one target an image was asked for, without an axis K.
    """

    activations: Tensor
    gradients: Tensor
    size: tuple[int, int]
    config: CFCAMConfig = field(default_factory=CFCAMConfig)
    engine: str = "auto"
    images: Tensor | None = None
    targets: Tensor | None = None
    functions: tuple[ScoreFunction, ...] | None = None
    scores: Tensor | None = None
    logits: Tensor | None = None
    out_of_range: Tensor | None = None
    runner: ModelRunner | None = None
    fine: Maps | None = None
    single: bool = True

    @property
    def k(self) -> int:
        """Number of targets an image."""
        return max(1, self.gradients.shape[1]) if self.scores is None else self.scores.shape[1]

    @property
    def asked(self) -> tuple[Tensor, ModelRunner]:
        """The images and the model to run again; only for features that `CFCAM` captured."""
        assert self.images is not None
        assert self.runner is not None
        return self.images, self.runner

    def scores_of(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(N,K) target scores of logits (N,classes), of which the n-th belong to image rows[n]."""
        if self.functions is not None:
            pairs = zip(rows.tolist(), logits, strict=True)
            return torch.stack([self.functions[row](one).reshape(1) for row, one in pairs])
        assert self.targets is not None
        return logits.gather(1, self.targets[rows].clamp(0, logits.shape[1] - 1))

    def gradients_of(self, images: Tensor) -> Tensor:
        """(B,K,C,h,w) float32 gradients of the same targets at other images (B,3,H,W)."""
        _, runner = self.asked
        return runner.capture(images, self._targets).gradients

    def without(self, bad: Tensor) -> Features:
        """With zeros for the images in `bad`, (B,) bool; contiguous, as engines take them."""
        a = self.activations.masked_fill(bad[:, None, None, None], 0).contiguous()
        g = self.gradients.masked_fill(bad[:, None, None, None, None], 0).contiguous()
        return replace(self, activations=a, gradients=g)

    def finer(self) -> Features:
        """The same images and targets at the layer `ModelRunner.finer`."""
        images, runner = self.asked
        found = self.fine or runner.capture_finer(images, self._targets)
        return replace(self, activations=found.activations.float(), gradients=found.gradients)

    @property
    def _targets(self) -> Targets:
        return self.targets if self.functions is None else list(self.functions)

    def generators(self) -> list[torch.Generator]:
        """A generator for each image, on the CPU, seeded by the image alone: no other one changes its draws.

        Without a model the activations take the image's place.
        """
        values = self.activations if self.images is None else self.images
        bits = values.float().contiguous().flatten(1).view(torch.int32).long()
        # Odd multipliers that wrap around: a hash of the values and their places.
        places = torch.arange(1, bits.shape[1] + 1, device=bits.device) * 0x5851F42D4C957F2D | 1
        seeds = (bits * places).sum(1) >> 32 & 0x7FFFFFFF
        return [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]


def _in_chunks(run: Callable[[Tensor], Tensor], items: Tensor, size: int) -> Tensor:
    """`run` of each chunk of the items, one after the other; chunks that the memory does not hold in halves."""
    return torch.cat([_in_halves(run, part) for part in items.split(size)])


def _in_halves(run: Callable[[Tensor], Tensor], items: Tensor) -> Tensor:
    try:
        return run(items)
    except torch.OutOfMemoryError:
        if len(items) == 1:
            raise
    return torch.cat([_in_halves(run, part) for part in items.chunk(2)])
