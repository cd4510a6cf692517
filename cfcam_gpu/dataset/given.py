"""What a run is given in Python, as the run takes it: objects as samples, a module as a loaded model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar

from torch import nn

from cfcam_gpu._utils.messages import unknown
from cfcam_gpu.capture.scoring import Scoring
from cfcam_gpu.dataset.execution.local import Model
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.dataset.sources.object_kinds import is_object, object_samples
from cfcam_gpu.errors import ConfigError
from cfcam_gpu.models.given import as_preprocess, loaded_module
from cfcam_gpu.models.options import ModelOptions

Options = TypeVar("Options", bound=RunOptions)


@dataclass(frozen=True)
class Given(Generic[Options]):
    """The arguments of a run.

    Attributes:
        inputs: paths or samples.
    """

    inputs: Any
    model: Model
    options: Options


def with_settings(options: Options, settings: Mapping[str, Any]) -> Options:
    """The options with other values of the fields that the settings name.

    Raises:
        ConfigError: a name that is no field, or a value that its field does not take.

    Example:
        >>> with_settings(RunOptions(), {"method": "Grad-CAM"}).method
        'gradcam'
    """
    of_models = {field.name for field in fields(ModelOptions)}
    for name in settings:
        if name in _TOLD_LATER:
            raise ConfigError(f"{name} is no setting of a run; {_TOLD_LATER[name]}")
        if name not in (known := [field.name for field in fields(options)]):
            about_models = "; load_model takes it, whose result is a model here" if name in of_models else ""
            raise ConfigError(f"{unknown('setting', name, known)}{about_models}")
    return replace(options, **settings)


#: Options of the command that are functions in Python.
_TOLD_LATER = {"report": "call cfcam_gpu.report.write_report(out) after it"}


def as_given(
    inputs: Any,
    model: Model | nn.Module,
    options: Options,
    preprocess: Any = None,
    class_names: Sequence[str] | None = None,
) -> Given[Options]:
    """The arguments of a run, with the samples of a data set that is an object, and a module as a loaded model.

    Arguments as for `explain_dataset`.

    Raises:
        InputError: a data set that cannot be explained.
        ConfigError: settings that do not fit an object or a module; a preprocessing without a module.
    """
    if not isinstance(model, nn.Module) and (preprocess is not None or class_names is not None):
        raise ConfigError(
            "preprocess and class_names are for a module; other models bring their own, leave them out"
        )
    if isinstance(model, nn.Module):
        preprocess = as_preprocess(preprocess)
    inputs = _listed(inputs)
    likely_names = None
    if is_object(inputs):
        given = object_samples(inputs)
        inputs, likely_names = given.samples, given.class_names
        options = _in_this_process(options) if given.in_memory else options
    if isinstance(model, nn.Module):
        model = partial(
            loaded_module,
            model,
            preprocess,
            class_names,
            likely_names=likely_names,
            scoring=Scoring(options.model_activation, options.output),
        )
    return Given(inputs, model, options)


def _listed(inputs: Any) -> Any:
    """Paths or samples of an iterator as a list; anything else as it is."""
    if not isinstance(inputs, Iterator):
        return inputs
    first = list(islice(inputs, 1))
    return [*first, *inputs] if first and not is_object(first) else inputs


def _in_this_process(options: Options) -> Options:
    """The options of a run whose images only this process has. Raises ConfigError for others."""
    if options.workers or options.distributed:
        name = "distributed" if options.distributed else "workers"
        raise ConfigError(
            f"{name} is for image files, which other processes can read; a data set in memory is read by this process, "
            f"leave {name} out"
        )
    return replace(options, workers=0)
