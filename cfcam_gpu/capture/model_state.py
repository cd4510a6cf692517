"""The state a model is explained in, and its return to the one it came in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from cfcam_gpu.errors import CaptureError


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`'s and the data-parallel wrappers; it shares its parameters with them.

    Compiled and replicated code does not run hooks set later, so the module itself is explained, eagerly.
    """
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(model, wrappers) or hasattr(model, "_orig_mod"):
        inner = model.module if isinstance(model, wrappers) else model._orig_mod
        assert isinstance(inner, nn.Module)
        model = inner
    return model


@contextlib.contextmanager
def explainable(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, frozen, run eagerly and outside inference mode; all undone on leaving."""
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise CaptureError(
            "the model's parameters were created under torch.inference_mode and cannot take part in a "
            "backward pass; create or load the model outside of it"
        )
    training = [module for module in model.modules() if module.training]
    thawed = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with contextlib.ExitStack() as stack:
        # Compiled code would not run the hooks.
        if any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in model.modules()):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(torch.inference_mode(False))
        try:
            for module in training:
                module.training = False
            for parameter in thawed:
                parameter.requires_grad_(False)
            yield
        finally:
            for module in training:
                module.training = True
            for parameter in thawed:
                parameter.requires_grad_(True)
