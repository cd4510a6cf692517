"""Factories in the user's own modules, and what is wrong with those that give no model."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS, Preprocess
from cfcam_gpu.models import load_model
from tests.helpers.load_models import problem

_MODULE = """
    import torch
    from torch import nn
    from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS, Preprocess
    from cfcam_gpu.models import LoadedModel
    from helpers import channels

    def build(num_classes=4):
        return nn.Sequential(nn.Conv2d(3, channels, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                             nn.Linear(channels, num_classes)).train()

    def fixed(): return build()
    def needs(depth): return build()
    def number(): return 7
    def breaks(): raise KeyError("backbone\\nsecond line")
    def leaves(): raise SystemExit(2)
    class Factory:
        make = staticmethod(build)
    constant = 3
    gray = Preprocess((8, 8), (0.25,), (0.5,))
    def small_gray(): return nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    def pair(): return small_gray(), gray
    def published(): return build(), PUBLISHED_PREPROCESS
    def swapped(): return gray, build()
    def loaded(): return LoadedModel(small_gray(), gray, ("ill", "well"), "my net", "trained")
"""


@pytest.fixture
def user_module(project: Path) -> Path:
    (project / "mine").mkdir()
    (project / "helpers.py").write_text("channels = 6\n")
    (project / "mine" / "models.py").write_text(textwrap.dedent(_MODULE))
    return project


@pytest.mark.parametrize(
    ("factory", "classes", "outputs"), [("build", None, 4), ("build", 9, 9), ("Factory.make", 2, 2)]
)
def test_factory_of_a_module_in_the_current_folder(
    user_module: Path, factory: str, classes: int | None, outputs: int
) -> None:
    loaded = load_model(f"py:mine.models:{factory}", num_classes=classes)
    assert loaded.model(torch.zeros(1, 3, 8, 8)).shape == (1, outputs)
    assert not loaded.model.training
    assert loaded.preprocess == PUBLISHED_PREPROCESS
    assert sys.path[0] == str(user_module)


def test_factory_may_give_its_preprocessing_too(user_module: Path, caplog: pytest.LogCaptureFixture) -> None:
    gray = Preprocess((8, 8), (0.25,), (0.5,))
    pair, loaded = (load_model(f"py:mine.models:{name}") for name in ("pair", "loaded"))
    assert pair.preprocess == loaded.preprocess == gray
    assert (pair.class_names, loaded.class_names) == (None, ("ill", "well"))
    assert (loaded.spec, loaded.weights) == ("my net", "trained")
    assert load_model("py:mine.models:published").preprocess == PUBLISHED_PREPROCESS
    assert not caplog.messages
    torch.save(pair.model.state_dict(), user_module / "w.pth")
    own = load_model("py:mine.models:pair", weights="w.pth", size=(16, 16))
    assert own.preprocess == Preprocess((16, 16), (0.25,), (0.5,))


@pytest.mark.usefixtures("user_module")
def test_an_assumed_preprocessing_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    load_model("py:mine.models:build")
    gray = load_model("py:mine.models:small_gray").preprocess
    assert (gray.mean, gray.std, gray.size) == ((0.449,), (0.226,), (224, 224))
    known: dict[str, Any] = {"mean": (0.5,), "std": (0.5,)}
    assert load_model("py:mine.models:small_gray", **known).preprocess.mean == (0.5,)
    end = "are assumed; pass --mean and --std as in training"
    start = "how images were prepared for the weights of py:mine.models:"
    assert caplog.messages == [
        f"{start}build is not known: ImageNet's mean and std {end}",
        f"{start}small_gray is not known: ImageNet's mean and std, averaged to gray, {end}",
    ]


def test_factory_takes_weights(user_module: Path) -> None:
    trained = load_model("py:mine.models:build", num_classes=2).model
    torch.save(trained.state_dict(), user_module / "w.pth")
    loaded = load_model("py:mine.models:build", num_classes=2, weights="w.pth")
    assert torch.equal(loaded.model.get_parameter("3.weight"), trained.get_parameter("3.weight"))
    assert "pass --num-classes 2" in problem("py:mine.models:build", weights="w.pth")


@pytest.mark.parametrize(
    ("factory", "classes", "message"),
    [
        ("fixed", 2, "called with num_classes=2 does not work: got an unexpected keyword argument 'num_classes'; "
                     "change the factory's parameters"),
        ("needs", None, "called with no arguments does not work: missing a required argument: 'depth'; "
                        "change the factory's parameters"),
        ("number", None, "must return a torch.nn.Module, a pair of it and a Preprocess, or a LoadedModel, got int"),
        ("swapped", None, "must return a torch.nn.Module, a pair of it and a Preprocess, or a LoadedModel, got "
                          "(Preprocess, Sequential)"),
        ("breaks", None, "called with no arguments raised KeyError: 'backbone\\nsecond line'"),
        ("leaves", None, "called with no arguments raised SystemExit: 2"),
        ("constant", None, "must be a function or class, got int"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("user_module")
def test_factories_that_give_no_model(factory: str, classes: int | None, message: str) -> None:
    spec = f"py:mine.models:{factory}"
    assert problem(spec, num_classes=classes) == f"{spec} {message}"


def test_missing_modules_and_names(user_module: Path) -> None:
    (user_module / "typo.py").write_text("import nowhere_to_be_found\n")
    (user_module / "broken.py").write_text("def f(:\n")
    (user_module / "script.py").write_text("raise SystemExit('usage: script.py FILE')\n")
    hint = "; run cfcam in the folder that contains it, or install it"
    assert problem("py:mine.nets:build") == (
        f"cannot import mine.nets (ModuleNotFoundError: No module named 'mine.nets'){hint}"
    )
    assert problem("py:typo:build") == (
        "cannot import typo (ModuleNotFoundError: No module named 'nowhere_to_be_found')"
    )
    assert problem("py:broken:f").startswith(
        "cannot import broken (SyntaxError: invalid syntax (broken.py, line 1"
    )
    assert problem("py:script:f") == "cannot import script (SystemExit: usage: script.py FILE)"
    assert problem("py:mine.models:biuld") == (
        "py:mine.models:biuld: mine.models has no 'biuld'; did you mean build?"
    )
