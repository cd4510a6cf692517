"""The options of a model travel to other processes and load it there."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import torch

from cfcam_gpu.images.preprocess import Preprocess
from cfcam_gpu.models import ModelOptions, load_model


def test_options_load_the_model_in_another_process(tmp_path: Path) -> None:
    """Pickled as the bound method `load`, which a distributed run sends to its actors."""
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    options = ModelOptions(
        "torchvision:squeezenet1_1@none",
        None,
        None,
        2,
        names,
        (64, 48),
        None,
        (0.1, 0.2, 0.3),
        (0.4, 0.5, 0.6),
    )
    load = pickle.loads(pickle.dumps(options.load))
    loaded = load()
    assert loaded.spec == "torchvision:squeezenet1_1@none"
    assert loaded.preprocess == Preprocess((64, 48), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert loaded.class_names == ("cat", "dog")
    assert loaded.model(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


def test_options_are_the_arguments_of_load_model() -> None:
    arguments = list(inspect.signature(load_model).parameters)
    fields = [field.name for field in dataclasses.fields(ModelOptions)]
    assert fields[0] == "model"
    assert arguments[0] == "spec"
    assert set(fields[1:]) == set(arguments[1:])


def test_options_and_choices_need_no_pytorch() -> None:
    """The command's --help reads them."""
    code = """
import sys
from cfcam_gpu.models import FORMS, PRECISIONS, ModelOptions
assert "timm:NAME" in FORMS and "bfloat16" in PRECISIONS and ModelOptions().model == "efficientnet-lite0"
assert "torch" not in sys.modules and "numpy" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
