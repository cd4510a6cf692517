"""Weights files: wrappers and prefixes, files that do not fit or hold no weights, files that would run code."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from cfcam_gpu.models import load_model
from tests.helpers.load_models import RESNET, Trap, problem

SAVE = "save them with torch.save(model.state_dict(), FILE)"


def _wrapped(key: str, prefix: str = "") -> Any:
    return lambda state: {key: {prefix + name: value for name, value in state.items()}, "epoch": 7}


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda state: state, id="plain"),
        pytest.param(_wrapped("state_dict"), id="state_dict"),
        pytest.param(_wrapped("model_state_dict", "module."), id="model_state_dict, module."),
        pytest.param(_wrapped("model", "module._orig_mod."), id="model, two prefixes"),
        pytest.param(lambda state: {"model": _wrapped("state_dict")(state)}, id="two wrappers"),
        pytest.param(
            lambda state: {key: value for key, value in state.items() if "num_batches_tracked" not in key},
            id="without the batch counters",
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_wrapped_weights_load(tmp_path: Path, resnet2: nn.Module, wrap: Any, suffix: str) -> None:
    torch.save(wrap(resnet2.state_dict()), tmp_path / f"w{suffix}")
    loaded = load_model(RESNET, weights=str(tmp_path / f"w{suffix}"), num_classes=2)
    state = loaded.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in resnet2.state_dict().items())


def test_safetensors_load(tmp_path: Path, resnet2: nn.Module) -> None:
    state = {f"module.{key}": value for key, value in resnet2.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    loaded = load_model(RESNET, weights=tmp_path / "w.safetensors", num_classes=2)
    assert torch.equal(loaded.model.get_parameter("fc.weight"), resnet2.get_parameter("fc.weight"))


def test_wrong_number_of_classes_is_never_ignored_and_the_right_one_is_named(checkpoint: Path) -> None:
    assert problem(RESNET, weights=checkpoint) == (
        f"the weights {checkpoint} do not fit {RESNET}: 2 with another shape (fc.weight: file (2, 512), "
        "model (1000, 512), fc.bias: file (2,), model (1000,)); pass --num-classes 2"
    )


def test_head_of_another_name_is_explained(tmp_path: Path, resnet2: nn.Module) -> None:
    """As training scripts replace the head: model.fc = nn.Sequential(nn.Dropout(), nn.Linear(512, 2))."""
    state = {f"module.{name.replace('fc.', 'fc.1.')}": value for name, value in resnet2.state_dict().items()}
    torch.save(state, tmp_path / "dropout.pth")
    assert problem(RESNET, weights=tmp_path / "dropout.pth") == (
        f"the weights {tmp_path / 'dropout.pth'} do not fit {RESNET}: 2 missing (fc.weight, fc.bias), "
        "2 unexpected (fc.1.weight, fc.1.bias); only the name of a layer differs, fc.1 in the file, behind a Dropout "
        "or another layer without weights in an nn.Sequential fc, fc in the model: write a function that makes the "
        "model with that head and pass --model py:MODULE:FUNCTION, or rename the tensors; pass --num-classes 2"
    )
    state = {name.replace("fc.", "head."): value for name, value in resnet2.state_dict().items()}
    torch.save(state, tmp_path / "head.pth")
    message = problem(RESNET, weights=tmp_path / "head.pth", num_classes=2)
    assert message.endswith(
        "; only the name of a layer differs, head in the file, fc in the model: write a function that makes the "
        "model with that head and pass --model py:MODULE:FUNCTION, or rename the tensors"
    )


def test_weights_of_another_model_list_the_first_names_and_the_counts(
    tmp_path: Path, checkpoint: Path
) -> None:
    """One list each of missing, unexpected and differing tensors, five names at most."""
    state = torch.load(checkpoint, weights_only=True)
    state = {key.replace("layer4.", "stage4."): value for key, value in state.items()}
    state["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    torch.save(state, tmp_path / "other.pth")
    assert problem(RESNET, weights=tmp_path / "other.pth", num_classes=2) == (
        f"the weights {tmp_path / 'other.pth'} do not fit {RESNET}: "
        "25 missing (layer4.0.conv1.weight, layer4.0.bn1.weight, layer4.0.bn1.bias, layer4.0.bn1.running_mean, "
        "layer4.0.bn1.running_var, …), "
        "30 unexpected (stage4.0.conv1.weight, stage4.0.bn1.weight, stage4.0.bn1.bias, stage4.0.bn1.running_mean, "
        "stage4.0.bn1.running_var, …), "
        "1 with another shape (conv1.weight: file (64, 3, 3, 3), model (64, 3, 7, 7))"
    )


class _OwnClass(nn.Module):
    """Stands for a user's model, pickled whole."""


