"""`py:package.module:factory`: models made by the user's own code."""

from __future__ import annotations

import difflib
import importlib
import inspect
import operator
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

from torch import nn

from cfcam_gpu._utils.messages import did_you_mean, one_line
from cfcam_gpu.errors import ModelError
from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS, Preprocess
from cfcam_gpu.models.kinds import KINDS
from cfcam_gpu.models.loaded import LoadedModel
from cfcam_gpu.models.request import Request


def load(request: Request) -> LoadedModel:
    """The model that the factory returns. Raises ModelError."""
    module_name, _, attribute = request.name.partition(":")
    if not module_name or not attribute:
        raise ModelError(f"{request.spec}: expected {KINDS['py'].form}, such as py:my_project.models:build")
    factory = _attribute(_user_module(module_name), attribute, request.spec)
    made = _call(factory, request.model_arguments(), request.spec)
    if isinstance(made, LoadedModel):
        return replace(made, preprocess=replace(made.preprocess))
    model, preprocess = made, PUBLISHED_PREPROCESS
    if isinstance(made, (tuple, list)) and len(made) == 2 and isinstance(made[1], Preprocess):
        # A copy: what the factory gives is not a guess, even where it is `PUBLISHED_PREPROCESS` itself.
        model, preprocess = made[0], replace(made[1])
    if not isinstance(model, nn.Module):
        got = f"({', '.join(type(one).__name__ for one in made)})" if isinstance(made, tuple) else ""
        raise ModelError(
            f"{request.spec} must return a torch.nn.Module, a pair of it and a Preprocess, or a LoadedModel, got "
            f"{got or type(model).__name__}"
        )
    return LoadedModel(model, preprocess, None, request.spec, "as the factory made them")


def _user_module(name: str) -> ModuleType:
    """Imports the module, looking into the current folder first, as `python -m` does."""
    if sys.path[0] not in ("", os.getcwd()):
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        missing = isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.")
        hint = "; run cfcam in the folder that contains it, or install it" if missing else ""
        raise ModelError(f"cannot import {name} ({one_line(error)}){hint}") from error


def _attribute(module: ModuleType, attribute: str, spec: str) -> Callable[..., Any]:
    try:
        factory: Any = operator.attrgetter(attribute)(module)
    except AttributeError as error:
        names = [name for name in vars(module) if not name.startswith("_")]
        close = did_you_mean(difflib.get_close_matches(attribute, names, n=3))
        raise ModelError(f"{spec}: {module.__name__} has no {attribute!r}{close}") from error
    if not callable(factory):
        raise ModelError(f"{spec} must be a function or class, got {type(factory).__name__}")
    return factory


def _call(factory: Callable[..., Any], arguments: dict[str, int], spec: str) -> Any:
    call = f"{spec} called with {', '.join(f'{k}={v}' for k, v in arguments.items()) or 'no arguments'}"
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise ModelError(f"{call} does not work: {error}; change the factory's parameters") from error
    except ValueError:
        pass  # some callables have no signature that Python can read; calling them shows whether it fits
    try:
        return factory(**arguments)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise ModelError(f"{call} raised {one_line(error)}") from error
