"""Each name of pytorch-grad-cam is in the table of docs/coming-from.md, which says what the code does."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from cfcam_gpu import ConfigError
from cfcam_gpu.compat import pytorch_grad_cam as ours

theirs = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not installed")

PAGE = Path(__file__).parents[2] / "docs" / "coming-from.md"
PACKAGE = "cfcam_gpu.compat.pytorch_grad_cam"


def their_modules() -> list[str]:
    """Paths of their modules below the package."""
    found = pkgutil.walk_packages(theirs.__path__, "pytorch_grad_cam.")
    return [module.name.partition(".")[2] for module in found]


def public(module: str) -> list[str]:
    """Classes and functions that one of their modules defines."""
    name = f"pytorch_grad_cam.{module}"
    content = vars(importlib.import_module(name))
    return [
        key
        for key, value in content.items()
        if not key.startswith("_") and getattr(value, "__module__", "") == name
    ]


def rows() -> list[tuple[str, str, str]]:
    """Of each name in the first column: the module before the colon, the name, the second column."""
    table = (
        PAGE.read_text(encoding="utf-8").partition("| there | here | what differs |")[2].partition("\n\n")[0]
    )
    found = []
    for line in table.splitlines()[2:]:
        there, here = (cell.strip() for cell in line.split("|")[1:3])
        module, _, names = there.rpartition("`: ")
        found += [(module.strip("`"), name, here) for name in re.findall(r"`?(\w+)`", names)]
    return found


THERE = [(module, name) for module in their_modules() for name in public(module)]


def test_each_of_their_classes_and_functions_is_in_the_table_once():
    names = [name for _, name, _ in rows()]
    assert len(names) > 60
    assert sorted(names) == sorted({name for _, name in THERE})


@pytest.mark.parametrize(("module", "name", "here"), rows())
def test_the_table_says_what_an_import_does(module: str, name: str, here: str):
    package = f"{PACKAGE}.{module}".rstrip(".")
    if here == "same name":
        assert callable(getattr(importlib.import_module(package), name))
        return
    with pytest.raises(
        ImportError, match="keep importing it from pytorch_grad_cam, or see the table in docs"
    ):
        exec(f"from {package} import {name}")


@pytest.mark.parametrize(("module", "name"), THERE)
def test_each_name_comes_from_the_module_that_it_has_there_or_is_told_to_be_missing(module: str, name: str):
    here = sys.modules.get(f"{PACKAGE}.{module}")
    if here and name in vars(here):
        exec(f"from {PACKAGE}.{module} import {name}")
        return
    with pytest.raises(ImportError, match="keep importing it from pytorch_grad_cam"):
        exec(f"from {PACKAGE}.{module} import {name}")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("KPCA_CAM", "EigenCAM"),
        ("FullGrad", "LayerCAM"),
        ("SESS", "scales="),
        ("metrics", "cfcam_gpu.metrics"),
    ],
)
def test_the_error_names_what_is_near(name: str, nearest: str):
    with pytest.raises(ImportError, match=f"has no {name} .*{nearest}"):
        exec(f"from {PACKAGE} import {name}")


@pytest.mark.parametrize("module", [PACKAGE, f"{PACKAGE}.utils.image", f"{PACKAGE}.utils.model_targets"])
def test_other_names_are_missed_as_everywhere(module: str):
    assert not hasattr(importlib.import_module(module), "another")
    with pytest.raises(ImportError, match="cannot import name 'another'"):
        exec(f"from {module} import another")
    assert importlib.util.find_spec(f"{PACKAGE}.another") is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"use_cuda": True}, "where the model is"),
        ({"ablation_layer": nn.Identity()}, "layers of every kind"),
        ({"k": 3}, "FEM's is 2"),
        ({"gamma": 3}, "leave out gamma"),
    ],
)
def test_arguments_that_are_not_taken_are_named_with_the_reason(options: dict[str, Any], reason: str):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    with pytest.raises(ConfigError, match=f"GradCAM takes model, target_layers and .*{reason}"):
        ours.GradCAM(model, [model[0]], **options)


def test_each_argument_of_their_constructors_is_in_the_table():
    arguments = {
        argument
        for _, name in THERE
        if inspect.isclass(kind := getattr(theirs, name, None)) and issubclass(kind, theirs.GradCAM.__base__)
        for argument in list(inspect.signature(kind.__init__).parameters)[1:]
    }
    table = PAGE.read_text(encoding="utf-8").partition("| there | here |\n")[2]
    named = re.findall(r"`(\w+)`", table)
    assert {"model", "kernel", "k", "ratio_channels_to_ablate"} <= arguments <= {*named}


CLASSES = sorted(
    name
    for name in dir(ours)
    if inspect.isclass(getattr(theirs, name, None))
    and inspect.isclass(getattr(ours, name))
    and name != "BaseCAM"
)


@pytest.mark.parametrize("name", CLASSES)
def test_constructors_take_their_arguments_in_their_order_with_their_defaults(name: str):
    """But for the layer that Ablation-CAM needs there, and the base method, which is this package's own."""

    def arguments(kind: type) -> list[tuple[str, Any]]:
        parameters = inspect.signature(kind.__init__).parameters.values()  # type: ignore[misc]
        return [
            (one.name, "a class" if one.name == "base_method" else one.default)
            for one in parameters
            if one.kind is not one.VAR_KEYWORD and one.name != "ablation_layer"
        ]

    assert arguments(getattr(ours, name)) == arguments(getattr(theirs, name))


def test_values_that_are_the_only_ones_here_are_taken():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten())
    layers = [model[3]]
    assert ours.AblationCAM(model, layers, None, None, 16, 1.0).batch_size == 16
    ours.FEM(model, layers, None, 2)
    for kind, options, reason in (
        (ours.AblationCAM, {"ratio_channels_to_ablate": 0.5}, "every channel is ablated"),
        (ours.AblationCAM, {"ablation_layer": nn.Identity()}, "layers of every kind"),
        (ours.FEM, {"k": 3}, "FEM's is 2"),
        (ours.RefineCAM, {"base_method": ours.FEM, "k": 3}, "FEM takes .*FEM's is 2"),
        (ours.RefineCAM, {"uses_gradients": False}, "the method decides"),
    ):
        with pytest.raises(ConfigError, match=reason):
            kind(model, layers, **options)


def test_what_they_do_inside_is_missed_with_a_hint():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    cam = ours.GradCAM(model, [model[0]])
    assert not hasattr(cam, "get_cam_weights")
    with pytest.raises(AttributeError, match=r"has no 'activations_and_grads': .*features\(images\)"):
        _ = cam.activations_and_grads

    class Own(ours.BaseCAM):
        pass

    with pytest.raises(ConfigError, match="Own has no method; a subclass needs `method`"):
        Own(model, [model[0]])
