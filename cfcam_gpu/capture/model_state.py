"""The state a model is explained in; on leaving, the model is as it was given."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cfcam_gpu._utils.checks import Check, Ended, never_ends
from cfcam_gpu._utils.precision import leave_inference_mode, use_gradients, without_modes
from cfcam_gpu._utils.switches import SharedSwitch
from cfcam_gpu._utils.undo import Undo, each
from cfcam_gpu.capture.hooks import add_hook
from cfcam_gpu.errors import CaptureError

#: The stance holds for the whole process.
_NOT_COMPILED = SharedSwitch(lambda: torch.compiler.set_stance("force_eager"))


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`'s and the data-parallel wrappers; it shares its parameters with them.

    Compiled and replicated code does not run hooks that are set later, so the module inside is explained.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> unwrapped(nn.DataParallel(layer)) is layer
        True
    """
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(model, wrappers) or hasattr(model, "_orig_mod"):
        inner = model.module if isinstance(model, wrappers) else model._orig_mod
        assert isinstance(inner, nn.Module)
        model = inner
    return model


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Every module of the model, once; several times as fast as `Module.modules`, as each call needs them.

    Example:
        >>> relu = nn.ReLU()
        >>> len(modules_of(nn.Sequential(relu, relu)))
        2
    """
    modules: dict[nn.Module, None] = {}
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if module not in modules:
            modules[module] = None
            waiting.extend(child for child in module._modules.values() if child is not None)
    return list(modules)


def is_compiled(module: nn.Module) -> bool:
    """Whether `torch.compile` wraps this module, or `Module.compile` was called.

    Example:
        >>> is_compiled(nn.ReLU()), is_compiled(torch.compile(nn.ReLU()))
        (False, True)
    """
    return "_orig_mod" in module._modules or module._compiled_call_impl is not None


@contextlib.contextmanager
def explainable(model: nn.Module) -> Iterator[None]:
    """Within it the model is in eval mode, frozen, not compiled and outside inference mode.

    Raises:
        CaptureError: the model's parameters were made under inference mode.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> with explainable(model):
        ...     model.training, model.weight.requires_grad
        (False, False)
        >>> model.training, model.weight.requires_grad
        (True, True)
    """
    undo = Undo()
    try:
        make_explainable(model, undo)
        yield
    finally:
        undo.run()


def make_explainable(model: nn.Module, undo: Undo) -> None:
    """As `explainable`, until `undo` runs; other threads that want the model so wait until then.

    The same thread may do it again. A model and a part of it, explained as a model of its own by another
    thread, do not wait for each other.

    Raises:
        CaptureError: as `explainable`.
    """
    lock = _lock(model)
    undo.change(lock.acquire, lock.release)
    modules = modules_of(model)
    parameters = [p for module in modules for p in module._parameters.values() if p is not None]
    if any(parameter.is_inference() for parameter in parameters):
        raise CaptureError(
            "the model's parameters were created under torch.inference_mode and cannot take part in a "
            "backward pass; create or load the model outside of it"
        )
    # Compiled code would not run the hooks.
    if any(map(is_compiled, modules)):
        _NOT_COMPILED.hold(undo)
    leave_inference_mode(undo)
    use_gradients(undo, enabled=torch.is_grad_enabled())
    training = [module for module in modules if module.training]
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    undo.add(each(dict.update, [vars(module) for module in training], {"training": True}))
    undo.add(without_modes(each(Tensor.requires_grad_, trainable)))
    for module in training:
        module.training = False
    for parameter in trainable:
        parameter.requires_grad = False


#: A lock for each model that was explained, which one thread may take several times.
_LOCKS: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()


def share_lock(copied: nn.Module, model: nn.Module) -> None:
    """Has threads that explain the copy of a model, with the same modules in it, wait for those of the model.

    Example:
        >>> share_lock(nn.ReLU(), nn.ReLU())
    """
    _LOCKS[copied] = _lock(model)


def _lock(model: nn.Module) -> Any:
    return _LOCKS.get(model) or _LOCKS.setdefault(model, threading.RLock())


def check_between(model: nn.Module, device: torch.device, check: Check, undo: Undo) -> None:
    """Call `check` now and, until `undo` runs, before each module of the model that runs on the CPU.

    There a pass of a large model takes seconds, and whoever ends it should not wait for its end.

    Example:
        >>> calls, undo = [], Undo()
        >>> model = nn.Sequential(nn.ReLU(), nn.ReLU())
        >>> check_between(model, torch.device("cpu"), lambda: calls.append(1), undo)
        >>> _ = model(torch.zeros(1))
        >>> undo.run()
        >>> len(calls)
        4
    """
    check()
    if check is not never_ends and device.type == "cpu":

        def between(*_arguments: object) -> None:
            try:
                check()
            except Exception as error:
                raise Ended(error) from error

        for module in modules_of(model):
            add_hook(module._forward_pre_hooks, between, undo)
