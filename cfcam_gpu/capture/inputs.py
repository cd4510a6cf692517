"""Models that take more than a tensor of images: further arguments, or a mapping as a processor returns it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from cfcam_gpu._utils.messages import listed
from cfcam_gpu._utils.undo import Undo
from cfcam_gpu.capture.model_state import share_lock
from cfcam_gpu.capture.scoring import describe
from cfcam_gpu.errors import CaptureError

#: Name of the images in the mappings of transformers.
_PIXELS = "pixel_values"


@dataclass(frozen=True)
class FurtherInputs:
    """What a model takes beside its images.

    Attributes:
        key: name under which the model takes the images; None: as its first argument.
        args: further positional arguments.
        kwargs: further arguments by name.
    """

    key: str | None = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def of_each_image(self, batch: int) -> bool:
        """Whether a tensor among them has the images' batch axis."""
        return batch > 1 and any(_has_rows(value, batch) for value in (*self.args, *self.kwargs.values()))

    def bound(self, model: nn.Module, batch: int) -> nn.Module:
        """The model as a function of the images alone; it shares its modules and parameters with `model`.

        A tensor whose first axis is as long as the batch is a row for each image. For a number of images other than
        `batch`, as where a layer is chosen by made-up images, each gets the first row.

        Example:
            >>> import torch
            >>> class Shifted(nn.Module):
            ...     def forward(self, images, shift):
            ...         return images.mean((2, 3)) + shift
            >>> shift = torch.tensor([[1.0], [2.0]])
            >>> FurtherInputs(args=(shift,)).bound(Shifted(), batch=2)(torch.zeros(2, 1, 4, 4)).flatten()
            tensor([1., 2.])
        """
        bound = copy.copy(model)
        # The model's own compiled call takes all inputs.
        bound.__dict__["_compiled_call_impl"] = None
        share_lock(bound, model)

        def forward(images: Tensor) -> Any:
            args = [_rows(value, batch, len(images)) for value in self.args]
            kwargs = {name: _rows(value, batch, len(images)) for name, value in self.kwargs.items()}
            if self.key is None:
                args.insert(0, images)
            else:
                kwargs[self.key] = images
            undo = Undo()
            try:
                # Somebody may have replaced the model's own forward, so that must run.
                undo.add(vars(model).update, {"training": model.training})
                model.training = bound.training
                output = model.forward(*args, **kwargs)
                return output
            finally:
                undo.run()

        bound.forward = forward
        return bound

    def check_views(self, size: tuple[int, int]) -> None:
        """Refuses further inputs that have the images' height and width, where the images are resized or mirrored.

        Raises:
            CaptureError: there is such an input.
        """
        names = [f"forward_args[{place}]" for place in range(len(self.args))]
        inputs = dict(zip(names, self.args, strict=True)) | dict(self.kwargs)
        alike = [
            name
            for name, value in inputs.items()
            if isinstance(value, Tensor) and value.ndim > 2 and tuple(value.shape[-2:]) == size
        ]
        if alike:
            raise CaptureError(
                f"scales and flip change the images alone, but {listed(alike)} has their height and width too; leave "
                "scales and flip out"
            )


def _has_rows(value: Any, batch: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == batch


def _rows(value: Any, batch: int, images: int) -> Any:
    if images == batch or not _has_rows(value, batch):
        return value
    return value[:1].expand(images, *value.shape[1:])


def split_inputs(
    images: Any,
    forward_args: Sequence[Any] = (),
    forward_kwargs: Mapping[str, Any] | None = None,
    named: Mapping[str, Any] | None = None,
) -> tuple[Any, FurtherInputs | None]:
    """The images of a call, and what the model takes beside them; None: nothing.

    Args:
        images: the images, or a mapping of all inputs; None: `named` holds them.
        forward_args, forward_kwargs: further arguments of the model.
        named: inputs by the model's own names.

    Raises:
        CaptureError: no images, several tensors that may be them, or arguments of another type.

    Example:
        >>> import torch
        >>> images, further = split_inputs(None, named={"pixel_values": torch.ones(1, 3, 8, 8), "mask": None})
        >>> images.shape, further
        (torch.Size([1, 3, 8, 8]), FurtherInputs(key='pixel_values', args=(), kwargs={'mask': None}))
    """
    if not isinstance(forward_args, (tuple, list)):
        raise CaptureError(
            f"forward_args must be a tuple of further inputs, got {describe(forward_args)}; a single one is (input,)"
        )
    if not isinstance(forward_kwargs, (Mapping, type(None))):
        raise CaptureError(
            f"forward_kwargs must be a dictionary of further inputs by name, got {describe(forward_kwargs)}"
        )
    kwargs = dict(forward_kwargs or {})
    if isinstance(images, Mapping):
        named, images = {**images, **(named or {})}, None
    if images is None and named:
        key = _images_key(named)
        rest = {name: value for name, value in named.items() if name != key}
        return named[key], FurtherInputs(key, tuple(forward_args), {**rest, **kwargs})
    if named:
        raise CaptureError(
            f"unknown argument {listed(sorted(named))}; pass what the model takes beside the images as forward_args or "
            "forward_kwargs"
        )
    return images, FurtherInputs(None, tuple(forward_args), kwargs) if forward_args or kwargs else None


def _images_key(named: Mapping[str, Any]) -> str:
    if _PIXELS in named:
        return _PIXELS
    possible = [
        name
        for name, value in named.items()
        if isinstance(value, Tensor) and value.ndim in (4, 5) and value.is_floating_point()
    ]
    if len(possible) == 1:
        return possible[0]
    got = ", ".join(f"{name}: {describe(value)}" for name, value in named.items())
    raise CaptureError(
        f"which of the inputs are the images is not clear ({got}); pass them first and the others as forward_kwargs"
    )