def _content_cases() -> list[Any]:
    conv = nn.Conv2d(1, 1, 1)
    damaged = "are damaged or not a weights file ("
    dictionary = "must be a dictionary of tensors, got"
    return [
        pytest.param("a.pth", b"", "are an empty file; copy or download it again", id="empty"),
        pytest.param(
            "a.pth", b"\n<!DOCTYPE html>", "are a web page, not weights; download the file itself", id="page"
        ),
        pytest.param(
            "a.pth",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "are a Git LFS pointer, not weights; run git lfs pull",
            id="pointer",
        ),
        pytest.param("a.pth", b"\x00\x01junk" * 50, damaged, id="junk"),
        pytest.param("a.pth", b"PK\x03\x04" + b"\0" * 60, damaged, id="damaged archive"),
        pytest.param("a.safetensors", b"\x08\0\0\0\0\0\0\0{}", damaged, id="damaged safetensors"),
        pytest.param("a.pth", [torch.zeros(1)], f"{dictionary} list; {SAVE}", id="list"),
        pytest.param("a.pth", torch.zeros(1), f"{dictionary} Tensor; {SAVE}", id="tensor"),
        pytest.param("a.pth", {}, f"{dictionary} an empty one; {SAVE}", id="nothing"),
        pytest.param(
            "a.pth",
            {"epoch": 3, "my_net": conv.state_dict()},
            f"{dictionary} epoch: int, my_net: OrderedDict; pass --weights-key my_net",
            id="unknown wrapper",
        ),
        pytest.param(
            "a.pth",
            _OwnClass(),
            f"hold pickled Python objects ({__name__}._OwnClass), which could run code and are not loaded; "
            "save tensors only: torch.save(model.state_dict(), FILE), or once, of a checkpoint that you trust: "
            "torch.save(torch.load(OLD, weights_only=False)[ENTRY], FILE)",
            id="whole model",
        ),
        pytest.param(
            "a.pth",
            {"state_dict": conv.state_dict(), "best_auc": np.float64(0.93)},
            "hold pickled Python objects (numpy",
            id="NumPy number",
        ),
    ]


@pytest.mark.parametrize(("name", "content", "message"), _content_cases())
def test_files_that_hold_no_weights(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    assert problem(RESNET, weights=path).startswith(f"the weights {path} {message}")


def test_torchscript_archive_is_named(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2)).save(tmp_path / "w.pt")
    assert "are a TorchScript archive, expected a dictionary of tensors" in problem(
        RESNET, weights=tmp_path / "w.pt"
    )


def test_cut_weights_file_is_damaged(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "cut.pth").write_bytes(checkpoint.read_bytes()[:100_000])
    assert "are damaged or not a weights file (" in problem(RESNET, weights=tmp_path / "cut.pth")


def test_weights_paths_that_are_no_file(tmp_path: Path) -> None:
    ending = "; give a .pth, .pt or .safetensors file"
    missing = tmp_path / "none.pth"
    assert problem(RESNET, weights=missing) == f"the weights {missing} do not exist{ending}"
    assert (
        problem(RESNET, weights=tmp_path) == f"the weights {tmp_path} cannot be read (Is a directory){ending}"
    )


@pytest.mark.parametrize("pickled", [lambda trap, path: torch.save({"a": trap}, path), None])
def test_code_in_a_weights_file_does_not_run(tmp_path: Path, pickled: Any) -> None:
    trap, path = Trap(tmp_path / "sprung"), tmp_path / "w.pth"
    if pickled:
        pickled(trap, path)
    else:
        path.write_bytes(pickle.dumps({"a": trap}))
    assert "the weights" in problem(RESNET, weights=path)
    assert not (tmp_path / "sprung").exists()
