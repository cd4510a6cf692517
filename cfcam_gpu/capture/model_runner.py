"""A model that is run again, on changed images or with changed outputs of its target layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cfcam_gpu._utils.checks import Check, never_ends
from cfcam_gpu._utils.device import out_of_memory
from cfcam_gpu._utils.precision import use_autocast, use_gradients
from cfcam_gpu._utils.undo import Undo, until
from cfcam_gpu.capture import Capture, capture
from cfcam_gpu.capture.failures import run_model
from cfcam_gpu.capture.hooks import replace_outputs
from cfcam_gpu.capture.inputs import FurtherInputs
from cfcam_gpu.capture.layers import TargetLayer
from cfcam_gpu.capture.layouts import ChannelsFirst
from cfcam_gpu.capture.model_state import check_between, make_explainable
from cfcam_gpu.capture.scoring import Scoring
from cfcam_gpu.capture.targets import Targets
from cfcam_gpu.errors import CaptureError

#: Changed images, or changed outputs of the layer, of one pass of the model. In bytes.
CHUNK_BYTES = {"cpu": 16 * 2**20, "cuda": 256 * 2**20}

#: Most images of one pass on the CPU, so that it takes about a second at most and can be ended after it.
CPU_IMAGES = 8


@dataclass(frozen=True)
class ModelRunner:
    """A model around its target layer, run again on changed inputs; nothing stays in the model.

    Any number of inputs is passed in chunks, which are halved where the memory does not hold one.

    Attributes:
        calls: number of the run of the layer that counts, from 1: usually the last of a forward pass.
        autocast: dtype of the caller's autocast, under which every pass runs as well; None: none.
        check: called before every pass of the model; raises to end the computation.
        scoring: how the logits are read from the model's output.
        raw: whether logits are as the model puts them out, for targets that are functions; else those of all
            classes.
        asked: the run of the layer as the caller asked for it, from 0; negative: counted from the last.
        further: what the model takes beside the images.

    Example:
        >>> from cfcam_gpu.capture import find_layer
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 2))
        >>> runner = ModelRunner(model, find_layer(model, "1"), calls=1)
        >>> runner.logits(torch.rand(20, 3, 8, 8)).shape
        torch.Size([20, 2])
    """

    model: nn.Module
    layer: TargetLayer
    calls: int
    autocast: torch.dtype | None = None
    check: Check = never_ends
    scoring: Scoring = field(default_factory=Scoring)
    raw: bool = False
    asked: int = -1
    further: FurtherInputs | None = None

    def logits(self, images: Tensor) -> Tensor:
        """(N,classes) float32 of images (N,3,H,W) in the model's dtype, without gradients."""
        undo = Undo()
        try:
            self._make_ready(images.device, undo)
            logits = _in_chunks(self._run, images, self.images_at_once(images[0]))
            return logits
        finally:
            undo.run()

    def logits_of_activations(self, image: Tensor, activations: Tensor) -> Tensor:
        """(N,classes) float32 of one image (1,3,H,W) with each of N maps (N,C,h,w) as the layer's output.

        The layers before the target layer run once per chunk, on the one image. Those behind it run on
        the N maps, each a batch of its own (`torch.vmap`). Where the model does not allow that, the
        image is repeated N times instead.
        """

        def run(chunk: Tensor) -> Tensor:
            try:
                return torch.vmap(lambda maps: self._run_replaced(image, maps[None])[0])(chunk)
            except RuntimeError as error:
                if out_of_memory(error):
                    raise
                return _in_chunks(repeated, chunk, self.images_at_once(image[0]))

        def repeated(chunk: Tensor) -> Tensor:
            return self._run_replaced(image.expand(len(chunk), *image.shape[1:]), chunk)

        undo = Undo()
        try:
            self._make_ready(image.device, undo)
            level: Any = torch._C._functorch.maybe_current_level
            undo.add(until(level, level(), torch._C._functorch._vmap_decrement_nesting))
            logits = _in_chunks(run, activations, self.at_once(activations[0]))
            return logits
        finally:
            undo.run()

    def capture(self, images: Tensor, targets: Targets, **more: Any) -> Capture:
        """As `capture.capture`: activations and gradients of images (B,3,H,W); `more` are further arguments."""
        undo = Undo()
        try:
            self._use_autocast(images.device, undo)
            captured = capture(
                self.model,
                self.layer,
                images,
                targets,
                scoring=self.scoring,
                check=self.check,
                **{"call": self.calls - 1, **more},
            )
            return captured
        finally:
            undo.run()

    def at_once(self, item: Tensor) -> int:
        """How many tensors like this one go through the model in one pass.

        Example:
            >>> ModelRunner(nn.ReLU(), TargetLayer("", nn.ReLU()), calls=1).at_once(torch.zeros(2**20))
            4
        """
        chunk = CHUNK_BYTES.get(item.device.type, CHUNK_BYTES["cuda"])
        return max(1, chunk // max(1, item.numel() * item.element_size()))

    def images_at_once(self, image: Tensor) -> int:
        """How many images like this one (3,H,W) go through the model in one pass."""
        count = self.at_once(image)
        return min(count, CPU_IMAGES) if image.device.type == "cpu" else count

    def _run(self, images: Tensor) -> Tensor:
        undo = Undo()
        try:
            check_between(self.model, images.device, self.check, undo)
            output = run_model(self.model, images)
        finally:
            undo.run()
        return (self.scoring.logits if self.raw else self.scoring.class_logits)(output).float()

    def _run_replaced(self, images: Tensor, activations: Tensor) -> Tensor:
        calls = 0
        layout = self.layer.layout or ChannelsFirst()

        def replace(output: Any) -> Any:
            nonlocal calls
            calls += 1
            # A copy: an in-place operation may follow.
            return layout.put_back(activations, output).clone() if calls == self.calls else output

        undo = Undo()
        try:
            replace_outputs(self.layer, replace, undo)
            logits = self._run(images)
        finally:
            undo.run()
        if calls < self.calls:
            raise CaptureError(
                f"target layer {self.layer.label!r} ran {calls} times in a forward pass, {self.calls} times "
                "in the one before; choose a layer that always runs as often"
            )
        return logits

    def _make_ready(self, device: torch.device, undo: Undo) -> None:
        make_explainable(self.model, undo)
        use_gradients(undo, enabled=False)
        self._use_autocast(device, undo)

    def _use_autocast(self, device: torch.device, undo: Undo) -> None:
        if self.autocast is not None:
            use_autocast(device.type, self.autocast, undo)


def _in_chunks(run: Callable[[Tensor], Tensor], items: Tensor, size: int) -> Tensor:
    """`run` of each chunk of the items, joined; a chunk that the memory does not hold is halved."""
    return torch.cat([_in_halves(run, chunk) for chunk in items.split(size)])


def _in_halves(run: Callable[[Tensor], Tensor], items: Tensor) -> Tensor:
    try:
        return run(items)
    except (RuntimeError, MemoryError) as error:
        if len(items) == 1 or not out_of_memory(error):
            raise
    return torch.cat([_in_halves(run, half) for half in items.chunk(2)])
